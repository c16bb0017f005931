//! Name resolution for the guest: what to answer is decided here, without sockets or clocks.
//! Queries are parsed and answered with hickory-proto; asking upstream is `io::resolve`'s work.

mod cache;
mod responder;
mod svcb;

pub(crate) use cache::Cache;
pub(crate) use responder::{Answer, Plan, Question, Responder, Transport, Upstream};
