//! The last of what the guest's console and QEMU itself said.

use std::collections::VecDeque;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

/// How much is kept, in bytes: a kernel panic with its trace takes about 4 KiB.
const KEEP_BYTES: usize = 64 * 1024;

/// A bounded record of the console. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Console {
    bytes: Arc<Mutex<VecDeque<u8>>>,
}

impl Console {
    /// The last `lines` lines that are not blank. Control characters the guest wrote are shown as `\u{..}`, never
    /// passed on to a terminal.
    pub fn tail(&self, lines: usize) -> String {
        let bytes: Vec<u8> = {
            let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
            bytes.iter().copied().collect()
        };
        let text = String::from_utf8_lossy(&bytes);
        let kept: Vec<String> = text
            .lines()
            .map(clean)
            .filter(|line| !line.trim().is_empty())
            .collect();
        kept[kept.len().saturating_sub(lines)..].join("\n")
    }

    pub(crate) fn push(&self, chunk: &[u8]) {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        bytes.extend(chunk);
        let over = bytes.len().saturating_sub(KEEP_BYTES);
        bytes.drain(..over);
    }

    /// Reads `source` to its end on the calling thread.
    pub(crate) fn collect(&self, mut source: impl Read) {
        let mut chunk = [0; 4096];
        loop {
            match source.read(&mut chunk) {
                Ok(0) => return,
                Ok(len) => self.push(&chunk[..len]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }
}

fn clean(line: &str) -> String {
    line.trim_end_matches('\r')
        .chars()
        .map(|c| {
            if c.is_control() && c != '\t' {
                c.escape_unicode().to_string()
            } else {
                c.to_string()
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_the_last_lines_without_blanks() {
        for (text, lines, expected) in [
            ("", 3, ""),
            ("one\r\ntwo\r\n", 1, "two"),
            ("one\n\n  \ntwo\n", 5, "one\ntwo"),
            ("half a line", 2, "half a line"),
        ] {
            let console = Console::default();
            console.push(text.as_bytes());
            assert_eq!(console.tail(lines), expected, "{text:?}");
        }
    }

    #[test]
    fn escape_sequences_of_the_guest_are_made_visible() {
        let console = Console::default();
        console.push(b"\x1b]0;owned\x07 \xff\n");
        let tail = console.tail(1);
        assert!(!tail.contains(char::is_control), "{tail:?}");
        assert!(tail.contains("owned"));
    }

    #[test]
    fn a_chatty_guest_costs_bounded_memory() {
        let console = Console::default();
        for _ in 0..100 {
            console.push(&[b'x'; 4096]);
        }
        console.push(b"\nend\n");
        assert_eq!(console.tail(1), "end");
        assert!(console.tail(usize::MAX).len() <= KEEP_BYTES);
    }
}
