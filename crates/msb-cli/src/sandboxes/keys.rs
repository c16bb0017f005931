//! The keys that leave a sandbox whose command has the terminal.

use std::str::FromStr;

/// A sequence of keys, and how much of it has been typed. Keys that only begin it are handed on late, and not lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DetachKeys {
    keys: Vec<u8>,
    typed: usize,
}

impl Default for DetachKeys {
    /// Ctrl-P, Ctrl-Q.
    fn default() -> Self {
        Self {
            keys: vec![0x10, 0x11],
            typed: 0,
        }
    }
}

impl DetachKeys {
    /// What of `input` is for the command, and whether the keys were typed to their end; what is behind them is dropped.
    pub(crate) fn take(&mut self, input: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(input.len());
        for byte in input {
            if *byte == self.keys[self.typed] {
                self.typed += 1;
                if self.typed == self.keys.len() {
                    self.typed = 0;
                    return (passed, true);
                }
                continue;
            }
            // What was typed may end in a shorter beginning of the keys.
            let mut held = self.keys[..self.typed].to_vec();
            held.push(*byte);
            let keeps = |len: &usize| held.ends_with(&self.keys[..*len]);
            let longest = (0..self.keys.len()).rev().find(keeps).unwrap_or(0);
            passed.extend_from_slice(&held[..held.len() - longest]);
            self.typed = longest;
        }
        (passed, false)
    }
}

/// `ctrl-p,ctrl-q`, `ctrl-]`, `a,b`.
impl FromStr for DetachKeys {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let key = |word: &str| match word.as_bytes() {
            [byte @ 0x21..=0x7e] => Some(*byte),
            [b'c', b't', b'r', b'l', b'-', byte] => match byte.to_ascii_uppercase() {
                upper @ b'@'..=b'_' => Some(upper & 0x1f),
                _ => None,
            },
            _ => None,
        };
        let keys: Option<Vec<u8>> = text.split(',').map(key).collect();
        let keys = keys.filter(|keys| keys.len() <= 16);
        let usage = "write keys with commas, such as ctrl-p,ctrl-q or ctrl-]";
        let keys = keys.ok_or(usage)?;
        Ok(Self { keys, typed: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However the input is cut, the same is passed on, and the keys are seen at the same place.
    #[track_caller]
    fn check(keys: &str, input: &str, passed: &str, left: bool) {
        for cut in 0..=input.len() {
            let mut keys: DetachKeys = keys.parse().unwrap();
            let (mut got, mut has_left) = keys.take(&input.as_bytes()[..cut]);
            if !has_left {
                let (more, left) = keys.take(&input.as_bytes()[cut..]);
                got.extend(more);
                has_left = left;
            }
            assert_eq!(String::from_utf8_lossy(&got), passed, "cut at {cut}");
            assert_eq!(has_left, left, "cut at {cut}");
        }
    }

    #[test]
    fn keys_are_found_and_nothing_else_is_lost() {
        for (keys, input, passed, left) in [
            ("ctrl-p,ctrl-q", "ls\n\x10\x11", "ls\n", true),
            ("ctrl-p,ctrl-q", "\x10x", "\x10x", false),
            ("ctrl-p,ctrl-q", "\x10\x10\x11", "\x10", true),
            ("ctrl-p,ctrl-q", "\x11\x11", "\x11\x11", false),
            ("ctrl-p,ctrl-q", "a\x10", "a", false),
            ("a,a,b", "aaab", "a", true),
            ("a,b,a,c", "ababac", "ab", true),
            ("ctrl-]", "x\x1d", "x", true),
        ] {
            check(keys, input, passed, left);
        }
    }

    #[test]
    fn keys_parse_or_say_what_to_write() {
        assert_eq!("ctrl-p,ctrl-q".parse(), Ok(DetachKeys::default()));
        for text in ["", ",", "ctrl-", "ctrl-pp", "ab", "ctrl-1", "a,,b"] {
            text.parse::<DetachKeys>().unwrap_err();
        }
    }
}
