//! Packets the gateway makes itself: ARP and NDP answers, echo replies, ICMP errors, datagrams and
//! resets. Each function appends one whole packet to a [`FrameWriter`](crate::frame::FrameWriter).

mod configure;
mod icmp;
mod ip;
mod neighbor;
mod quote;
mod transport;

pub(crate) use configure::{dhcp_message, router_advert};
pub(crate) use icmp::{EchoReply, echo_reply, unreachable};
pub(crate) use ip::Link;
pub(crate) use neighbor::{arp, neighbor_advert};
pub(crate) use quote::{Quote, Unreachable};
pub(crate) use transport::{datagram, reset};
