//! A guest's first words in HTTP/2: whether it has already asked for something.

/// RFC 9113 section 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD: usize = 9;
/// PRIORITY, SETTINGS and WINDOW_UPDATE (RFC 9113 section 6), which are no reason to answer anything.
const SILENT: [u8; 3] = [2, 4, 8];

/// Whether the guest waits only for the settings of the server: there is nothing but its own settings so far.
pub(super) fn is_waiting(bytes: &[u8]) -> bool {
    let common = bytes.len().min(PREFACE.len());
    if bytes[..common] != PREFACE[..common] {
        return false;
    }
    let mut frames = &bytes[common..];
    while let Some(&[a, b, c, kind, ..]) = frames.get(..FRAME_HEAD) {
        if !SILENT.contains(&kind) {
            return false;
        }
        let len = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        match frames.get(FRAME_HEAD + len..) {
            Some(rest) => frames = rest,
            None => return true,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, len: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, len, kind, 0, 0, 0, 0, 0];
        frame.extend(std::iter::repeat_n(1, usize::from(len)));
        frame
    }

    #[test]
    fn settings_alone_wait_and_all_else_does_not() {
        let silent = [PREFACE, &frame(4, 12), &frame(8, 4), &frame(2, 5)].concat();
        for end in 0..=silent.len() {
            assert!(is_waiting(&silent[..end]), "{end}");
        }
        for kind in [0, 1, 3, 6, 7, 9, 200] {
            let asking = [&silent[..], &frame(kind, 3)].concat();
            // Told by the head of the frame, and no earlier.
            assert!(is_waiting(&asking[..silent.len() + 8]), "{kind}");
            for end in silent.len() + 9..=asking.len() {
                assert!(!is_waiting(&asking[..end]), "{kind} {end}");
            }
        }
        for other in ["GET / HTTP/1.1", "PRI * HTTP/1"] {
            assert!(!is_waiting(other.as_bytes()), "{other}");
        }
    }
}
