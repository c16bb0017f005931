//! User-mode TCP/IP for a guest: Ethernet frames in, flows out.
//!
//! The guest's only [`Link`] carries Ethernet frames to this crate, which plays the gateway: it answers ARP,
//! neighbour discovery, DHCP, router solicitations, pings to itself and every DNS query, turns each TCP connection into a [`Flow`], and relays
//! datagrams and pings through sockets of the host. A connection
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
//! while let Some(flow) = flows.recv().await {
//!     println!("{} {:?}", flow.destination, flow.names);
//!     tokio::spawn(flow.relay());
//! }
//! drop(network);
//! # Ok(())
//! # }
//! ```
//!
//! # How it is built
//! `frame`, `packet`, `fragments`, `reply`, `pool`, `tcp`, `table`, `timers`, `dns` and `engine` work on buffers and a time that is passed
//! in; `io` holds the sockets and tasks. One task per network owns all flows; a [`FlowStream`] works directly on its
//! flow's TCP buffers, so data is copied once on its way from a frame to the reader. [`Flow::relay`] reads and writes sockets out of and
//! into those.
//!
//! # Limits
//! Datagrams and echo requests are relayed by flow, a pair of ends (and an identifier): [`Config::max_udp_flows`] at
//! once, each for two minutes (one for echo requests) after its last packet. What the policy denies is answered with
//! ICMP "communication administratively prohibited", so that nobody looks for the fault at the server; a closed port
//! of the server is told as such, and an unreachable host as far as a socket is told so. Echo requests need a host
//! that lets its users send them (`net.ipv4.ping_group_range`). Packets with fewer than 32 hops left are prohibited by the
//! gateway, so traceroute ends there: nothing is told of the host's network. Other ICMP is dropped.
//!
//! IP packets in fragments are put together, 32 at once, within 30 s each, from 128 fragments at most; one whose fragments
//! overlap is given up whole. Options in IPv6 extension headers are not looked at. A guest that asks by DHCP is told the
//! one address of [`Addresses`]; one that asks for routers may also make up an address in the prefix, for every source
//! is answered. [`Network::counters`] tells what was dropped and why.
//!
//! [`Config::egress`] and [`Config::ingress`] are token buckets over whole frames: what is over them waits, by the link not being
//! read, or by flows not being served; a frame may be ahead of its time, and is waited for after it. Connections, datagrams and
//! clients of published ports come in turn where there is too little for all. At [`Config::max_flows`] new connections are
//! reset, but for those that carried nothing for two hours and four minutes, which make place.
//!
//! Of what name servers have answered, 2 MiB are kept, no longer than they hold; 64 lookups are under way at once, and others
//! wait as part of their [time](Config::query_timeout). Of refusals and failures a hundred a second are told, and how many more
//! there were ([`Event::Omitted`]).
//!
//! TCP segments and IP checksums are always verified; there are no offloads.

#![forbid(unsafe_code)]

mod action;
mod config;
mod counters;
mod dns;
mod engine;
mod event;
mod fragments;
mod frame;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod io;
mod packet;
mod policy;
mod pool;
mod published;
mod rate;
mod reply;
mod stream;
mod table;
mod tcp;
mod timers;

pub use config::{
    Addresses, Config, DEFAULT_MAX_FLOWS, DEFAULT_MAX_UDP_FLOWS, DEFAULT_MTU,
    DEFAULT_QUERY_TIMEOUT, DatagramFilter, HostEntry, MIN_MTU,
};
pub use counters::Counters;
pub use event::{Event, EventSink};
pub use io::{
    Flow, Judge, Link, NameService, Network, SecureNames, SecureNamesSink, is_own_address, start,
};
pub use published::PublishedPort;
pub use rate::{Rate, Rates};
pub use stream::{FlowReset, FlowStream};
