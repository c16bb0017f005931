//! Sockets, handshakes and bodies. What to do with them is decided in `session`.

pub(crate) mod body;
pub(crate) mod bridge;
pub(crate) mod client;
pub(crate) mod datagram;
pub(crate) mod dial;
pub(crate) mod exchange;
pub(crate) mod expect;
pub(crate) mod forward;
pub(crate) mod guard;
pub(crate) mod guest;
pub(crate) mod http2;
pub(crate) mod incoming;
mod intercept;
pub(crate) mod interim;
mod inward;
pub(crate) mod local;
mod overheard;
pub(crate) mod plain;
pub(crate) mod proxy;
pub(crate) mod raw;
mod rest;
pub(crate) mod stop;
pub(crate) mod stream;
pub(crate) mod websocket;
