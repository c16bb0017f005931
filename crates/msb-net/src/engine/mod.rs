//! The gateway: frames, finished connects and resolved names go in; frames, actions and a wake-up
//! time come out. It opens no sockets and waits for nothing; `io::drive` does that.
//!
//! Order of calls: any number of `handle_*`, then [`poll`](Engine::poll), then write
//! [`out`](Engine::out) and carry out [`poll_action`](Engine::poll_action); call `poll` again at
//! [`poll_timeout`](Engine::poll_timeout), when the [`ReadyQueue`] changes, or after writing.

mod configure;
mod core;
mod dns;
mod icmp;
mod ingress;
mod recent;
mod relay;
mod replace;
mod tcp;
mod udp;

#[cfg(test)]
mod tests;

pub(crate) use core::Engine;
pub(crate) use dns::record;
pub(crate) use ingress::Client;
