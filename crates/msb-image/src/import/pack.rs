//! From a tree to a squashfs file, by `mksquashfs`, which reads a tar archive written here.
//!
//! It keeps owners, modes, devices and attributes without privileges, because it never makes a file. It sees no byte of
//! a layer's own headers: the archive has each path once, directories before what is in them, links after all else.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek as _, SeekFrom, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use tar::{EntryType, Header};

use super::entries::Meta;
use super::error::ImportError;

const BLOCK: u64 = 512;
/// What of its complaints is shown, in bytes.
const TOLD: usize = 500;

/// How the C library says that a disk or quota is full.
const NO_SPACE: [&str; 2] = ["No space left on device", "Disk quota exceeded"];

/// LZ4 unpacks several times faster than zstd, which is what counts in an emulated guest.
const FORMAT: &[&str] = &["-comp", "lz4", "-Xhc", "-b", "128K", "-no-exports"];
/// Equal trees give equal disks, but for the root directory's time, which version 4.5 takes from the clock.
const REPRODUCIBLE: &[&str] = &["-mkfs-time", "0"];

/// A running `mksquashfs`.
pub(super) struct Packer {
    child: Child,
    stdin: BufWriter<ChildStdin>,
    told: File,
}

/// One entry for the archive.
pub(super) struct Out<'a> {
    pub(super) path: &'a [u8],
    pub(super) kind: EntryType,
    pub(super) link: &'a [u8],
    pub(super) device: (u32, u32),
    pub(super) size: u64,
    pub(super) meta: &'a Meta,
}

/// Packs the directory `from` as it is; as root's where the files cannot be given to others anyway.
pub(super) fn directory(from: &Path, disk: &Path) -> Result<(), ImportError> {
    let mut command = command(disk, from.as_os_str());
    if !rustix::process::geteuid().is_root() {
        command.arg("-all-root");
    }
    let (child, told) = start(command.stdin(Stdio::null()))?;
    end(child, told)
}

impl Packer {
    /// Starts with the root directory's own owner and mode.
    pub(super) fn start(disk: &Path, root: &Meta) -> Result<Self, ImportError> {
        let mut command = command(disk, "-".as_ref());
        command.arg("-tar");
        command.args(["-root-mode", &format!("{:o}", root.mode)]);
        command.args(["-root-time", &root.mtime.to_string()]);
        let (mut child, told) = start(command.stdin(Stdio::piped()))?;
        let stdin = child.stdin.take().ok_or_else(|| ImportError::Pack {
            output: "it has no standard input".into(),
        })?;
        Ok(Self {
            child,
            stdin: BufWriter::with_capacity(128 * 1024, stdin),
            told,
        })
    }

    /// Adds an entry, with the data that `from` yields.
    pub(super) fn add(&mut self, out: &Out<'_>, from: &mut impl Read) -> io::Result<()> {
        let mut records = Vec::new();
        if out.path.len() > 100 {
            record(&mut records, b"path", out.path);
        }
        if out.link.len() > 100 {
            record(&mut records, b"linkpath", out.link);
        }
        let most = 0o7_777_777;
        for (key, value) in [("uid", out.meta.uid), ("gid", out.meta.gid)] {
            if value > most {
                record(&mut records, key.as_bytes(), value.to_string().as_bytes());
            }
        }
        if out.size > 0o77_777_777_777 {
            record(&mut records, b"size", out.size.to_string().as_bytes());
        }
        for (name, value) in &out.meta.xattrs {
            let key = [b"SCHILY.xattr.", name.as_slice()].concat();
            record(&mut records, &key, value);
        }
        if !records.is_empty() {
            let mut header = Header::new_ustar();
            header.set_entry_type(EntryType::XHeader);
            header.as_old_mut().name[..1].copy_from_slice(b"x");
            header.set_size(records.len() as u64);
            header.set_cksum();
            self.stdin.write_all(header.as_bytes())?;
            self.stdin.write_all(&records)?;
            self.pad(records.len() as u64)?;
        }
        let mut header = Header::new_ustar();
        header.set_entry_type(out.kind);
        let old = header.as_old_mut();
        copy(&mut old.name, out.path);
        copy(&mut old.linkname, out.link);
        header.set_mode(out.meta.mode);
        header.set_uid(u64::from(out.meta.uid.min(most)));
        header.set_gid(u64::from(out.meta.gid.min(most)));
        header.set_mtime(u64::from(out.meta.mtime));
        header.set_size(out.size.min(0o77_777_777_777));
        header.set_device_major(out.device.0)?;
        header.set_device_minor(out.device.1)?;
        header.set_cksum();
        self.stdin.write_all(header.as_bytes())?;
        let copied = io::copy(&mut from.take(out.size), &mut self.stdin)?;
        if copied < out.size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.pad(out.size)
    }

    /// Waits until the disk is whole.
    pub(super) fn finish(mut self) -> Result<(), ImportError> {
        let ended = self.stdin.write_all(&[0; 1024]);
        // Its own complaint says more than that it does not read any more.
        let _ = ended.and_then(|()| self.stdin.flush());
        drop(self.stdin);
        end(self.child, self.told)
    }

    /// What it said, if it has ended before its time.
    pub(super) fn complaint(self) -> Option<ImportError> {
        let Self { child, stdin, told } = self;
        // Unwritten bytes would be written when this is dropped.
        drop(stdin.into_parts());
        end(child, told).err()
    }

    /// Ends it without a disk.
    pub(super) fn abandon(mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let padding = (BLOCK - size % BLOCK) % BLOCK;
        io::copy(&mut io::repeat(0).take(padding), &mut self.stdin).map(drop)
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
    // It would take another time than it was given.
    command.env_remove("SOURCE_DATE_EPOCH");
    // What it says of a full disk is looked for.
    command.env("LC_ALL", "C");
    command
}

fn start(command: &mut Command) -> Result<(Child, File), ImportError> {
    let told = tempfile::tempfile().map_err(ImportError::Tool)?;
    let stderr = told.try_clone().map_err(ImportError::Tool)?;
    let child = command.stdout(Stdio::null()).stderr(stderr).spawn();
    Ok((child.map_err(ImportError::Tool)?, told))
}

fn end(mut child: Child, mut told: File) -> Result<(), ImportError> {
    let status = child.wait().map_err(ImportError::Tool)?;
    if status.success() {
        return Ok(());
    }
    let mut output = Vec::new();
    let read = told
        .seek(SeekFrom::Start(0))
        .and_then(|_| told.take(1 << 20).read_to_end(&mut output));
    let text = String::from_utf8_lossy(&output[output.len().saturating_sub(TOLD)..]);
    let lines: Vec<_> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    if NO_SPACE.iter().any(|said| text.contains(said)) {
        return Err(ImportError::NoSpace(io::ErrorKind::StorageFull.into()));
    }
    Err(ImportError::Pack {
        output: match (read, lines.is_empty()) {
            (Ok(_), false) => lines.join("; "),
            _ => status.to_string(),
        },
    })
}

/// One record of a POSIX extended header: its length counts its own digits.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len != rest + len.to_string().len() {
        len = rest + len.to_string().len();
    }
    records.extend_from_slice(format!("{len} ").as_bytes());
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// As much as fits; a longer text is in a record before.
fn copy(field: &mut [u8], text: &[u8]) {
    let len = text.len().min(field.len());
    field[..len].copy_from_slice(&text[..len]);
}
