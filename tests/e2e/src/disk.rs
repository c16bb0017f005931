//! Root disks made out of the image `base`: unpacked, changed, packed again.

use std::path::{Path, PathBuf};
use std::process::Command;

use msb::image::Store;

/// Unpacks these parts of the image `base`, or all of it, to `dir/root`, and returns that.
///
/// # Panics
/// When there is no such image, or no squashfs-tools.
#[must_use]
pub fn unpack_base(dir: &Path, parts: &[&str]) -> PathBuf {
    let base = Store::open_default().and_then(|store| store.root_disk("base"));
    let root = dir.join("root");
    let mut command = Command::new("unsquashfs");
    command.args(["-q", "-n", "-d"]).arg(&root);
    run(command.arg(base.expect("base").path).args(parts));
    root
}

/// Packs a directory, all of it root's, to `dir/root.squashfs`, and returns that.
///
/// # Panics
/// When it cannot be done.
#[must_use]
pub fn pack(dir: &Path, root: &Path) -> PathBuf {
    let disk = dir.join("root.squashfs");
    let mut command = Command::new("mksquashfs");
    command.arg(root).arg(&disk).arg("-noappend");
    run(command.args(["-comp", "lz4", "-quiet", "-no-progress", "-all-root"]));
    disk
}

fn run(command: &mut Command) {
    let output = command.output().expect("squashfs-tools");
    assert!(output.status.success(), "{command:?}: {output:?}");
}
