//! The time of day, which the machine loses while it is paused.

use rustix::io;
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

const SECOND: i128 = 1_000_000_000;

/// Sets the clock to so many nanoseconds since 1970, unless it is there already, and tells how many it was behind.
pub(crate) fn set_forward(unix_ns: u64) -> io::Result<u64> {
    let behind = behind(clock_gettime(ClockId::Realtime), unix_ns);
    if let Some((time, _)) = behind {
        clock_settime(ClockId::Realtime, time)?;
    }
    Ok(behind.map_or(0, |(_, behind)| behind))
}

/// What to set it to, and how far it is behind that; `None` if it is not.
fn behind(now: Timespec, unix_ns: u64) -> Option<(Timespec, u64)> {
    let now = i128::from(now.tv_sec) * SECOND + i128::from(now.tv_nsec);
    let then = i128::from(unix_ns);
    let time = Timespec {
        tv_sec: i64::try_from(then / SECOND).ok()?,
        tv_nsec: i64::try_from(then % SECOND).ok()?,
    };
    let behind = u64::try_from(then - now)
        .ok()
        .filter(|behind| *behind > 0)?;
    Some((time, behind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_only_ever_set_forward() {
        let time = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
        for (now, unix_ns, expected) in [
            (time(5, 1), 5_000_000_002, Some((time(5, 2), 1))),
            (time(5, 999_999_999), 6_000_000_000, Some((time(6, 0), 1))),
            (time(-1, 0), 0, Some((time(0, 0), 1_000_000_000))),
            (time(5, 2), 5_000_000_002, None),
            (time(6, 0), 5_000_000_002, None),
            (time(6, 0), 0, None),
            (time(i64::MAX, 0), u64::MAX, None),
        ] {
            assert_eq!(behind(now, unix_ns), expected, "{now:?} {unix_ns}");
        }
    }
}
