//! Directories of the host in the guest, by virtiofs: `virtiofsd` serves each, in a process of its own.

use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use crate::Error;
use crate::confine::Confines;
use crate::process::{Output, Process};

/// Where distributions put `virtiofsd` outside of `PATH`: the one in Rust, and the one of QEMU before version 8.
const PLACES: [&str; 4] = [
    "virtiofsd",
    "/usr/libexec/virtiofsd",
    "/usr/lib/virtiofsd",
    "/usr/lib/qemu/virtiofsd",
];
/// The descriptor of its listening socket.
const LISTENER: i32 = 3;

/// A directory of the host that is being served. It ends when this is dropped.
#[derive(Debug)]
pub struct Share {
    dir: PathBuf,
    kind: Kind,
    process: Process,
    output: Output,
    connection: Option<OwnedFd>,
}

impl Share {
    /// Serves `dir`, an absolute path, to the machine that this is given to. What is mounted below it cannot be seen in a
    /// read-only share.
    ///
    /// `virtiofsd` confines itself: it sees this directory and nothing else. QEMU's own needs root for that; the one in Rust
    /// (1.14.0) works as any user, who is then the owner of all that the guest writes.
    ///
    /// # Errors
    /// [`Error::VirtiofsdMissing`], or a resource the host refused. A directory that it cannot serve shows when the machine is
    /// started, as [`Error::ShareRefused`].
    pub async fn start(dir: &Path, read_only: bool) -> Result<Self, Error> {
        let virtiofsd = Virtiofsd::find().await?;
        let host = |what| move |source| Error::Host { what, source };
        let (listener, connection) = connect().map_err(host("a socket"))?;
        let c_dir = CString::new(dir.as_os_str().as_bytes()).map_err(io::Error::other);
        let c_dir = c_dir.map_err(host("the directory's name"))?;
        let protects = read_only && virtiofsd.kind == Kind::Qemus;
        let confines = Confines::Itself {
            read_only: protects.then_some(c_dir),
        };
        let output = Output::default();
        let args = virtiofsd.arguments(dir, read_only);
        let fds = vec![(listener.into(), LISTENER)];
        let process = Process::spawn(&virtiofsd.program, args, fds, confines, &output).await?;
        Ok(Self {
            dir: dir.to_owned(),
            kind: virtiofsd.kind,
            process,
            output,
            connection: Some(connection.into()),
        })
    }

    /// The end of the connection that is QEMU's.
    pub(crate) fn take_connection(&mut self) -> Option<OwnedFd> {
        self.connection.take()
    }

    /// Waits for its end, which is none that was asked for while the machine runs.
    pub(crate) async fn ended(&self) -> Error {
        let status = self.process.wait().await;
        self.explain(status)
    }

    /// Why it has ended, if it has.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.process.status().map(|status| self.explain(status))
    }

    fn explain(&self, status: ExitStatus) -> Error {
        let mut reason = match self.output.errors.tail(3) {
            reason if reason.is_empty() => format!("virtiofsd ended with {status}"),
            reason => reason,
        };
        if let Some(hint) = hint(self.kind, rustix::process::geteuid().is_root()) {
            reason.push_str(hint);
        }
        Error::ShareRefused {
            dir: self.dir.clone(),
            reason,
        }
    }
}

/// What may be the cause, and what to do.
fn hint(kind: Kind, is_root: bool) -> Option<&'static str> {
    (kind == Kind::Qemus && !is_root).then_some(
        "; QEMU's own virtiofsd has to be root: install the one in Rust (a package of its own since Debian 13 and \
         Ubuntu 24.04, elsewhere `cargo install virtiofsd`), which need not",
    )
}

/// A listening socket, and a connection that waits in it. Both have no name any more.
fn connect() -> io::Result<(UnixListener, UnixStream)> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("socket");
    let listener = UnixListener::bind(&path)?;
    let connection = UnixStream::connect(&path)?;
    Ok((listener, connection))
}

/// The two programs of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Of QEMU before version 8. It has no read-only shares, and has to be root.
    Qemus,
    /// The one that replaced it, in Rust.
    Standalone,
}

struct Virtiofsd {
    program: PathBuf,
    kind: Kind,
}

impl Virtiofsd {
    async fn find() -> Result<Self, Error> {
        for program in PLACES {
            let (output, args) = (Output::default(), vec!["--version".into()]);
            let confines = Confines::Itself { read_only: None };
            let program = PathBuf::from(program);
            let Ok(asked) = Process::spawn(&program, args, Vec::new(), confines, &output).await
            else {
                continue;
            };
            asked.wait().await;
            let said = output.console.tail(usize::MAX) + &output.errors.tail(usize::MAX);
            let kind = kind(&said);
            return Ok(Self { program, kind });
        }
        Err(Error::VirtiofsdMissing)
    }

    fn arguments(&self, dir: &Path, read_only: bool) -> Vec<OsString> {
        let mut args = vec![OsString::from(format!("--fd={LISTENER}"))];
        match self.kind {
            Kind::Qemus => {
                // In a list of options a comma ends one, and a backslash takes that from it.
                let mut source = b"source=".to_vec();
                for byte in dir.as_os_str().as_bytes() {
                    if matches!(byte, b',' | b'\\') {
                        source.push(b'\\');
                    }
                    source.push(*byte);
                }
                let options = ["-f", "-o", "cache=auto,log_level=err,xattr", "-o"];
                args.extend(options.map(OsString::from));
                args.push(OsString::from_vec(source));
            }
            Kind::Standalone => {
                args.extend(["--log-level=error", "--xattr", "--shared-dir"].map(OsString::from));
                args.push(dir.into());
                args.extend(read_only.then(|| "--readonly".into()));
            }
        }
        args
    }
}

/// By what it says of its version: "virtiofsd version 7.2.22 (Debian ...)" is QEMU's, "virtiofsd 1.13.0" is not.
fn kind(said: &str) -> Kind {
    match said.contains("virtiofsd version") {
        true => Kind::Qemus,
        false => Kind::Standalone,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_root_is_told_of_the_program_that_need_not_be() {
        for (kind, is_root, told) in [
            (Kind::Qemus, false, true),
            (Kind::Qemus, true, false),
            (Kind::Standalone, false, false),
        ] {
            let hint = hint(kind, is_root);
            assert_eq!(hint.is_some(), told, "{kind:?} {is_root}");
            assert!(hint.is_none_or(|hint| hint.contains("cargo install virtiofsd")));
        }
    }

    #[test]
    fn the_two_programs_are_told_apart_and_get_their_own_arguments() {
        let qemus = "virtiofsd version 7.2.22 (Debian 1:7.2+dfsg-7)\nusing FUSE kernel interface version 7.36\n";
        for (said, expected) in [
            (qemus, Kind::Qemus),
            ("virtiofsd 1.13.0\n", Kind::Standalone),
        ] {
            assert_eq!(kind(said), expected, "{said}");
        }
        let arguments = |kind, read_only| {
            let virtiofsd = Virtiofsd {
                program: "virtiofsd".into(),
                kind,
            };
            let args = virtiofsd.arguments(Path::new("/a,b\\c d"), read_only);
            let args = args.iter().map(|arg| arg.to_string_lossy().into_owned());
            args.collect::<Vec<_>>().join(" ")
        };
        let qemus = "--fd=3 -f -o cache=auto,log_level=err,xattr -o source=/a\\,b\\\\c d";
        assert_eq!(arguments(Kind::Qemus, false), qemus);
        // What it cannot do is done around it.
        assert_eq!(arguments(Kind::Qemus, true), qemus);
        let standalone = "--fd=3 --log-level=error --xattr --shared-dir /a,b\\c d";
        assert_eq!(arguments(Kind::Standalone, false), standalone);
        assert_eq!(
            arguments(Kind::Standalone, true),
            format!("{standalone} --readonly")
        );
    }
}
