//! The host's side: processes by a handle that cannot come to mean another, and a store of one's own.

use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use msb::image::Store;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tempfile::TempDir;

/// A process of this host.
#[derive(Debug)]
pub struct HostProcess {
    pid: u32,
    handle: OwnedFd,
}

impl HostProcess {
    /// The process `pid`, if there is one.
    #[must_use]
    pub fn open(pid: u32) -> Option<Self> {
        let raw = Pid::from_raw(i32::try_from(pid).ok()?)?;
        let handle = pidfd_open(raw, PidfdFlags::empty()).ok()?;
        Some(Self { pid, handle })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends it a signal; harmless when it has ended.
    pub fn signal(&self, signal: Signal) {
        let _ = pidfd_send_signal(self.handle.as_fd(), signal);
    }

    /// Waits for its end, at most so long. Blocks the thread.
    ///
    /// # Panics
    /// When the host cannot tell.
    #[must_use]
    pub fn ends_within(&self, limit: Duration) -> bool {
        let mut fds = [PollFd::new(&self.handle, PollFlags::IN)];
        let limit = Timespec::try_from(limit).expect("a short time");
        poll(&mut fds, Some(&limit)).expect("a poll") > 0
    }

    /// A file of `/proc` about it; empty when it has ended.
    #[must_use]
    pub fn read(&self, file: &str) -> Vec<u8> {
        fs::read(format!("/proc/{}/{file}", self.pid)).unwrap_or_default()
    }

    /// Its children at this moment.
    #[must_use]
    pub fn children(&self) -> Vec<Self> {
        let parent = format!("PPid:\t{}", self.pid);
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid: &u32| {
                fs::read_to_string(format!("/proc/{pid}/status"))
                    .is_ok_and(|status| status.lines().any(|line| line == parent))
            })
            .filter_map(Self::open)
            .collect()
    }
}

/// A store of a test's own, with the images of the real one: what is left in it is this test's, and its path in a
/// command line means this test's process.
#[derive(Debug)]
pub struct Home {
    dir: TempDir,
}

impl Home {
    /// Makes the store.
    ///
    /// # Panics
    /// When there is no real one.
    #[must_use]
    #[expect(
        clippy::new_without_default,
        reason = "each store is another one, which a default would hide"
    )]
    pub fn new() -> Self {
        let real = Store::open_default().expect("a store");
        let real = fs::canonicalize(real.dir()).expect("a store");
        let home = Self {
            dir: tempfile::tempdir().expect("a directory"),
        };
        for part in ["guest", "images"] {
            copy(&real.join(part), &home.path().join(part));
        }
        std::os::unix::fs::symlink(real.join("files"), home.path().join("files")).expect("a link");
        // The trial of KVM is another test's matter.
        let _ = fs::copy(
            real.join("accelerator.json"),
            home.path().join("accelerator.json"),
        );
        home
    }

    /// The directory, for `MSB_HOME`.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Every file below it, but for the outcome of the trial of KVM, which is remembered on purpose.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        list(self.path(), &mut found);
        found.retain(|file| !file.ends_with("accelerator.json"));
        found.sort();
        found
    }

    /// The processes whose command line names this store.
    #[must_use]
    pub fn processes(&self) -> Vec<String> {
        let needle = self.path().to_string_lossy().into_owned();
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        entries
            .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
            .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
            .filter(|line| line.contains(&needle))
            .collect()
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory").flatten() {
        fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
    }
}

fn list(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        found.push(entry.path());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            list(&entry.path(), found);
        }
    }
}
