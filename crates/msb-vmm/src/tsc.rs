//! The frequency of the host's time stamp counter.

use std::time::{Duration, Instant};

/// How long the counter is watched. The reading's error is that of two paired readings (under 1 µs each on a
/// quiet core) over this time, so about 1 in 10,000: the guest kernel itself accepts 1 in 100 and refines later.
const WATCH: Duration = Duration::from_millis(8);
/// Paired readings at each end; the tightest is taken, so that being preempted in one does not count.
const READINGS: u32 = 16;

/// Measures the time stamp counter's frequency in kHz against the monotonic clock. Takes about 8 ms.
pub fn tsc_khz() -> u64 {
    let start = paired_reading();
    std::thread::sleep(WATCH);
    let end = paired_reading();
    let nanoseconds = end.1.duration_since(start.1).as_nanos().max(1);
    let ticks = u128::from(end.0.wrapping_sub(start.0));
    u64::try_from(ticks * 1_000_000 / nanoseconds).unwrap_or(u64::MAX)
}

/// The counter and the clock at one moment.
fn paired_reading() -> (u64, Instant) {
    let mut best: Option<(Duration, u64, Instant)> = None;
    for _ in 0..READINGS {
        let before = Instant::now();
        let ticks = read_counter();
        let width = before.elapsed();
        if best.is_none_or(|(narrowest, ..)| width < narrowest) {
            best = Some((width, ticks, before + width / 2));
        }
    }
    best.map_or_else(
        || (read_counter(), Instant::now()),
        |(_, ticks, at)| (ticks, at),
    )
}

fn read_counter() -> u64 {
    // SAFETY: RDTSC has no operands and touches no memory; Linux leaves it enabled in user mode (CR4.TSD clear)
    // unless a process asks otherwise for itself (PR_SET_TSC), which nothing here does.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_measurements_agree_with_each_other() {
        let (a, b) = (tsc_khz(), tsc_khz());
        assert!(a > 100_000, "{a} kHz is slower than any x86-64 processor");
        assert!(
            a.abs_diff(b) * 100 < a,
            "{a} and {b} kHz differ by over 1 %"
        );
    }
}
