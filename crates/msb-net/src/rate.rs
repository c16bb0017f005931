//! Token buckets (SPEC P7): how much may pass in a direction. Pure: the time is passed in.

use std::num::NonZeroU64;

use smoltcp::time::{Duration, Instant};

/// How much may pass: so much a second, and some at once after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Units a second.
    pub per_second: NonZeroU64,
    /// Units that may pass at once when nothing has passed for a while.
    pub burst: NonZeroU64,
}

impl Rate {
    /// A rate with a burst of a tenth of a second.
    #[must_use]
    pub fn per_second(units: NonZeroU64) -> Self {
        Self {
            per_second: units,
            burst: NonZeroU64::new(units.get() / 10).unwrap_or(NonZeroU64::MIN),
        }
    }
}

/// The bounds of one direction. What is over them waits, and is not dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Octets of frames, their headers included.
    pub bandwidth: Option<Rate>,
    /// Frames.
    pub ops: Option<Rate>,
}

/// What has passed, against the bounds of its direction.
///
/// A frame passes as soon as there is anything left, and its whole length counts: so the longest frame passes whatever the
/// burst, and what it was too long is waited for behind it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shaper {
    bandwidth: Bucket,
    ops: Bucket,
}

impl Shaper {
    pub(crate) fn new(rates: Rates, now: Instant) -> Self {
        Self {
            bandwidth: Bucket::new(rates.bandwidth, now),
            ops: Bucket::new(rates.ops, now),
        }
    }

    /// Octets and frames that may pass now; something may while both are positive.
    pub(crate) fn available(&mut self, now: Instant) -> (i64, i64) {
        (self.bandwidth.available(now), self.ops.available(now))
    }

    /// When something may pass; `None`: now.
    pub(crate) fn ready_at(&mut self, now: Instant) -> Option<Instant> {
        self.bandwidth.ready_at(now).max(self.ops.ready_at(now))
    }

    /// Notes what has passed.
    pub(crate) fn take(&mut self, octets: i64, frames: i64) {
        self.bandwidth.take(octets);
        self.ops.take(frames);
    }
}

/// Units are counted in millionths, which are what a rate a second gives in a microsecond.
const MILLION: i128 = 1_000_000;

/// One token bucket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    /// `None`: no bound.
    rate: Option<Rate>,
    /// At most the burst. Below zero: more has passed than was there.
    level: i128,
    /// When `level` was right.
    at: Instant,
}

impl Bucket {
    pub(crate) fn new(rate: Option<Rate>, now: Instant) -> Self {
        let level = rate.map_or(0, |rate| i128::from(rate.burst.get()) * MILLION);
        Self {
            rate,
            level,
            at: now,
        }
    }

    fn available(&mut self, now: Instant) -> i64 {
        let Some(rate) = self.rate else {
            return i64::MAX;
        };
        // A clock that stood still or went back gives nothing.
        let passed = i128::from((now.total_micros() - self.at.total_micros()).max(0));
        self.at = self.at.max(now);
        let full = i128::from(rate.burst.get()) * MILLION;
        self.level = full.min(self.level + passed * i128::from(rate.per_second.get()));
        // Part of a unit is none.
        i64::try_from(self.level.div_euclid(MILLION)).unwrap_or(i64::MAX)
    }

    pub(crate) fn ready_at(&mut self, now: Instant) -> Option<Instant> {
        if self.available(now) > 0 {
            return None;
        }
        let rate = self.rate?;
        let per_second = i128::from(rate.per_second.get());
        let missing = MILLION - self.level;
        let micros = (missing + per_second - 1) / per_second;
        Some(now + Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX / 4)))
    }

    pub(crate) fn take(&mut self, units: i64) {
        self.level -= i128::from(units) * MILLION;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rate(per_second: u64, burst: u64) -> Rate {
        Rate {
            per_second: per_second.try_into().unwrap(),
            burst: burst.try_into().unwrap(),
        }
    }

    #[test]
    fn without_bounds_everything_passes_at_once() {
        let now = Instant::from_secs(1);
        let mut shaper = Shaper::new(Rates::default(), now);
        shaper.take(i64::MAX / 2, i64::MAX / 2);
        assert_eq!(shaper.ready_at(now), None);
    }

    #[test]
    fn the_tighter_bound_counts() {
        let now = Instant::from_secs(1);
        let rates = Rates {
            bandwidth: Some(rate(1_000, 1_000)),
            ops: Some(rate(10, 1)),
        };
        let mut shaper = Shaper::new(rates, now);
        shaper.take(500, 1);
        assert_eq!(shaper.ready_at(now), Some(now + Duration::from_millis(100)));
        let now = now + Duration::from_millis(100);
        shaper.take(2_600, 1);
        assert_eq!(
            shaper.ready_at(now),
            Some(now + Duration::from_millis(2_001))
        );
    }

    proptest! {
        /// The oracle is the definition: in any time, no more than rate and burst allow, but for one frame; and who always
        /// has something to send gets no less.
        #[test]
        fn who_always_sends_gets_the_rate_and_no_more(
            per_second in 1_u64..10_000_000,
            burst in 1_u64..100_000,
            lens in proptest::collection::vec(1_i64..65_550, 1..60),
        ) {
            let start = Instant::from_secs(100);
            let bandwidth = Some(rate(per_second, burst));
            let mut shaper = Shaper::new(Rates { bandwidth, ops: None }, start);
            let (mut now, mut sent) = (start, 0_i128);
            for len in lens {
                if let Some(at) = shaper.ready_at(now) {
                    prop_assert!(at > now);
                    let before = at - Duration::from_micros(1);
                    prop_assert!(before <= now || shaper.ready_at(before).is_some(), "too late");
                    now = at;
                    prop_assert_eq!(shaper.ready_at(now), None);
                }
                let micros = i128::from((now - start).total_micros());
                let allowed = i128::from(burst) * MILLION + micros * i128::from(per_second);
                prop_assert!(sent * MILLION < allowed, "before a frame something is left");
                shaper.take(len, 1);
                sent += i128::from(len);
            }
        }
    }
}
