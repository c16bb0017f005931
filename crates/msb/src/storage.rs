//! What a guest has besides its image: a scratch disk, and directories of the host.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;

use msb_agent_proto::v1::Mount;
use msb_image::Store;
use msb_vmm::{Attachments, Share};
use serde::{Deserialize, Serialize};

use crate::Error;

/// Tells the agent that there is a scratch disk, which it has to wait for.
const HAS_SCRATCH: &str = "msb.scratch";
/// Tells the agent that it will have to mount directories, for which the kernel needs a module.
const HAS_SHARES: &str = "msb.shares";
/// The least size of a scratch disk, in bytes: a file system of less holds nothing.
const LEAST_SCRATCH: u64 = 16 << 20;
const MIB: u64 = 1 << 20;
/// `mkfs.ext4`, which is often in no user's `PATH`.
const MKFS: [&str; 3] = ["mkfs.ext4", "/usr/sbin/mkfs.ext4", "/sbin/mkfs.ext4"];

/// A directory of the host in the guest, as `HOST:GUEST` or `HOST:GUEST:ro`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BindMount {
    /// The directory on the host.
    pub host: PathBuf,
    /// Where it is in the guest: an absolute path. It is made if it is missing.
    pub guest: String,
    /// Whether the guest may only read it. The host sees to that, not the guest.
    pub read_only: bool,
}

impl BindMount {
    /// A directory that the guest may write.
    pub fn new(host: impl Into<PathBuf>, guest: impl Into<String>) -> Self {
        Self {
            host: host.into(),
            guest: guest.into(),
            read_only: false,
        }
    }

    /// Lets the guest only read it.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// The directory as the host knows it.
    fn find(&self) -> Result<PathBuf, Error> {
        let host = std::fs::canonicalize(&self.host);
        let host = host.and_then(|host| match host.is_dir() {
            true => Ok(host),
            false => Err(io::ErrorKind::NotADirectory.into()),
        });
        host.map_err(|error| Error::Config(format!("the mount {self}: {error}")))
    }

    fn check(&self) -> Result<(), Error> {
        let wrong = |what: &str| Err(Error::Config(format!("the mount {self}: {what}")));
        let guest = Path::new(&self.guest);
        let mut parts = guest.components().skip(1);
        if !guest.has_root() || parts.any(|part| !matches!(part, std::path::Component::Normal(_))) {
            return wrong("in the guest it needs an absolute path without `..`");
        }
        if guest == Path::new("/") {
            return wrong("it would hide the guest's whole root");
        }
        if self.guest.contains('\0') {
            return wrong("a path holds no NUL");
        }
        Ok(())
    }
}

impl FromStr for BindMount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || {
            format!(
                "{text:?}: write HOST:GUEST, or HOST:GUEST:ro for one that the guest may only read"
            )
        };
        let (text, read_only) = match text.strip_suffix(":ro") {
            Some(rest) => (rest, true),
            None => (text.strip_suffix(":rw").unwrap_or(text), false),
        };
        let (host, guest) = text.rsplit_once(':').ok_or_else(expected)?;
        if host.is_empty() || !guest.starts_with('/') {
            return Err(expected());
        }
        Ok(Self {
            host: host.into(),
            guest: guest.to_owned(),
            read_only,
        })
    }
}

impl fmt::Display for BindMount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host.display(), self.guest)?;
        f.write_str(if self.read_only { ":ro" } else { "" })
    }
}

/// What the builder says of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Storage {
    /// In bytes.
    pub(crate) scratch: Option<u64>,
    pub(crate) mounts: Vec<BindMount>,
}

impl Storage {
    pub(crate) fn check(&self) -> Result<(), Error> {
        if let Some(len) = self.scratch.filter(|len| *len < LEAST_SCRATCH) {
            return Err(Error::Config(format!(
                "{len} bytes are too few for a scratch disk: at least {} MiB are needed",
                LEAST_SCRATCH / MIB
            )));
        }
        for (at, mount) in self.mounts.iter().enumerate() {
            mount.check()?;
            if self.mounts[..at]
                .iter()
                .any(|other| other.guest == mount.guest)
            {
                let guest = &mount.guest;
                return Err(Error::Config(format!(
                    "two directories are mounted at {guest}"
                )));
            }
        }
        Ok(())
    }

    /// Whether what is to be mounted is there.
    pub(crate) fn look(&self) -> Result<(), Error> {
        self.mounts
            .iter()
            .try_for_each(|mount| mount.find().map(drop))
    }

    /// What the agent is told of it before it can be asked.
    pub(crate) fn kernel_args(&self) -> impl Iterator<Item = String> {
        let scratch = self.scratch.map(|_| HAS_SCRATCH);
        let shares = (!self.mounts.is_empty()).then_some(HAS_SHARES);
        scratch.into_iter().chain(shares).map(str::to_owned)
    }

    /// What the agent is asked to mount. The tags are those of [`Attachments`].
    pub(crate) fn requests(&self) -> Vec<Mount> {
        let mounts = self.mounts.iter().enumerate();
        let request = |(at, mount): (usize, &BindMount)| Mount {
            tag: format!("share{at}"),
            path: mount.guest.clone(),
            read_only: mount.read_only,
        };
        mounts.map(request).collect()
    }

    /// Makes the disk, and starts serving the directories.
    pub(crate) async fn attach(&self, store: &Store) -> Result<Attachments, Error> {
        let mut attachments = Attachments::default();
        if let Some(len) = self.scratch {
            let dir = store.dir().to_owned();
            let made = tokio::task::spawn_blocking(move || make_disk(&dir, len)).await;
            let made = made.map_err(|error| Error::Host {
                what: "a thread",
                source: error.into(),
            })?;
            attachments.scratch = Some(made?.into());
        }
        for mount in &self.mounts {
            let share = Share::start(&mount.find()?, mount.read_only).await?;
            attachments.shares.push(share);
        }
        Ok(attachments)
    }
}

/// An ext4 file system in a sparse file without a name: nothing is left of it, whatever ends first.
fn make_disk(dir: &Path, len: u64) -> Result<File, Error> {
    let host = |source| Error::Host {
        what: "a file for the scratch disk",
        source,
    };
    let file = tempfile::tempfile_in(dir).map_err(host)?;
    file.set_len(len).map_err(host)?;
    for program in MKFS {
        let mut command = Command::new(program);
        command
            // Without a journal: what a crash leaves behind is never looked at.
            .args([
                "-q",
                "-F",
                "-m",
                "0",
                "-O",
                "^has_journal",
                "-E",
                "lazy_itable_init=1,root_owner=0:0",
            ])
            .arg("/proc/self/fd/0")
            .env_clear()
            .stdin(Stdio::from(file.try_clone().map_err(host)?))
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        match command.output() {
            Ok(output) if output.status.success() => return Ok(file),
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                return Err(Error::Config(format!(
                    "mkfs.ext4 could not make the scratch disk: {}",
                    said.trim()
                )));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(host(error)),
        }
    }
    Err(Error::Config(
        "mkfs.ext4 is missing, which makes scratch disks: apt-get install e2fsprogs".into(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_as_they_are_written() {
        for (text, expected) in [
            ("/src:/work", Some(BindMount::new("/src", "/work"))),
            (
                "src:/work:ro",
                Some(BindMount::new("src", "/work").read_only()),
            ),
            ("src:/work:rw", Some(BindMount::new("src", "/work"))),
            ("/a:b:/c", Some(BindMount::new("/a:b", "/c"))),
            ("/src", None),
            (":/work", None),
            ("/src:work", None),
            ("/src:", None),
            ("", None),
        ] {
            let got = text.parse::<BindMount>();
            assert_eq!(got.as_ref().ok(), expected.as_ref(), "{text}");
            if let Err(error) = got {
                assert!(error.contains("HOST:GUEST"), "{error}");
            }
        }
    }

    #[test]
    fn what_cannot_be_mounted_or_is_too_small_is_told_before_anything_starts() {
        let mounts = |guests: &[&str]| Storage {
            scratch: None,
            mounts: guests
                .iter()
                .map(|guest| BindMount::new("/src", *guest))
                .collect(),
        };
        let disk = |len| Storage {
            scratch: Some(len),
            mounts: Vec::new(),
        };
        for (storage, expected) in [
            (mounts(&["/work", "/data"]), ""),
            (mounts(&["work"]), "absolute path"),
            (mounts(&["/a/../b"]), "absolute path"),
            (mounts(&["/"]), "whole root"),
            (mounts(&["/a\0b"]), "NUL"),
            (
                mounts(&["/work", "/work"]),
                "two directories are mounted at /work",
            ),
            (disk(LEAST_SCRATCH), ""),
            (disk(LEAST_SCRATCH - 1), "at least 16 MiB"),
        ] {
            let said = storage
                .check()
                .map_or_else(|error| error.to_string(), |()| String::new());
            assert!(
                said.contains(expected) && said.is_empty() == expected.is_empty(),
                "{said}"
            );
        }
    }

    #[test]
    fn a_scratch_disk_is_sparse_and_has_no_name() {
        use std::os::unix::fs::MetadataExt as _;
        let dir = tempfile::tempdir().unwrap();
        let file = match make_disk(dir.path(), 4 << 30) {
            Ok(file) => file,
            Err(error) if error.to_string().contains("e2fsprogs") => {
                eprintln!("skipped: {error}");
                return;
            }
            Err(error) => panic!("{error}"),
        };
        let metadata = file.metadata().unwrap();
        assert_eq!(metadata.len(), 4 << 30);
        assert!(
            metadata.blocks() * 512 < 64 << 20,
            "{} blocks",
            metadata.blocks()
        );
        assert_eq!(dir.path().read_dir().unwrap().count(), 0);
    }
}
