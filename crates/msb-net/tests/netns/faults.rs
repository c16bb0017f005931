//! A link that loses, repeats, reorders, corrupts and cuts up what it carries, between the TAP device and the stack. What it does
//! follows from a seed.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use msb_net::Link;

use crate::rig::{Rig, authority, gateways, output, pattern, tool, web_server};
use crate::transfer;

const ETHERNET_HEADER_LEN: usize = 14;

/// How many frames of a thousand something happens to.
#[derive(Clone, Copy, Debug, Default)]
struct Faults {
    seed: u64,
    lost: u64,
    repeated: u64,
    /// Sent after the frame that comes after it.
    late: u64,
    /// One octet behind the Ethernet header is another; not in ARP, which has no checksum against it.
    corrupt: u64,
    /// Preceded by a frame of nonsense.
    nonsense: u64,
    /// Whether the stream is written in pieces of a few octets.
    cut: bool,
}

/// Numbers that look random and follow from a seed (splitmix64).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `bound`, which is not 0.
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }
}

/// One direction of the link.
struct Way {
    faults: Faults,
    chance: Chance,
    late: Option<Vec<u8>>,
    /// How often something has happened.
    hits: Arc<AtomicU64>,
}

impl Way {
    fn new(faults: Faults, salt: u64, hits: &Arc<AtomicU64>) -> Self {
        Self {
            faults,
            chance: Chance(faults.seed ^ salt),
            late: None,
            hits: Arc::clone(hits),
        }
    }

    fn happens(&mut self, per_mille: u64) -> bool {
        let happens = self.chance.next() % 1000 < per_mille;
        self.hits.fetch_add(u64::from(happens), Ordering::Relaxed);
        happens
    }

    /// What comes out for a frame that went in.
    fn pass(&mut self, mut frame: Vec<u8>) -> Vec<Vec<u8>> {
        let faults = self.faults;
        let mut out = Vec::new();
        if self.happens(faults.nonsense) {
            let mut nonsense = frame[..ETHERNET_HEADER_LEN].to_vec();
            let len = self.chance.below(200);
            nonsense.extend((0..len).map(|_| u8::try_from(self.chance.below(256)).unwrap()));
            out.push(nonsense);
        }
        let is_ip = matches!(frame[12..14], [8, 0] | [0x86, 0xdd]);
        if is_ip && self.happens(faults.corrupt) {
            let at = ETHERNET_HEADER_LEN + self.chance.below(frame.len() - ETHERNET_HEADER_LEN);
            frame[at] ^= 1 << self.chance.below(8);
        }
        if self.happens(faults.lost) {
            return out;
        }
        if self.happens(faults.repeated) {
            out.push(frame.clone());
        }
        if self.late.is_none() && self.happens(faults.late) {
            self.late = Some(frame);
            return out;
        }
        out.push(frame);
        out.extend(self.late.take());
        out
    }
}

/// A stream link whose other end is the device, through both ways. The threads end with the device and the link.
fn faulty(tap: OwnedFd, faults: Faults, hits: &Arc<AtomicU64>) -> Link {
    let (ours, link) = UnixStream::pair().unwrap();
    let mut device = File::from(tap);
    rustix::io::ioctl_fionbio(&device, false).unwrap();
    let (mut to_device, mut from_engine) = (device.try_clone().unwrap(), ours.try_clone().unwrap());
    let (mut up, mut down) = (Way::new(faults, 1, hits), Way::new(faults, 2, hits));
    std::thread::spawn(move || -> io::Result<()> {
        let (mut frame, mut to_engine) = (vec![0; 70_000], ours);
        loop {
            let len = device.read(&mut frame)?;
            for frame in up.pass(frame[..len].to_vec()) {
                let prefix = u32::try_from(frame.len()).unwrap().to_be_bytes();
                let framed = [&prefix[..], &frame].concat();
                let mut rest = &framed[..];
                while !rest.is_empty() {
                    let len = match faults.cut {
                        true => rest.len().min(1 + up.chance.below(1_000)),
                        false => rest.len(),
                    };
                    to_engine.write_all(&rest[..len])?;
                    rest = &rest[len..];
                }
            }
        }
    });
    std::thread::spawn(move || -> io::Result<()> {
        loop {
            let mut prefix = [0; 4];
            from_engine.read_exact(&mut prefix)?;
            let mut frame = vec![0; u32::from_be_bytes(prefix) as usize];
            from_engine.read_exact(&mut frame)?;
            for frame in down.pass(frame) {
                to_device.write_all(&frame)?;
            }
        }
    });
    link.set_nonblocking(true).unwrap();
    tokio::net::UnixStream::from_std(link).unwrap().into()
}

/// Megabytes arrive as they were sent, both ways, in both families.
#[track_caller]
fn check(mtu: u16, len: usize, faults: Faults) {
    let Some(curl) = tool("curl") else {
        return;
    };
    let configure = |config: &mut msb_net::Config| config.mtu = mtu;
    let hits = Arc::default();
    let Some(rig) = Rig::over("host", configure, |tap| faulty(tap, faults, &hits)) else {
        return;
    };
    let port = web_server();
    for gateway in gateways() {
        let url = format!("http://{}/{len}", authority(gateway, port));
        let got = output(rig.guest.command(&curl).args(["-sS", &url]));
        assert!(got.status.success(), "{faults:?} {url}: {got:?}");
        assert!(got.stdout == pattern(len), "{faults:?} {url}");
        assert_eq!(
            transfer::put(&rig, &curl, &url, len),
            b"same",
            "{faults:?} {url}"
        );
    }
    assert!(
        faults.cut || hits.load(Ordering::Relaxed) > 0,
        "nothing went wrong"
    );
}

#[test]
fn transfers_arrive_intact_over_a_link_that_loses_frames() {
    check(
        1_500,
        1_000_000,
        Faults {
            seed: 1,
            lost: 20,
            ..Faults::default()
        },
    );
    check(
        65_520,
        4_000_000,
        Faults {
            seed: 2,
            lost: 50,
            ..Faults::default()
        },
    );
}

#[test]
fn transfers_arrive_intact_over_a_link_that_repeats_frames() {
    check(
        1_500,
        1_000_000,
        Faults {
            seed: 3,
            repeated: 100,
            ..Faults::default()
        },
    );
    check(
        65_520,
        4_000_000,
        Faults {
            seed: 4,
            repeated: 300,
            ..Faults::default()
        },
    );
}

#[test]
fn transfers_arrive_intact_over_a_link_that_reorders_frames() {
    check(
        1_500,
        1_000_000,
        Faults {
            seed: 5,
            late: 50,
            ..Faults::default()
        },
    );
    check(
        65_520,
        4_000_000,
        Faults {
            seed: 6,
            late: 100,
            ..Faults::default()
        },
    );
}

#[test]
fn transfers_arrive_intact_over_a_link_that_corrupts_frames() {
    check(
        1_500,
        1_000_000,
        Faults {
            seed: 7,
            corrupt: 20,
            ..Faults::default()
        },
    );
    check(
        65_520,
        4_000_000,
        Faults {
            seed: 8,
            corrupt: 50,
            ..Faults::default()
        },
    );
}

#[test]
fn transfers_arrive_intact_over_a_link_that_is_written_in_pieces() {
    check(
        65_520,
        4_000_000,
        Faults {
            seed: 9,
            cut: true,
            ..Faults::default()
        },
    );
}

#[test]
fn transfers_arrive_intact_over_a_link_that_does_everything_wrong() {
    let faults = Faults {
        seed: 10,
        lost: 10,
        repeated: 20,
        late: 20,
        corrupt: 10,
        nonsense: 200,
        cut: true,
    };
    check(1_500, 1_000_000, faults);
    check(65_520, 2_000_000, faults);
}
