//! How many of the guest's frames were dropped, and why. Counting allocates nothing and takes no lock.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why a frame, a packet or a message was dropped without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dropped {
    /// Not for the gateway's hardware address.
    OtherStation,
    /// Truncated, wrong checksum, or lengths that contradict each other.
    Malformed,
    /// A source or destination that no unicast packet has.
    Address,
    /// A protocol, or a message of one, that is not carried.
    Protocol,
    /// A fragment that overlaps another of its packet, or belongs to a packet that was given up for that.
    FragmentOverlap,
    /// A fragment of one packet too many, or one too many of its packet.
    FragmentLimit,
    /// A DNS message that is no query.
    Query,
    /// A datagram that [`Config::datagram_filter`](crate::Config::datagram_filter) does not let pass.
    Filter,
}

const REASONS: usize = 8;

/// The counters of one network.
#[derive(Debug, Default)]
pub(crate) struct DropCounters([AtomicU64; REASONS]);

impl DropCounters {
    pub(crate) fn count(&self, reason: Dropped) {
        self.0[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Counters {
        let read = |reason: Dropped| self.0[reason as usize].load(Ordering::Relaxed);
        Counters {
            other_station: read(Dropped::OtherStation),
            malformed: read(Dropped::Malformed),
            address: read(Dropped::Address),
            protocol: read(Dropped::Protocol),
            fragment_overlap: read(Dropped::FragmentOverlap),
            fragment_limit: read(Dropped::FragmentLimit),
            query: read(Dropped::Query),
            filter: read(Dropped::Filter),
        }
    }
}

/// What of the guest's was dropped without an answer since the network began, by reason. Frames that are longer than any
/// may be are not among it, nor what the link itself lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Frames for another hardware address than the gateway's.
    pub other_station: u64,
    /// Frames and packets that are truncated, have a wrong checksum, or lengths that contradict each other.
    pub malformed: u64,
    /// Packets from or to an address that no unicast packet has: multicast (mDNS, IGMP and the like), broadcast,
    /// unspecified.
    pub address: u64,
    /// Packets of protocols that are not carried, and ICMP messages nobody here takes.
    pub protocol: u64,
    /// Fragments that overlap others, which spoils their packet.
    pub fragment_overlap: u64,
    /// Fragments of more packets than may be incomplete at once, or more than one packet may have.
    pub fragment_limit: u64,
    /// DNS messages that are no queries, or that are too damaged to be answered.
    pub query: u64,
    /// Datagrams that [`Config::datagram_filter`](crate::Config::datagram_filter) did not let pass.
    pub filter: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_counted_by_itself() {
        let counters = DropCounters::default();
        let reasons = [
            Dropped::OtherStation,
            Dropped::Malformed,
            Dropped::Address,
            Dropped::Protocol,
            Dropped::FragmentOverlap,
            Dropped::FragmentLimit,
            Dropped::Query,
            Dropped::Filter,
        ];
        for (count, reason) in (1..).zip(reasons) {
            for _ in 0..count {
                counters.count(reason);
            }
        }
        let expected = Counters {
            other_station: 1,
            malformed: 2,
            address: 3,
            protocol: 4,
            fragment_overlap: 5,
            fragment_limit: 6,
            query: 7,
            filter: 8,
        };
        assert_eq!(counters.read(), expected);
    }
}
