//! What becomes of a body's declared length when its content may change.

/// How the length of a body may change while it is rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LengthChange {
    /// Not at all: nothing is written into it, or only what is as long as what it replaces.
    Never,
    /// By how much is known only when it has been rewritten.
    Possible,
}

/// What to do with a body so that its `Content-Length` is right whatever is written into it.
///
/// A pure decision. Nothing is refused for its size, and what is held is bounded by the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LengthPlan {
    /// Send it as it comes; the length that was declared, if any, holds.
    StreamInPlace,
    /// Take it in whole, at most the limit, before the head goes out, and declare what came of it.
    HoldAndCount,
    /// Send it as it comes without `Content-Length`: chunked in HTTP/1.1, ended by END_STREAM in HTTP/2.
    DropLength,
}

impl LengthPlan {
    /// What is held at most where nothing else is configured: 16 MiB.
    pub const DEFAULT_LIMIT: u64 = 16 << 20;

    /// The plan for a body that declares `declared` bytes, or nothing, and may be held up to `limit` bytes.
    #[must_use]
    pub fn decide(declared: Option<u64>, change: LengthChange, limit: u64) -> Self {
        match (declared, change) {
            (None, _) | (_, LengthChange::Never) => Self::StreamInPlace,
            (Some(declared), LengthChange::Possible) if declared <= limit => Self::HoldAndCount,
            (Some(_), LengthChange::Possible) => Self::DropLength,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_sixteen_mebibytes_at_most() {
        assert_eq!(LengthPlan::DEFAULT_LIMIT, 16 * 1024 * 1024);
    }

    #[test]
    fn a_length_is_kept_counted_or_dropped() {
        use LengthChange::{Never, Possible};
        use LengthPlan::{DropLength, HoldAndCount, StreamInPlace};
        for (declared, change, limit, expected) in [
            (None, Never, 10, StreamInPlace),
            (None, Possible, 10, StreamInPlace),
            (Some(0), Never, 0, StreamInPlace),
            (Some(u64::MAX), Never, 10, StreamInPlace),
            (Some(0), Possible, 0, HoldAndCount),
            (Some(10), Possible, 10, HoldAndCount),
            (Some(11), Possible, 10, DropLength),
            (Some(u64::MAX), Possible, 10, DropLength),
        ] {
            assert_eq!(
                LengthPlan::decide(declared, change, limit),
                expected,
                "{declared:?} {change:?} {limit}"
            );
        }
    }
}
