//! The host's calls about files. Each runs on a thread of its own, which becomes the user it is for: the kernel decides
//! what that user may do.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use msb_agent_proto::CHUNK_BYTES;
use msb_agent_proto::v1::file_data::What;
use msb_agent_proto::v1::file_info::Kind;
use msb_agent_proto::v1::file_input::Input;
use msb_agent_proto::v1::{
    FileData, FileDone, FileEntry, FileInfo, FileInput, FileList, FileRequest, FileStart,
    PackTreeRequest, Packed, UnpackTreeResponse,
};
use msb_tree::{Modes, PieceReader, PieceWriter, Place};
use rustix::fs::{Gid, OFlags, Uid};
use tokio::sync::{mpsc, oneshot};
use tonic::{Status, Streaming};

use crate::users::{self, Login};

/// Pieces on their way; the connection's own window is behind them.
const QUEUE: usize = 2;
/// Entries of a directory in one message.
const ENTRIES: usize = 256;

pub(crate) type Pieces<T> = mpsc::Receiver<Result<T, Status>>;

pub(crate) async fn describe(request: FileRequest) -> Result<FileInfo, Status> {
    let path = path_of(&request.path)?;
    as_user(&request.user, move || {
        let meta = match request.follow {
            true => fs::metadata(&path),
            false => fs::symlink_metadata(&path),
        };
        meta.and_then(|meta| info(&path, &meta))
            .map_err(|error| refusal(&path, &error))
    })
    .await
}

pub(crate) fn list(request: FileRequest) -> Result<Pieces<FileList>, Status> {
    let path = path_of(&request.path)?;
    stream(&request.user, move |sender| {
        let fails = |error: io::Error| refusal(&path, &error);
        let mut entries = Vec::new();
        let send = |entries| {
            let sent = sender.blocking_send(Ok(FileList { entries }));
            sent.map_err(|_| gone())
        };
        for entry in fs::read_dir(&path).map_err(fails)? {
            let entry = entry.map_err(fails)?;
            let kind = entry.file_type().map(kind).unwrap_or_default();
            entries.push(FileEntry {
                name: Bytes::copy_from_slice(entry.file_name().as_bytes()),
                kind: kind.into(),
            });
            if entries.len() == ENTRIES {
                send(std::mem::take(&mut entries))?;
            }
        }
        send(entries)
    })
}

pub(crate) async fn make_directory(request: FileRequest) -> Result<FileDone, Status> {
    let path = path_of(&request.path)?;
    as_user(&request.user, move || {
        let made = match request.recursive {
            true => fs::create_dir_all(&path),
            false => fs::create_dir(&path),
        };
        made.map_err(|error| refusal(&path, &error))?;
        Ok(FileDone {})
    })
    .await
}

pub(crate) async fn remove(request: FileRequest) -> Result<FileDone, Status> {
    let path = path_of(&request.path)?;
    as_user(&request.user, move || {
        let is_dir = fs::symlink_metadata(&path).map(|meta| meta.is_dir());
        let removed = match (is_dir, request.recursive) {
            (Err(error), true) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            (Err(error), _) => Err(error),
            (Ok(true), true) => fs::remove_dir_all(&path),
            (Ok(true), false) => fs::remove_dir(&path),
            (Ok(false), _) => fs::remove_file(&path),
        };
        removed.map_err(|error| refusal(&path, &error))?;
        Ok(FileDone {})
    })
    .await
}

pub(crate) fn read(request: FileRequest) -> Result<Pieces<FileData>, Status> {
    let path = path_of(&request.path)?;
    stream(&request.user, move |sender| {
        let fails = |error: io::Error| refusal(&path, &error);
        let mut file = open_regular(&path).map_err(fails)?;
        let mut writer = PieceWriter::new(CHUNK_BYTES, |piece| send_data(sender, piece));
        io::copy(&mut file, &mut writer)
            .and_then(|_| writer.flush())
            .map_err(fails)
    })
}

pub(crate) async fn write(input: Streaming<FileInput>) -> Result<FileDone, Status> {
    let (start, source) = start_of(input).await?;
    let path = path_of(&start.path)?;
    as_user(&start.user, move || {
        replace(&path, source).map_err(|error| refusal(&path, &error))?;
        Ok(FileDone {})
    })
    .await
}

pub(crate) fn pack(request: PackTreeRequest) -> Result<Pieces<FileData>, Status> {
    let path = path_of(&request.path)?;
    stream(&request.user, move |sender| {
        let mut writer = PieceWriter::new(CHUNK_BYTES, |piece| send_data(sender, piece));
        let packed = msb_tree::pack(&path, &request.name, &mut writer).map_err(tree_refusal)?;
        let names = packed.skipped_names.iter();
        let names = names.map(|name| Bytes::copy_from_slice(name.as_os_str().as_bytes()));
        let what = Some(What::Packed(Packed {
            skipped: packed.skipped,
            skipped_names: names.collect(),
        }));
        let sent = sender.blocking_send(Ok(FileData { what }));
        sent.map_err(|_| gone())
    })
}

pub(crate) async fn unpack(input: Streaming<FileInput>) -> Result<UnpackTreeResponse, Status> {
    let (start, source) = start_of(input).await?;
    let path = path_of(&start.path)?;
    as_user(&start.user, move || {
        let name = Some(OsStr::from_bytes(&start.name)).filter(|name| !name.is_empty());
        let unpacked = Place::at(&path, name)
            .and_then(|place| msb_tree::unpack(source, &place, Modes::All))
            .map_err(tree_refusal)?;
        Ok(UnpackTreeResponse {
            entries: unpacked.entries,
            len_bytes: unpacked.bytes,
        })
    })
    .await
}

/// Runs `job` as `user` and waits for what it says.
async fn as_user<T: Send + 'static>(
    user: &str,
    job: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    let (sender, receiver) = oneshot::channel();
    run(user, move |became| {
        // The host may have given up.
        let _ = sender.send(became.and_then(|()| job()));
    })?;
    receiver
        .await
        .unwrap_or_else(|_| Err(Status::internal("the agent's thread ended")))
}

/// Runs `job` as `user`; what it sends, and its error, come out of the channel.
fn stream<T: Send + 'static>(
    user: &str,
    job: impl FnOnce(&mpsc::Sender<Result<T, Status>>) -> Result<(), Status> + Send + 'static,
) -> Result<Pieces<T>, Status> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    run(user, move |became| {
        if let Err(status) = became.and_then(|()| job(&sender)) {
            let _ = sender.blocking_send(Err(status));
        }
    })?;
    Ok(receiver)
}

fn run(user: &str, job: impl FnOnce(Result<(), Status>) + Send + 'static) -> Result<(), Status> {
    let login =
        match user {
            "" => None,
            user => Some(users::resolve(user).map_err(|error| {
                Status::invalid_argument(format!("cannot be {user:?}: {error}"))
            })?),
        };
    std::thread::Builder::new()
        .name("files".into())
        .spawn(move || job(login.map_or(Ok(()), |login| become_user(&login))))
        .map(drop)
        .map_err(|error| Status::resource_exhausted(format!("the guest has no thread: {error}")))
}

/// Of this thread only: the kernel keeps who one is for each.
fn become_user(login: &Login) -> Result<(), Status> {
    let groups: Vec<Gid> = login.groups.iter().copied().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(login.uid), Gid::from_raw(login.gid));
    rustix::thread::set_thread_groups(&groups)
        .and_then(|()| rustix::thread::set_thread_res_gid(gid, gid, gid))
        .and_then(|()| rustix::thread::set_thread_res_uid(uid, uid, uid))
        .map_err(|error| Status::internal(format!("cannot become the user: {error}")))
}

/// The first message, and the rest as something to read.
async fn start_of(mut input: Streaming<FileInput>) -> Result<(FileStart, impl Read), Status> {
    let Some(FileInput {
        input: Some(Input::Start(start)),
    }) = input.message().await?
    else {
        return Err(Status::invalid_argument(
            "the first message must be `start`",
        ));
    };
    let (sender, mut receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        loop {
            let piece = match input.message().await {
                Ok(Some(FileInput {
                    input: Some(Input::Data(data)),
                })) => Ok(data),
                Ok(None) => return,
                Ok(Some(_)) => Err(io::ErrorKind::InvalidData.into()),
                Err(status) => Err(io::Error::other(status.message().to_owned())),
            };
            let last = piece.is_err();
            // The reader may have failed, which it tells by itself.
            if sender.send(piece).await.is_err() || last {
                return;
            }
        }
    });
    Ok((
        start,
        PieceReader::new(move || receiver.blocking_recv().transpose()),
    ))
}

/// Writes a file beside `path` and puts it in its place.
fn replace(path: &Path, mut source: impl Read) -> io::Result<()> {
    // A link stays, and what it leads to is replaced.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let before = fs::symlink_metadata(&path).ok();
    if before.as_ref().is_some_and(|meta| !meta.is_file()) {
        return Err(not_a_file());
    }
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(not_a_file());
    };
    let mut beside = OsStr::new(".msb-").to_owned();
    // Long names leave no room for more.
    beside.push(OsStr::from_bytes(&name.as_bytes()[..name.len().min(200)]));
    beside.push(format!("-{:?}", std::thread::current().id()));
    let beside = dir.join(beside);
    let written = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&beside)?;
        io::copy(&mut source, &mut file)?;
        if let Some(before) = before {
            let same_owner =
                |meta: &Metadata| (meta.uid(), meta.gid()) == (before.uid(), before.gid());
            if !file.metadata().is_ok_and(|meta| same_owner(&meta)) {
                // Only root can; the file is the writer's then.
                let _ = std::os::unix::fs::fchown(&file, Some(before.uid()), Some(before.gid()));
            }
            file.set_permissions(before.permissions())?;
        }
        fs::rename(&beside, &path)
    };
    let outcome = written();
    if outcome.is_err() {
        let _ = fs::remove_file(&beside);
    }
    outcome
}

/// Waits for nobody: a pipe without a writer would hold the thread up.
fn open_regular(path: &Path) -> io::Result<File> {
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(nonblocking)
        .open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(not_a_file()),
    }
}

fn not_a_file() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")
}

fn info(path: &Path, meta: &Metadata) -> io::Result<FileInfo> {
    let kind = kind(meta.file_type());
    let target = match kind {
        Kind::Symlink => fs::read_link(path)?,
        _ => PathBuf::new(),
    };
    Ok(FileInfo {
        kind: kind.into(),
        len_bytes: meta.len(),
        mode: meta.permissions().mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        modified_s: meta.mtime(),
        target: Bytes::copy_from_slice(target.as_os_str().as_bytes()),
    })
}

fn kind(file_type: fs::FileType) -> Kind {
    match file_type {
        kind if kind.is_file() => Kind::File,
        kind if kind.is_dir() => Kind::Directory,
        kind if kind.is_symlink() => Kind::Symlink,
        _ => Kind::Other,
    }
}

fn path_of(bytes: &[u8]) -> Result<PathBuf, Status> {
    let path = Path::new(OsStr::from_bytes(bytes));
    match path.is_absolute() && !bytes.contains(&0) {
        true => Ok(path.to_owned()),
        false => Err(Status::invalid_argument(format!(
            "{path:?} is not an absolute path"
        ))),
    }
}

fn send_data(sender: &mpsc::Sender<Result<FileData, Status>>, piece: Vec<u8>) -> io::Result<()> {
    let what = Some(What::Data(piece.into()));
    let sent = sender.blocking_send(Ok(FileData { what }));
    sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
}

fn gone() -> Status {
    Status::cancelled("the host has gone")
}

fn refusal(path: &Path, error: &io::Error) -> Status {
    use io::ErrorKind as K;
    let text = format!("{path:?}: {error}");
    match error.kind() {
        K::NotFound => Status::not_found(text),
        K::PermissionDenied | K::ReadOnlyFilesystem => Status::permission_denied(text),
        K::AlreadyExists => Status::already_exists(text),
        K::NotADirectory | K::IsADirectory | K::DirectoryNotEmpty | K::InvalidInput => {
            Status::failed_precondition(text)
        }
        K::StorageFull | K::QuotaExceeded | K::FileTooLarge | K::OutOfMemory => {
            Status::resource_exhausted(text)
        }
        _ => Status::aborted(text),
    }
}

fn tree_refusal(error: msb_tree::Error) -> Status {
    match &error {
        msb_tree::Error::File { what, path, source } => {
            let status = refusal(path, source);
            Status::new(status.code(), format!("cannot {what} {}", status.message()))
        }
        error => {
            let cause = std::error::Error::source(error);
            let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
            Status::failed_precondition(format!("{error}{cause}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_or_not_at_all() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::ConnectionReset.into())
            }
        }
        let dir = tempfile::tempdir().expect("a directory");
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        fs::write(&file, "old").expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("mode");
        std::os::unix::fs::symlink("file", &link).expect("linked");
        replace(&link, b"half".chain(Broken)).expect_err("it broke off");
        assert_eq!(fs::read(&file).expect("there"), b"old");
        replace(&link, &b"new"[..]).expect("replaced");
        assert_eq!(fs::read(&file).expect("there"), b"new");
        let mode = fs::metadata(&file).expect("there").permissions().mode();
        assert_eq!(mode & 0o7777, 0o640);
        assert!(link.is_symlink());
        let long = dir.path().join("n".repeat(255));
        replace(&long, &b"new"[..]).expect("written");
        replace(dir.path(), &b"new"[..]).expect_err("a directory");
        assert_eq!(fs::read_dir(dir.path()).expect("a directory").count(), 3);
    }

    #[test]
    fn paths_are_absolute() {
        for (path, good) in [
            ("/a", true),
            ("/", true),
            ("a", false),
            ("", false),
            ("/a\0", false),
        ] {
            assert_eq!(path_of(path.as_bytes()).is_ok(), good, "{path:?}");
        }
    }
}
