//! What the proxy decides, without doing I/O: bytes, heads and facts in, decisions out.

pub(crate) mod beginning;
pub(crate) mod body;
pub(crate) mod forward;
pub(crate) mod framing;
pub(crate) mod hangups;
pub(crate) mod head;
pub(crate) mod hello;
pub(crate) mod opening;
pub(crate) mod protocol;
pub(crate) mod response;
pub(crate) mod tunnel;
pub(crate) mod websocket;
