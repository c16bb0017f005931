//! What was reported a moment ago, so that a guest which repeats itself does not fill the log.

use std::net::SocketAddr;

use smoltcp::time::{Duration, Instant};

/// How long the same is not reported again.
const PAUSE: Duration = Duration::from_secs(1);
/// Destinations remembered; the oldest is forgotten first.
const REMEMBERED: usize = 32;

/// The last few destinations that were reported.
#[derive(Debug, Default)]
pub(super) struct Recent {
    reported: [Option<(SocketAddr, Instant)>; REMEMBERED],
    /// Where the next goes.
    next: usize,
}

impl Recent {
    /// Whether `destination` is to be reported now. Its time counts from then on.
    pub(super) fn is_new(&mut self, destination: SocketAddr, now: Instant) -> bool {
        let mut known = self.reported.iter().flatten();
        if known.any(|(known, at)| *known == destination && *at + PAUSE > now) {
            return false;
        }
        self.reported[self.next] = Some((destination, now));
        self.next = (self.next + 1) % REMEMBERED;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_destination_is_reported_once_a_second() {
        let (mut recent, start) = (Recent::default(), Instant::from_secs(9));
        let (a, b) = (
            "192.0.2.1:1".parse().unwrap(),
            "192.0.2.1:2".parse().unwrap(),
        );
        let reports: Vec<_> = [
            (a, 0),
            (a, 1),
            (b, 1),
            (a, 999),
            (a, 1_000),
            (b, 1_000),
            (b, 1_001),
        ]
        .into_iter()
        .map(|(to, at)| recent.is_new(to, start + Duration::from_millis(at)))
        .collect();
        assert_eq!(reports, [true, false, true, false, true, false, true]);
    }
}
