//! One search engine for every place a placeholder can stand in. Not aware of secrets, hosts or HTTP.
//!
//! [`Engine`] finds needles in all their forms in a buffer; [`Stream`] does so over chunks, and gives the same answer
//! for every way of cutting the input.

mod base64;
mod escape;
mod hay;
mod json;
mod key;
mod prefilter;
mod sampler;
mod search;
mod sorted;
mod stream;

pub(crate) use hay::Hay;
pub(crate) use json::Escape;
pub(crate) use key::Key;
pub(crate) use sampler::Cursor;
pub(crate) use search::{Engine, Found, Search};
pub(crate) use stream::Stream;

#[cfg(test)]
mod tests;
