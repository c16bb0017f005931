//! Which JSON escape (RFC 8259, section 7) is open behind some bytes.

/// The longest that can be open: `\u` and three digits.
const LONGEST_OPEN: usize = 5;

/// What of an escape is yet to come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Escape {
    /// None is open.
    #[default]
    Closed,
    /// What follows the backslash.
    Letter,
    /// As many hexadecimal digits of `\u`, 1 to 4.
    Digits(usize),
}

impl Escape {
    /// What is open behind `passed`, if this is open before it.
    pub(crate) fn behind(self, passed: &[u8]) -> Self {
        let near = passed.len().saturating_sub(LONGEST_OPEN);
        let last = passed[near..].iter().rposition(|byte| *byte == b'\\');
        let Some(last) = last.map(|at| near + at) else {
            return self.over(passed);
        };
        let before = &passed[..=last];
        let run = before.iter().rev().take_while(|byte| **byte == b'\\');
        let run = run.count();
        let escaped = run == before.len() && self == Self::Letter;
        if run.is_multiple_of(2) == escaped {
            Self::Letter.over(&passed[last + 1..])
        } else {
            Self::Closed
        }
    }

    /// The same where `passed` holds no backslash.
    fn over(self, passed: &[u8]) -> Self {
        match (self, passed) {
            (open, []) => open,
            (Self::Letter, [b'u', digits @ ..]) => Self::Digits(4).over(digits),
            (Self::Digits(left), digits)
                if digits.len() < left && digits.iter().all(u8::is_ascii_hexdigit) =>
            {
                Self::Digits(left - digits.len())
            }
            _ => Self::Closed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As JSON is read: byte by byte.
    fn by_hand(text: &[u8]) -> Escape {
        text.iter()
            .fold(Escape::Closed, |open, byte| match (open, byte) {
                (Escape::Closed, b'\\') => Escape::Letter,
                (Escape::Letter, b'u') => Escape::Digits(4),
                (Escape::Digits(2..), byte) if !byte.is_ascii_hexdigit() => match byte {
                    b'\\' => Escape::Letter,
                    _ => Escape::Closed,
                },
                (Escape::Digits(left @ 2..), _) => Escape::Digits(left - 1),
                (Escape::Digits(_), b'\\') => Escape::Letter,
                _ => Escape::Closed,
            })
    }

    #[test]
    fn an_open_escape_is_told_however_the_text_is_cut() {
        let pieces = ["\\", "u", "0", "aF1", "n", "x"];
        for choice in 0..pieces.len().pow(6) {
            let chosen = (0..6u32).map(|i| pieces[choice / pieces.len().pow(i) % pieces.len()]);
            let text = chosen.collect::<String>().into_bytes();
            let expected = by_hand(&text);
            for cut in 0..=text.len() {
                let (first, second) = text.split_at(cut);
                let open = Escape::default().behind(first).behind(second);
                let text = String::from_utf8_lossy(&text);
                assert_eq!(open, expected, "{text} cut at {cut}");
            }
        }
    }
}
