//! IP packets put together from fragments (RFC 791, 3.2; RFC 8200, 4.5). Bounded in number, length and time; a packet whose
//! fragments overlap is given up whole (RFC 5722), for two readers could read it as two.

use std::collections::HashMap;
use std::net::IpAddr;

use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv6Packet};

use crate::counters::Dropped;

/// How long the fragments of one packet may take to arrive (Linux's `ipfrag_time`).
const LIFETIME: Duration = Duration::from_secs(30);
/// Packets that may be incomplete at once. Each holds 64 KiB at most.
const MAX_PACKETS: usize = 32;
/// Fragments of one packet: of the longest, on a link of 576 octets (RFC 791's least) there are 119.
const MAX_FRAGMENTS: usize = 128;
/// Octets after the headers that no packet has more of.
const MAX_LEN: usize = u16::MAX as usize;

/// What fragments of one packet have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// IPv4 only: there the number is unique for each protocol.
    pub(crate) protocol: Option<IpProtocol>,
    pub(crate) ident: u32,
}

/// A piece of an IP packet, or one whose headers have to be taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fragment<'a> {
    pub(crate) key: Key,
    /// The IP header, without extension headers.
    pub(crate) header: &'a [u8],
    /// What follows the headers in the whole packet.
    pub(crate) protocol: IpProtocol,
    /// Where `data` is in it.
    pub(crate) offset: usize,
    pub(crate) is_last: bool,
    pub(crate) data: &'a [u8],
}

/// Packets of which some fragments are missing.
#[derive(Debug, Default)]
pub(crate) struct Reassembler {
    packets: HashMap<Key, Partial>,
}

#[derive(Debug)]
struct Partial {
    until: Instant,
    /// IP header and protocol, from the first fragment.
    first: Option<(Vec<u8>, IpProtocol)>,
    data: Vec<u8>,
    /// Where each fragment begins and ends, in order.
    ranges: Vec<(usize, usize)>,
    /// Octets in all, known from the last fragment.
    len: Option<usize>,
    /// Given up: what else comes of it is dropped.
    is_spoilt: bool,
}

impl Reassembler {
    /// Takes a fragment. `Ok(Some)`: an IP packet that is whole now.
    ///
    /// # Errors
    /// Why the fragment, and what came of its packet before, is dropped.
    pub(crate) fn insert(
        &mut self,
        now: Instant,
        fragment: &Fragment<'_>,
    ) -> Result<Option<Vec<u8>>, Dropped> {
        if fragment.offset == 0 && fragment.is_last {
            let packet = whole(fragment.header, fragment.protocol, fragment.data);
            return packet.map(Some).ok_or(Dropped::Malformed);
        }
        self.packets.retain(|_, partial| partial.until > now);
        if !self.packets.contains_key(&fragment.key) && self.packets.len() >= MAX_PACKETS {
            return Err(Dropped::FragmentLimit);
        }
        let partial = self.packets.entry(fragment.key).or_insert_with(|| Partial {
            until: now + LIFETIME,
            first: None,
            data: Vec::new(),
            ranges: Vec::new(),
            len: None,
            is_spoilt: false,
        });
        match partial.insert(fragment) {
            Ok(false) => Ok(None),
            Ok(true) => {
                let partial = self.packets.remove(&fragment.key);
                let packet = partial.and_then(|partial| {
                    let (header, protocol) = partial.first?;
                    whole(&header, protocol, &partial.data)
                });
                packet.map(Some).ok_or(Dropped::Malformed)
            }
            Err(reason) => {
                partial.is_spoilt = true;
                partial.data = Vec::new();
                Err(reason)
            }
        }
    }
}

impl Partial {
    /// Whether all is there now.
    fn insert(&mut self, fragment: &Fragment<'_>) -> Result<bool, Dropped> {
        let (start, end) = (fragment.offset, fragment.offset + fragment.data.len());
        if self.is_spoilt {
            return Err(Dropped::FragmentOverlap);
        }
        let is_cut = !fragment.is_last && (start == end || !end.is_multiple_of(8));
        if end > MAX_LEN || is_cut {
            return Err(Dropped::Malformed);
        }
        let place = self.ranges.partition_point(|(_, known)| *known <= start);
        match self.ranges.get(place) {
            // Sent twice on the way; nothing is gained by giving up on that.
            Some(known) if *known == (start, end) => return Ok(false),
            Some((known, _)) if *known < end => return Err(Dropped::FragmentOverlap),
            _ => {}
        }
        let beyond = self.len.is_some_and(|len| end > len);
        let conflict = fragment.is_last && (self.len.is_some() || self.data.len() > end);
        if beyond || conflict {
            return Err(Dropped::FragmentOverlap);
        }
        if self.ranges.len() >= MAX_FRAGMENTS {
            return Err(Dropped::FragmentLimit);
        }
        self.ranges.insert(place, (start, end));
        if self.data.len() < end {
            self.data.resize(end, 0);
        }
        self.data[start..end].copy_from_slice(fragment.data);
        if fragment.is_last {
            self.len = Some(end);
        }
        if start == 0 {
            self.first = Some((fragment.header.to_vec(), fragment.protocol));
        }
        let held: usize = self.ranges.iter().map(|(start, end)| end - start).sum();
        Ok(self.len == Some(held))
    }
}

/// The packet of `header` with `data`, as if it had never been in pieces. `None`: it would be too long.
fn whole(header: &[u8], protocol: IpProtocol, data: &[u8]) -> Option<Vec<u8>> {
    let mut packet = Vec::with_capacity(header.len() + data.len());
    packet.extend_from_slice(header);
    packet.extend_from_slice(data);
    match header.first()? >> 4 {
        4 => {
            let len = u16::try_from(packet.len()).ok()?;
            let mut ip = Ipv4Packet::new_unchecked(&mut packet);
            ip.set_total_len(len);
            ip.set_more_frags(false);
            ip.set_frag_offset(0);
            ip.fill_checksum();
        }
        _ => {
            let len = u16::try_from(data.len()).ok()?;
            let mut ip = Ipv6Packet::new_unchecked(&mut packet);
            ip.set_payload_len(len);
            ip.set_next_header(protocol);
        }
    }
    Some(packet)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: Instant = Instant::from_micros_const(5_000_000);

    fn fragment(ident: u32, (offset, len): (usize, usize), data: &[u8]) -> Fragment<'_> {
        const HEADER: [u8; 20] = [
            0x45, 0, 0, 0, 0, 0, 0x20, 0, 64, 17, 0, 0, 192, 0, 0, 2, 8, 8, 8, 8,
        ];
        Fragment {
            key: Key {
                source: [192, 0, 0, 2].into(),
                destination: [8, 8, 8, 8].into(),
                protocol: Some(IpProtocol::Udp),
                ident,
            },
            header: &HEADER,
            protocol: IpProtocol::Udp,
            offset,
            is_last: offset + len == data.len(),
            data: &data[offset..offset + len],
        }
    }

    /// What becomes of the fragments of 40 octets, given as offset and length.
    #[track_caller]
    fn check(pieces: &[(usize, usize)], expected: &[Result<bool, Dropped>]) {
        let data: Vec<u8> = (0..40).collect();
        let mut reassembler = Reassembler::default();
        let outcomes: Vec<_> = pieces
            .iter()
            .map(|&piece| {
                let whole = reassembler.insert(START, &fragment(1, piece, &data))?;
                Ok(whole.is_some_and(|packet| {
                    assert_eq!(packet[20..], data);
                    true
                }))
            })
            .collect();
        assert_eq!(outcomes, expected, "{pieces:?}");
    }

    #[test]
    fn overlaps_and_contradictions_spoil_the_whole_packet() {
        let overlap = Err(Dropped::FragmentOverlap);
        let malformed = Err(Dropped::Malformed);
        check(&[(0, 16), (16, 24)], &[Ok(false), Ok(true)]);
        check(
            &[(24, 16), (0, 8), (8, 16)],
            &[Ok(false), Ok(false), Ok(true)],
        );
        check(
            &[(0, 16), (0, 16), (16, 24)],
            &[Ok(false), Ok(false), Ok(true)],
        );
        check(
            &[(0, 16), (8, 16), (16, 24)],
            &[Ok(false), overlap, overlap],
        );
        check(&[(8, 8), (0, 24), (24, 16)], &[Ok(false), overlap, overlap]);
        check(&[(0, 24), (16, 24)], &[Ok(false), overlap]);
        check(&[(0, 12), (16, 24)], &[malformed, overlap]);
        check(&[(8, 0), (0, 8)], &[malformed, overlap]);
    }

    #[test]
    fn what_is_missing_for_too_long_or_too_many_is_dropped() {
        let data = [7; 40];
        let mut reassembler = Reassembler::default();
        let limit = u32::try_from(MAX_PACKETS).unwrap();
        for ident in 0..limit + 5 {
            let outcome = reassembler.insert(START, &fragment(ident, (0, 16), &data));
            let expected = if ident < limit {
                Ok(None)
            } else {
                Err(Dropped::FragmentLimit)
            };
            assert_eq!(outcome, expected);
        }
        let whole = reassembler.insert(START, &fragment(3, (16, 24), &data));
        assert!(matches!(whole, Ok(Some(_))), "old ones are not touched");
        let late = START + LIFETIME;
        let rest = reassembler.insert(late, &fragment(4, (16, 24), &data));
        assert_eq!(rest, Ok(None), "begins anew");
        assert_eq!(reassembler.packets.len(), 1);
    }

    proptest! {
        /// Whatever the order, and with some sent twice.
        #[test]
        fn a_packet_cut_and_shuffled_is_whole_again(
            lens in proptest::collection::vec(1_usize..80, 1..40),
            tail in 1_usize..8,
            order in any::<proptest::sample::Index>(),
            seed in any::<u64>(),
        ) {
            let mut pieces = Vec::new();
            let mut offset = 0;
            for len in &lens {
                pieces.push((offset, len * 8));
                offset += len * 8;
            }
            pieces.push((offset, tail));
            let data: Vec<u8> = (0..offset + tail).map(|at| at.to_le_bytes()[0]).collect();
            pieces.push(pieces[order.index(pieces.len())]);
            let mut state = seed | 1;
            for at in (1..pieces.len()).rev() {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                pieces.swap(at, usize::try_from(state >> 33).unwrap() % (at + 1));
            }
            let mut reassembler = Reassembler::default();
            let mut wholes = Vec::new();
            for piece in pieces {
                wholes.extend(reassembler.insert(START, &fragment(1, piece, &data)).unwrap());
            }
            prop_assert_eq!(wholes.len(), 1);
            prop_assert_eq!(&wholes[0][20..], &data[..]);
        }
    }
}
