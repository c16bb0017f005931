//! The network from a guest's point of view: a guest made of smoltcp on one end of the link, real
//! sockets of the host on the other.

#![expect(
    clippy::unwrap_used,
    reason = "the setting that allows it in tests does not reach helper functions"
)]

mod configure;
mod dns;
mod guest;
mod join;
mod link;
mod load;
mod lookups;
mod outsiders;
mod policy;
mod published;
mod rig;
mod robust;
mod tcp;
mod udp;
