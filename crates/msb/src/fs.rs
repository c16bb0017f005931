//! Files in the guest, and copies of trees both ways.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use msb_agent_proto::CHUNK_BYTES;
use msb_agent_proto::v1::file_data::What;
use msb_agent_proto::v1::file_info::Kind;
use msb_agent_proto::v1::file_input::Input;
use msb_agent_proto::v1::{self, FileData, FileInput, FileRequest, FileStart, PackTreeRequest};
use msb_tree::{Modes, PieceReader, PieceWriter, Place};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::Error;
use crate::exec::printable;
use crate::link::Link;

/// What [`Fs::read`] collects at most, in bytes: the guest decides how long a file is.
const READ_LIMIT: usize = 256 * 1024 * 1024;
/// What [`Fs::list`] collects at most: names of all entries together, in bytes.
const LIST_LIMIT: usize = 64 * 1024 * 1024;
/// What an entry of a list is counted as, besides its name.
const ENTRY_COST: usize = 64;
/// Pieces on their way; the connection's own window is behind them.
const QUEUE: usize = 4;
/// Of the names that were passed over so many are taken from the guest.
const MAX_SKIPPED: usize = 16;

/// The guest's files. Made by [`Sandbox::fs`](crate::Sandbox::fs). Paths of the guest are absolute.
///
/// The guest is not trusted: what it tells of its files is its word, and bounded.
#[derive(Clone, Debug)]
pub struct Fs<'a> {
    link: &'a Link,
    user: String,
}

/// What the guest says about a file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metadata {
    /// What it is.
    pub kind: FileKind,
    /// Its length in bytes.
    pub len: u64,
    /// Permission, set-id and sticky bits.
    pub mode: u32,
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// When it was changed last, in whole seconds.
    pub modified: SystemTime,
    /// Where a link leads, as it says.
    pub target: Option<PathBuf>,
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A pipe, socket or device.
    Other,
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DirEntry {
    /// Its name, without the directory's. The guest's word: it may have any byte in it, a slash too.
    pub name: PathBuf,
    /// What it is.
    pub kind: FileKind,
}

/// What was copied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Copied {
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes of the files' contents.
    pub bytes: u64,
    /// How many sockets, pipes and devices were passed over.
    pub skipped: u64,
    /// Names of the first few of those.
    pub skipped_names: Vec<PathBuf>,
}

impl<'a> Fs<'a> {
    pub(crate) fn new(link: &'a Link) -> Self {
        Self {
            link,
            user: String::new(),
        }
    }

    /// Who reads, writes and owns, as [`Command::user`](crate::Command::user) has it. Default: root.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = user.into();
        self
    }

    /// The contents of a regular file, of at most 256 MiB. For more see [`copy_out`](Self::copy_out).
    ///
    /// # Errors
    /// [`Error::GuestFile`], [`Error::FileLimit`], [`Error::Ended`].
    pub async fn read(&self, path: impl AsRef<Path>) -> Result<Vec<u8>, Error> {
        let mut client = self.link.client();
        let call = client.read_file(self.request(path.as_ref()));
        let mut pieces = self.link.answer(call, explain).await?.into_inner();
        let mut contents = Vec::new();
        while let Some(message) = self.next(&mut pieces).await? {
            if let Some(What::Data(data)) = message.what {
                contents.extend_from_slice(&data);
            }
            if contents.len() > READ_LIMIT {
                return Err(Error::FileLimit { limit: READ_LIMIT });
            }
        }
        Ok(contents)
    }

    /// Writes a file: it has all of the contents or is as it was. One that is there keeps its mode, and its owner if that can
    /// be; a new one has 644. A link stays, and what it leads to is written.
    ///
    /// # Errors
    /// [`Error::GuestFile`], [`Error::Ended`].
    pub async fn write(
        &self,
        path: impl AsRef<Path>,
        contents: impl Into<Bytes>,
    ) -> Result<(), Error> {
        let mut contents = contents.into();
        let (sender, receiver) = mpsc::channel(QUEUE);
        let start = self.start(path.as_ref(), b"");
        let feed = async move {
            let mut sent = sender.send(start).await;
            while sent.is_ok() && !contents.is_empty() {
                let data = contents.split_to(contents.len().min(CHUNK_BYTES));
                sent = sender.send(piece(data)).await;
            }
        };
        let mut client = self.link.client();
        let (answer, ()) = tokio::join!(client.write_file(ReceiverStream::new(receiver)), feed);
        self.settle(answer.map(drop)).await
    }

    /// What `path` leads to.
    ///
    /// # Errors
    /// [`Error::GuestFile`], [`Error::Ended`], [`Error::NoAnswer`].
    pub async fn metadata(&self, path: impl AsRef<Path>) -> Result<Metadata, Error> {
        self.describe(path.as_ref(), true).await
    }

    /// What `path` is, be it a link.
    ///
    /// # Errors
    /// As [`metadata`](Self::metadata).
    pub async fn symlink_metadata(&self, path: impl AsRef<Path>) -> Result<Metadata, Error> {
        self.describe(path.as_ref(), false).await
    }

    /// The entries of a directory, in no order.
    ///
    /// # Errors
    /// [`Error::GuestFile`], [`Error::Ended`]; [`Error::FileLimit`] when they would take over 64 MiB.
    pub async fn list(&self, path: impl AsRef<Path>) -> Result<Vec<DirEntry>, Error> {
        let mut client = self.link.client();
        let call = client.list_directory(self.request(path.as_ref()));
        let mut lists = self.link.answer(call, explain).await?.into_inner();
        let (mut entries, mut cost) = (Vec::new(), 0);
        while let Some(list) = self.next(&mut lists).await? {
            for entry in list.entries {
                cost += entry.name.len() + ENTRY_COST;
                if cost > LIST_LIMIT {
                    return Err(Error::FileLimit { limit: LIST_LIMIT });
                }
                entries.push(DirEntry {
                    kind: entry.kind().into(),
                    name: path_of(&entry.name),
                });
            }
        }
        Ok(entries)
    }

    /// Makes a directory and those on the way to it; one that is there is no error.
    ///
    /// # Errors
    /// As [`metadata`](Self::metadata).
    pub async fn mkdir(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let mut request = self.request(path.as_ref());
        request.recursive = true;
        let mut client = self.link.client();
        let call = client.make_directory(request);
        self.link.answer(call, explain).await.map(drop)
    }

    /// Removes a file, a link, or an empty directory.
    ///
    /// # Errors
    /// As [`metadata`](Self::metadata).
    pub async fn remove(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        self.remove_with(path.as_ref(), false).await
    }

    /// Removes whatever is there, with all that is in it; nothing there is no error.
    ///
    /// # Errors
    /// As [`metadata`](Self::metadata).
    pub async fn remove_all(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        self.remove_with(path.as_ref(), true).await
    }

    /// Copies a file or tree of this host into the guest, with modes, times of change (whole seconds), symbolic links as they
    /// are, and hard links within the tree. It belongs to the user.
    ///
    /// As `cp -r` does: into `to` if that is a directory, else to that name. A `from` that ends in `/.` means what is in the
    /// directory. What is in the way is replaced, except a directory. A copy that fails leaves what it has written.
    ///
    /// # Errors
    /// [`Error::Tree`] for what this host cannot read, [`Error::GuestFile`], [`Error::Ended`].
    pub async fn copy_in(
        &self,
        from: impl AsRef<Path>,
        to: impl AsRef<Path>,
    ) -> Result<Copied, Error> {
        let from = from.as_ref().to_owned();
        let name = match only_contents(&from) {
            true => Vec::new(),
            false => name_of(&from)?.as_bytes().to_vec(),
        };
        let (sender, receiver) = mpsc::channel(QUEUE);
        // Fresh, so it has room.
        let _ = sender.try_send(self.start(to.as_ref(), &name));
        let packing = tokio::task::spawn_blocking(move || {
            let mut writer = PieceWriter::new(CHUNK_BYTES, |data| {
                let sent = sender.blocking_send(piece(data.into()));
                sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
            });
            let name = if name.is_empty() { b"." } else { &name[..] };
            msb_tree::pack(&from, name, &mut writer)
        });
        let mut client = self.link.client();
        let answer = client.unpack_tree(ReceiverStream::new(receiver)).await;
        let packed = packing.await.map_err(broken)?;
        match (packed, answer) {
            (Ok(packed), Ok(_)) => Ok(Copied {
                entries: packed.entries,
                bytes: packed.bytes,
                skipped: packed.skipped,
                skipped_names: packed.skipped_names,
            }),
            // The guest hung up, and says why.
            (Ok(_) | Err(msb_tree::Error::Stream(_)), Err(status)) => {
                Err(self.link.refine(explain(status)).await)
            }
            (Err(error), _) => Err(error.into()),
        }
    }

    /// Copies a file or tree of the guest to this host, as [`copy_in`](Self::copy_in) does the other way. It belongs to
    /// whoever this process is, without set-id bits. Nothing is written outside of `to`, whatever the guest sends; links
    /// may lead anywhere, and are not followed.
    ///
    /// # Errors
    /// [`Error::GuestFile`], [`Error::Tree`] for what cannot be written here or is not let in, [`Error::Ended`].
    pub async fn copy_out(
        &self,
        from: impl AsRef<Path>,
        to: impl AsRef<Path>,
    ) -> Result<Copied, Error> {
        let (from, to) = (from.as_ref(), to.as_ref().to_owned());
        let name = match only_contents(from) {
            true => None,
            false => Some(name_of(from)?.to_owned()),
        };
        let archive_name = name.as_deref().map_or(&b"."[..], OsStr::as_bytes);
        let mut pieces = self.pack(from, archive_name).await?;
        let (sender, mut receiver) = mpsc::channel::<io::Result<Bytes>>(QUEUE);
        let unpacking = tokio::task::spawn_blocking(move || {
            let source = PieceReader::new(|| receiver.blocking_recv().transpose());
            Place::at(&to, name.as_deref())
                .and_then(|place| msb_tree::unpack(source, &place, Modes::Permissions))
        });
        let mut packed = v1::Packed::default();
        let received = loop {
            match self.next(&mut pieces).await {
                Ok(Some(FileData { what })) => match what {
                    // The unpacking side tells by itself why it has ended.
                    Some(What::Data(data)) => {
                        let sent = sender.send(Ok(data)).await;
                        if sent.is_err() {
                            break Ok(());
                        }
                    }
                    Some(What::Packed(last)) => packed = last,
                    None => {}
                },
                Ok(None) => break Ok(()),
                Err(error) => {
                    let _ = sender
                        .send(Err(io::ErrorKind::ConnectionReset.into()))
                        .await;
                    break Err(error);
                }
            }
        };
        drop(sender);
        let unpacked = unpacking.await.map_err(broken)?;
        received?;
        let unpacked = unpacked?;
        let names = packed.skipped_names.iter().take(MAX_SKIPPED);
        Ok(Copied {
            entries: unpacked.entries,
            bytes: unpacked.bytes,
            skipped: packed.skipped,
            skipped_names: names.map(|name| path_of(name)).collect(),
        })
    }

    async fn pack(&self, path: &Path, name: &[u8]) -> Result<Streaming<FileData>, Error> {
        let request = PackTreeRequest {
            path: bytes_of(path),
            user: self.user.clone(),
            name: Bytes::copy_from_slice(name),
        };
        let mut client = self.link.client();
        let call = client.pack_tree(request);
        Ok(self.link.answer(call, explain).await?.into_inner())
    }

    async fn describe(&self, path: &Path, follow: bool) -> Result<Metadata, Error> {
        let mut request = self.request(path);
        request.follow = follow;
        let mut client = self.link.client();
        let call = client.describe_file(request);
        let info = self.link.answer(call, explain).await?.into_inner();
        let kind = info.kind();
        let since = Duration::from_secs(info.modified_s.unsigned_abs());
        let modified = match info.modified_s < 0 {
            true => SystemTime::UNIX_EPOCH.checked_sub(since),
            false => SystemTime::UNIX_EPOCH.checked_add(since),
        };
        Ok(Metadata {
            kind: kind.into(),
            len: info.len_bytes,
            mode: info.mode & 0o7777,
            uid: info.uid,
            gid: info.gid,
            modified: modified.unwrap_or(SystemTime::UNIX_EPOCH),
            target: (kind == Kind::Symlink).then(|| path_of(&info.target)),
        })
    }

    async fn remove_with(&self, path: &Path, recursive: bool) -> Result<(), Error> {
        let mut request = self.request(path);
        request.recursive = recursive;
        let mut client = self.link.client();
        // A tree may take its time.
        let removed = client.remove_file(request).await;
        self.settle(removed.map(drop)).await
    }

    async fn next<T>(&self, messages: &mut Streaming<T>) -> Result<Option<T>, Error> {
        let message = messages.message().await;
        self.settle(message).await
    }

    async fn settle<T>(&self, answer: Result<T, Status>) -> Result<T, Error> {
        match answer {
            Ok(answer) => Ok(answer),
            Err(status) => Err(self.link.refine(explain(status)).await),
        }
    }

    fn request(&self, path: &Path) -> FileRequest {
        FileRequest {
            path: bytes_of(path),
            user: self.user.clone(),
            follow: false,
            recursive: false,
        }
    }

    fn start(&self, path: &Path, name: &[u8]) -> FileInput {
        FileInput {
            input: Some(Input::Start(FileStart {
                path: bytes_of(path),
                user: self.user.clone(),
                name: Bytes::copy_from_slice(name),
            })),
        }
    }
}

impl From<Kind> for FileKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::File => Self::File,
            Kind::Directory => Self::Directory,
            Kind::Symlink => Self::Symlink,
            Kind::Other => Self::Other,
        }
    }
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "file",
            Self::Directory => "directory",
            Self::Symlink => "link",
            Self::Other => "other",
        })
    }
}

fn piece(data: Bytes) -> FileInput {
    FileInput {
        input: Some(Input::Data(data)),
    }
}

/// Whether the path means what is in a directory, as in `cp -r DIR/. ELSEWHERE`.
fn only_contents(path: &Path) -> bool {
    let path = path.as_os_str().as_bytes();
    path.ends_with(b"/.") || matches!(path, b"." | b"/")
}

/// What the copy is called where nobody says anything else.
fn name_of(path: &Path) -> Result<&OsStr, Error> {
    path.file_name().ok_or_else(|| {
        Error::Config(format!(
            "{path:?} has no name that a copy could have: write {path:?} with `/.` for what is in it"
        ))
    })
}

fn bytes_of(path: &Path) -> Bytes {
    Bytes::copy_from_slice(path.as_os_str().as_bytes())
}

fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

fn broken(error: tokio::task::JoinError) -> Error {
    Error::Host {
        what: "a thread for the copy",
        source: error.into(),
    }
}

/// The agent's statuses, in the terms of `agent.proto`.
fn explain(status: Status) -> Error {
    let kind = match status.code() {
        Code::NotFound => io::ErrorKind::NotFound,
        Code::PermissionDenied => io::ErrorKind::PermissionDenied,
        Code::AlreadyExists => io::ErrorKind::AlreadyExists,
        Code::FailedPrecondition => io::ErrorKind::InvalidInput,
        Code::ResourceExhausted => io::ErrorKind::StorageFull,
        Code::Aborted => io::ErrorKind::Other,
        _ => return crate::exec::explain(status),
    };
    Error::GuestFile {
        kind,
        reason: printable(status.message()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_copies_are_those_of_their_sources() {
        for (path, contents, name) in [
            ("/a/b", false, Some("b")),
            ("/a/b/", false, Some("b")),
            ("/a/b/.", true, Some("b")),
            (".", true, None),
            ("/", true, None),
            ("..", false, None),
            ("a/..", false, None),
        ] {
            let path = Path::new(path);
            assert_eq!(only_contents(path), contents, "{path:?}");
            assert_eq!(name_of(path).ok(), name.map(OsStr::new), "{path:?}");
        }
    }

    #[test]
    fn the_guests_refusals_are_told_by_kind_and_printable() {
        for (code, expected) in [
            (Code::NotFound, Some(io::ErrorKind::NotFound)),
            (Code::AlreadyExists, Some(io::ErrorKind::AlreadyExists)),
            (Code::ResourceExhausted, Some(io::ErrorKind::StorageFull)),
            (Code::Unavailable, None),
            (Code::InvalidArgument, None),
        ] {
            let error = explain(Status::new(code, "/x: \x1b[2Jno"));
            assert!(!error.to_string().contains(char::is_control), "{error:?}");
            let kind = match error {
                Error::GuestFile { kind, .. } => Some(kind),
                _ => None,
            };
            assert_eq!(kind, expected, "{code:?}");
        }
    }
}
