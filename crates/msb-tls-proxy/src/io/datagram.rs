//! Datagrams, which are never intercepted: each is searched by itself.

use std::net::SocketAddr;
use std::sync::Mutex;

use bytes::Bytes;
use msb_policy::PinTable;

use super::plain::known_host;
use crate::{Event, PlainConfig};

/// Whether a datagram of the guest may be sent to `destination`. As in [`relay_plain`](crate::relay_plain) nobody knows who is
/// at the other end, so any placeholder in it is a violation, which is told. Each datagram is searched by itself: what
/// begins in one and ends in the next is not found.
pub fn may_send(
    payload: &[u8],
    destination: SocketAddr,
    pins: &Mutex<PinTable>,
    config: &PlainConfig,
) -> bool {
    let secrets = (config.secrets)();
    if secrets.is_empty() {
        return true;
    }
    let mut search = secrets.plain();
    let found = search
        .push(Bytes::copy_from_slice(payload))
        .err()
        .or_else(|| search.finish().err());
    let Some(violation) = found else {
        return true;
    };
    (config.events)(Event::Violation {
        host: known_host(pins, destination.ip()),
        port: destination.port(),
        method: None,
        path: None,
        violation,
        action: config.on_violation,
    });
    false
}
