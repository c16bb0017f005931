//! What tells whether a directory is as it was when an image was made of it.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::error::ImportError;
use crate::content::{Digest, Hasher};

/// Changes closer together than this can bear the same time: file systems count it in ticks, some in seconds.
const TICK: Duration = Duration::from_secs(2);
/// More files than this are packed each time.
const FILES: usize = 1_000_000;

/// Stands for the names, inodes and times of change of all files below `dir`: whatever is done to a file, its data,
/// mode, owner or attributes, gives it a new time of change, which no program can set. None where a file was changed
/// so shortly before `now` that it could be changed again within the same tick.
pub(super) fn of(dir: &Path, now: SystemTime) -> Result<Option<Digest>, ImportError> {
    let since = now.duration_since(SystemTime::UNIX_EPOCH);
    let newest = since.unwrap_or_default().saturating_sub(TICK).as_secs();
    walk(dir, i64::try_from(newest).unwrap_or(i64::MAX)).map_err(|source| ImportError::Read {
        what: "it".into(),
        source,
    })
}

fn walk(dir: &Path, newest: i64) -> io::Result<Option<Digest>> {
    let mut hasher = Hasher::new();
    let mut files = 0;
    let mut rest = vec![dir.to_owned()];
    while let Some(path) = rest.pop() {
        // The directory itself may be given by a link.
        let metadata = match path == dir {
            true => fs::metadata(&path)?,
            false => fs::symlink_metadata(&path)?,
        };
        files += 1;
        if metadata.ctime() >= newest || files > FILES {
            return Ok(None);
        }
        add(&mut hasher, path.as_os_str().as_bytes(), &metadata);
        if metadata.is_dir() {
            let below = fs::read_dir(&path)?.map(|entry| Ok(entry?.path()));
            let mut below = below.collect::<io::Result<Vec<_>>>()?;
            below.sort();
            rest.extend(below);
        }
    }
    Ok(Some(hasher.finish()))
}

fn add(hasher: &mut Hasher, path: &[u8], metadata: &Metadata) {
    hasher.update(&path.len().to_le_bytes());
    hasher.update(path);
    for number in [metadata.dev(), metadata.ino(), metadata.len()] {
        hasher.update(&number.to_le_bytes());
    }
    for time in [metadata.ctime(), metadata.ctime_nsec()] {
        hasher.update(&time.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    /// Long after anything that a test does.
    fn later() -> SystemTime {
        SystemTime::now() + Duration::from_secs(3600)
    }

    #[test]
    fn any_change_below_a_directory_shows_and_nothing_else_does() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("sub")).unwrap();
        fs::write(root.join("sub/file"), "text").unwrap();
        let print = || of(&root, later()).unwrap().unwrap();
        let first = print();
        assert_eq!(first, print());
        let mut seen = vec![first];
        let changes: [&dyn Fn(); 5] = [
            &|| fs::write(root.join("sub/file"), "TEXT").unwrap(),
            &|| fs::set_permissions(root.join("sub"), fs::Permissions::from_mode(0o700)).unwrap(),
            &|| symlink("sub/file", root.join("link")).unwrap(),
            &|| fs::rename(root.join("link"), root.join("other")).unwrap(),
            &|| fs::remove_file(root.join("other")).unwrap(),
        ];
        for (at, change) in changes.iter().enumerate() {
            let before = fs::metadata(root.join("sub")).unwrap();
            // The time of change is counted in ticks, which pass.
            while {
                let probe = dir.path().join("probe");
                fs::write(&probe, "").unwrap();
                let now = fs::metadata(&probe).unwrap();
                (now.ctime(), now.ctime_nsec()) <= (before.ctime(), before.ctime_nsec())
            } {}
            change();
            let now = print();
            assert!(!seen.contains(&now), "change {at} does not show");
            seen.push(now);
        }
    }

    #[test]
    fn what_was_changed_just_now_has_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(of(dir.path(), SystemTime::now()).unwrap(), None);
        assert!(of(dir.path(), later()).unwrap().is_some());
        of(&dir.path().join("missing"), later()).unwrap_err();
    }
}
