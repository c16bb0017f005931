//! The socket in a sandbox's directory, reached through the directory's descriptor: an address has room for 108 bytes,
//! and paths of homes are longer.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Its name.
pub(crate) const FILE: &str = "control";

fn address(dir: &File, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()))
}

/// Connects to the socket `name` in `dir`, however long the path is.
///
/// # Errors
/// There is no directory or no socket, or nobody listens.
pub fn connect_below(dir: &Path, name: &str) -> io::Result<UnixStream> {
    let dir = File::open(dir)?;
    UnixStream::connect(address(&dir, name))
}

/// Listens on the socket of the sandbox in `dir`. What is left of an earlier one is removed.
pub(crate) fn listen(dir: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(dir.join(FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let held = File::open(dir)?;
    let listener = UnixListener::bind(address(&held, FILE))?;
    // Nobody else can reach into the directory; this is for those who look at the socket alone.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(dir.join(FILE), mode)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_longer_than_an_address_work() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("d".repeat(120)).join("e".repeat(120));
        std::fs::create_dir_all(&dir).unwrap();
        assert!(dir.as_os_str().len() > 240);
        for _ in 0..2 {
            let listener = listen(&dir).unwrap();
            let client = connect_below(&dir, FILE).unwrap();
            let (served, _) = listener.accept().unwrap();
            drop((client, served));
        }
        connect_below(&dir, "other").unwrap_err();
    }
}
