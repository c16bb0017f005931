//! Programs that the kernel killed for want of memory, as its log tells.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::OFlags;

/// Of the last kills so many are kept; one exec is told so many of those that fell into its time.
const KEPT: usize = 8;
/// The longest record the kernel hands out, in bytes (`PRINTK_MESSAGE_MAX` is less).
const RECORD: usize = 8192;
/// Records read at once: whoever is root in the guest can write them as fast as they are read.
const AT_ONCE: usize = 2048;

/// The kernel's log from now on. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Shortage(Arc<Mutex<Kills>>);

#[derive(Default)]
struct Kills {
    log: Option<File>,
    /// How many there have been.
    count: u64,
    last: VecDeque<String>,
}

impl Shortage {
    /// Without a log nothing is ever told of.
    pub(crate) fn open() -> Self {
        let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
        let open = || {
            let mut log = OpenOptions::new()
                .read(true)
                .custom_flags(nonblocking)
                .open("/dev/kmsg")?;
            log.seek(SeekFrom::End(0))?;
            io::Result::Ok(log)
        };
        Self(Arc::new(Mutex::new(Kills {
            log: open().ok(),
            ..Kills::default()
        })))
    }

    /// A point in time, for [`since`](Self::since).
    pub(crate) fn now(&self) -> u64 {
        let mut kills = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kills.read();
        kills.count
    }

    /// The programs killed since `then`, as `NAME (PID)`; of many the last.
    pub(crate) fn since(&self, then: u64) -> Vec<String> {
        let mut kills = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kills.read();
        let new = usize::try_from(kills.count.saturating_sub(then)).unwrap_or(usize::MAX);
        let old = kills.last.len().saturating_sub(new);
        kills.last.iter().skip(old).cloned().collect()
    }
}

impl Kills {
    fn read(&mut self) {
        let Some(mut log) = self.log.take() else {
            return;
        };
        self.read_from(&mut log);
        self.log = Some(log);
    }

    /// Each read is one record. EPIPE says that some were overwritten before they were read.
    fn read_from(&mut self, log: &mut impl Read) {
        let mut record = [0; RECORD];
        for _ in 0..AT_ONCE {
            match log.read(&mut record) {
                Ok(0) => return,
                Ok(len) => self.note(&String::from_utf8_lossy(&record[..len])),
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
                Err(_) => return,
            }
        }
    }

    fn note(&mut self, record: &str) {
        let Some(killed) = killed(record) else { return };
        self.count += 1;
        self.last.push_back(killed);
        if self.last.len() > KEPT {
            self.last.pop_front();
        }
    }
}

/// "3,482,9311,-;Out of memory: Killed process 97 (python3) total-vm:...", in the kernel's own words since 5.1.
fn killed(record: &str) -> Option<String> {
    let (_, text) = record.split_once(';')?;
    let (what, text) = text.split_once(": Killed process ")?;
    if !what.to_ascii_lowercase().ends_with("out of memory") {
        return None;
    }
    let (pid, text) = text.split_once(" (")?;
    let pid: u32 = pid.parse().ok()?;
    let (name, _) = text.split_once(") total-vm:")?;
    // A program chooses its name; the kernel cuts it to 15 bytes.
    let name: String = name.chars().take(15).collect();
    Some(format!("{name} ({pid})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KILL: &str =
        "3,482,9311,-;Out of memory: Killed process 97 (python3) total-vm:900kB, anon-rss:1kB\n";

    #[test]
    fn kills_are_told_by_name_and_number() {
        for (record, expected) in [
            (KILL, Some("python3 (97)")),
            (
                "3,1,2,-;Memory cgroup out of memory: Killed process 5 (a) b) total-vm:1kB\n",
                Some("a) b (5)"),
            ),
            ("6,1,2,-;Killed process 5 (a) total-vm:1kB\n", None),
            (
                "6,1,2,-;Out of memory: Killed process x (a) total-vm:1kB\n",
                None,
            ),
            ("Out of memory: Killed process 5 (a) total-vm:1kB\n", None),
            ("", None),
        ] {
            assert_eq!(killed(record).as_deref(), expected, "{record:?}");
        }
    }

    /// One record for each read, as the device has it.
    struct Log(usize);

    impl Read for Log {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0 == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.0 -= 1;
            if self.0.is_multiple_of(2) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            buffer[..KILL.len()].copy_from_slice(KILL.as_bytes());
            Ok(KILL.len())
        }
    }

    #[test]
    fn only_new_kills_are_told_and_only_so_many() {
        let shortage = Shortage::default();
        let kill = |times: usize| {
            let mut kills = shortage.0.lock().expect("kills");
            kills.read_from(&mut Log(2 * times));
        };
        kill(3);
        let then = shortage.now();
        assert_eq!(shortage.since(then), Vec::<String>::new());
        kill(2);
        assert_eq!(shortage.since(then).len(), 2);
        kill(100);
        assert_eq!(shortage.since(then).len(), KEPT);
        let before = shortage.0.lock().expect("kills").count;
        kill(AT_ONCE * 2);
        let after = shortage.0.lock().expect("kills").count;
        assert!(after - before <= AT_ONCE as u64);
    }
}
