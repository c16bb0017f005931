//! User-mode TCP/IP for a guest: Ethernet frames in, flows out.
//!
//! The guest's only [`Link`] carries Ethernet frames to this crate, which plays the gateway: it answers ARP,
//! neighbour discovery, ping and every DNS query itself, and turns each TCP connection into a [`Flow`]. A connection
//! request is held until the policy has allowed it and the host's own connect has succeeded, so for the guest refused
//! is refused, unreachable is unreachable, and nothing is accepted that cannot be reached.
//!
//! ```no_run
//! use std::sync::Arc;
//! use msb_net::Config;
//! use msb_policy::NetworkPolicy;
//!
//! # async fn example(link: tokio::net::UnixStream) -> Result<(), Box<dyn std::error::Error>> {
//! let policy = Arc::new(NetworkPolicy::parse("public,host")?);
//! let (network, mut flows) = msb_net::start(link, Config::new(policy));
//! while let Some(mut flow) = flows.recv().await {
//!     println!("{} {:?}", flow.destination, flow.names);
//!     tokio::spawn(async move {
//!         tokio::io::copy_bidirectional(&mut flow.guest, &mut flow.upstream).await
//!     });
//! }
//! drop(network);
//! # Ok(())
//! # }
//! ```
//!
//! # How it is built
//! `frame`, `packet`, `reply`, `pool`, `tcp`, `table`, `timers`, `dns` and `engine` work on buffers and a time that is passed
//! in; `io` holds the sockets and tasks. One task per network owns all flows; a [`FlowStream`] works directly on its
//! flow's TCP buffers, so data is copied once on its way from a frame to the reader.
//!
//! # Limits
//! UDP other than DNS is refused (ICMP port unreachable), as are IP fragments (dropped) and echo requests to other
//! hosts than the gateway (ICMP prohibited). There is no DHCP and no router advertisement: the guest is told its
//! addresses ([`Addresses`]) another way. TCP segments and IP checksums are always verified; there are no offloads.

#![forbid(unsafe_code)]

mod action;
mod config;
mod dns;
mod engine;
mod event;
mod frame;
mod io;
mod packet;
mod pool;
mod reply;
mod stream;
mod table;
mod tcp;
mod timers;

pub use config::{Addresses, Config, DEFAULT_MAX_FLOWS, DEFAULT_MTU, HostEntry, MIN_MTU};
pub use event::{Event, EventSink};
pub use io::{Flow, Link, Network, is_own_address, start};
pub use stream::{FlowReset, FlowStream};
