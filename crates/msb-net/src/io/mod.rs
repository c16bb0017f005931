//! The I/O side: the loop that carries frames between the link and the engine, and the tasks that
//! connect, resolve names and serve DNS over TCP.

mod connect;
mod drive;
mod flow;
mod ingress;
mod join;
mod link;
mod names;
mod relay;
mod resolve;

pub use connect::is_own_address;
pub use drive::{Network, start};
pub use flow::{Flow, Judge};
pub use link::Link;
pub use names::{NameService, SecureNames, SecureNamesSink};
