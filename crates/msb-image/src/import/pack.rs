//! From a tree to a squashfs file, by `mksquashfs`, which reads a tar archive written here.
//!
//! It keeps owners, modes, devices and attributes without privileges, because it never makes a file. It sees no byte of
//! a layer's own headers: the archive has each path once, directories before what is in them, links after all else.

use std::io::{self, BufWriter, Read, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread::JoinHandle;

use msb_tar::{Entry, Kind};

use super::entries::Meta;
use super::error::ImportError;

/// What of its complaints is shown, and kept, in bytes.
const TOLD: usize = 500;
const KEPT: usize = 8 << 10;

/// How the C library says that a disk or quota is full.
const NO_SPACE: [&str; 2] = ["No space left on device", "Disk quota exceeded"];

/// LZ4 unpacks several times faster than zstd, which is what counts in an emulated guest.
const FORMAT: &[&str] = &["-comp", "lz4", "-Xhc", "-b", "128K", "-no-exports"];
/// Equal trees give equal disks, but for the root directory's time, which version 4.5 takes from the clock.
const REPRODUCIBLE: &[&str] = &["-mkfs-time", "0"];

/// A running `mksquashfs` that reads an archive.
pub(super) struct Packer {
    stdin: BufWriter<ChildStdin>,
    running: Running,
}

/// A running `mksquashfs`, and what it complains of. Not kept in a file: the disk may be full.
struct Running {
    child: Child,
    told: JoinHandle<Vec<u8>>,
}

/// Packs the directory `from` as it is; as root's where the files cannot be given to others anyway.
pub(super) fn directory(from: &Path, disk: &Path) -> Result<(), ImportError> {
    let mut command = command(disk, from.as_os_str());
    if !rustix::process::geteuid().is_root() {
        command.arg("-all-root");
    }
    Running::start(command.stdin(Stdio::null()))?.end()
}

impl Packer {
    /// Starts with the root directory's own owner and mode.
    pub(super) fn start(disk: &Path, root: &Meta) -> Result<Self, ImportError> {
        let mut command = command(disk, "-".as_ref());
        command.arg("-tar");
        command.args(["-root-mode", &format!("{:o}", root.mode)]);
        command.args(["-root-time", &root.mtime.to_string()]);
        let mut running = Running::start(command.stdin(Stdio::piped()))?;
        let stdin = running.child.stdin.take();
        let stdin = stdin.ok_or_else(|| ImportError::Pack {
            output: "it has no standard input".into(),
        })?;
        Ok(Self {
            stdin: BufWriter::with_capacity(128 * 1024, stdin),
            running,
        })
    }

    /// Adds an entry, with the data that `from` yields.
    pub(super) fn add(&mut self, entry: &Entry, from: &mut impl Read) -> io::Result<()> {
        msb_tar::write(entry, &mut self.stdin)?;
        let Kind::File(size) = entry.kind else {
            return Ok(());
        };
        let copied = io::copy(&mut from.take(size), &mut self.stdin)?;
        if copied < size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.stdin.write_all(msb_tar::padding(size))
    }

    /// Waits until the disk is whole.
    pub(super) fn finish(mut self) -> Result<(), ImportError> {
        let ended = msb_tar::write_end(&mut self.stdin);
        // Its own complaint says more than that it does not read any more.
        let _ = ended.and_then(|()| self.stdin.flush());
        drop(self.stdin);
        self.running.end()
    }

    /// What it said, if it has ended before its time.
    pub(super) fn complaint(self) -> Option<ImportError> {
        let Self { stdin, running } = self;
        // Unwritten bytes would be written when this is dropped.
        drop(stdin.into_parts());
        running.end().err()
    }

    /// Ends it without a disk.
    pub(super) fn abandon(mut self) {
        // It may have ended.
        let _ = self.running.child.kill();
        let _ = self.running.child.wait();
    }
}

fn command(disk: &Path, from: &std::ffi::OsStr) -> Command {
    let mut command = Command::new("mksquashfs");
    command
        .arg(from)
        .arg(disk)
        .args(FORMAT)
        .args(REPRODUCIBLE)
        .args(["-noappend", "-no-progress", "-quiet", "-exit-on-error"]);
    // It needs none: no value of the caller's is shown to it, and no time of the environment's counts.
    command.env_clear();
    command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    // What it says of a full disk is looked for.
    command.env("LC_ALL", "C");
    command
}

impl Running {
    fn start(command: &mut Command) -> Result<Self, ImportError> {
        let command = command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(ImportError::Tool)?;
        let stderr = child.stderr.take();
        let reading = std::thread::Builder::new().spawn(move || stderr.map_or(Vec::new(), last));
        match reading {
            Ok(told) => Ok(Self { child, told }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(ImportError::Tool(error))
            }
        }
    }

    fn end(mut self) -> Result<(), ImportError> {
        let status = self.child.wait().map_err(ImportError::Tool)?;
        if status.success() {
            return Ok(());
        }
        let told = self.told.join().unwrap_or_default();
        let told = String::from_utf8_lossy(&told);
        if NO_SPACE.iter().any(|said| told.contains(said)) {
            return Err(ImportError::NoSpace(io::ErrorKind::StorageFull.into()));
        }
        let lines: Vec<_> = told.lines().map(str::trim).collect();
        let said = lines.join("; ");
        let from = said.ceil_char_boundary(said.len().saturating_sub(TOLD));
        Err(ImportError::Pack {
            output: match said.is_empty() {
                true => status.to_string(),
                false => said[from..].escape_debug().to_string(),
            },
        })
    }
}

/// The last of what comes.
fn last(mut from: impl Read) -> Vec<u8> {
    let (mut kept, mut buffer) = (Vec::new(), [0; 4096]);
    // One that cannot be read has said nothing more.
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        kept.extend_from_slice(&buffer[..read]);
        if kept.len() > 2 * KEPT {
            kept.drain(..kept.len() - KEPT);
        }
    }
    kept
}
