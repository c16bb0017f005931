//! The root disk `base`: a small Debian with curl, python3 and a shell.

use std::path::Path;

use anyhow::Result;
use msb_image::{Artefact, ImageName};

use super::debian::Sources;
use super::{Builder, recipe, report, step};
use crate::process;

/// What the image contains, with dependencies. `usr-is-merged` keeps Perl from coming in
/// through `usrmerge`.
const PACKAGES: &[&str] = &[
    "base-files",
    "base-passwd",
    "bash",
    "busybox-static",
    "ca-certificates",
    "coreutils",
    "curl",
    "dash",
    "findutils",
    "grep",
    "gzip",
    "hostname",
    "libc-bin",
    "mawk",
    "netbase",
    "openssl",
    "python3",
    "python3-minimal",
    "sed",
    "tar",
    "usr-is-merged",
];

/// Makes the directories that packages of older releases still use links into /usr.
const MERGE_USR: &str =
    r#"for d in bin sbin lib lib64; do mkdir -p "$1/usr/$d"; ln -s "usr/$d" "$1/$d"; done"#;

const FINISH: &str = include_str!("../../base/finish.sh");

/// LZ4 decompresses several times faster than zstd, which is what counts under emulation.
const SQUASHFS: &[&str] = &[
    "-comp",
    "lz4",
    "-Xhc",
    "-b",
    "128K",
    "-all-root",
    "-no-xattrs",
    "-root-mode",
    "755",
    "-no-exports",
];

/// All files and the file system carry this time (2023-06-10, Debian 12's release).
const EPOCH: &str = "1686355200";

/// Raise when the image would come out different for a reason not named above.
const RECIPE_VERSION: u32 = 1;

/// Brings the root disk `base` up to date.
pub(super) fn build(builder: &Builder, sources: &Sources) -> Result<()> {
    let artefact = Artefact::Image(ImageName::base());
    let recipe = recipe(
        RECIPE_VERSION,
        &[
            &sources.ingredient(),
            &PACKAGES.join(" "),
            MERGE_USR,
            FINISH,
            &SQUASHFS.join(" "),
            EPOCH,
        ],
    );
    if let Some(manifest) = builder.current(&artefact, &recipe) {
        report(&artefact, &manifest, "unchanged");
        return Ok(());
    }
    builder.require_tools()?;
    let dir = tempfile::tempdir()?;
    let tar = dir.path().join("base.tar");
    step(
        &format!("unpacking Debian {} for `base`", sources.suite),
        || unpack(sources, dir.path(), &tar),
    )?;
    let disk = dir.path().join("base.squashfs");
    step("packing `base`", || pack(&tar, &disk))?;
    let origin = format!("Debian {}", sources.suite);
    builder.publish(&artefact, &std::fs::read(&disk)?, &recipe, &origin)?;
    Ok(())
}

fn unpack(sources: &Sources, dir: &Path, tar: &Path) -> Result<()> {
    let finish = dir.join("finish.sh");
    std::fs::write(&finish, FINISH)?;
    let options = [
        "--format=tar".to_owned(),
        format!("--include={}", PACKAGES.join(",")),
        format!("--setup-hook={MERGE_USR}"),
        format!("--extract-hook=sh '{}' \"$1\"", finish.display()),
    ];
    let mut command = sources.mmdebstrap(&options, tar);
    command.env("SOURCE_DATE_EPOCH", EPOCH).env("LC_ALL", "C");
    process::capture(&mut command).map(drop)
}

fn pack(tar: &Path, disk: &Path) -> Result<()> {
    let mut command = std::process::Command::new("mksquashfs");
    command.arg("-").arg(disk).arg("-tar").args(SQUASHFS).args([
        "-noappend",
        "-no-progress",
        "-quiet",
        "-mkfs-time",
        EPOCH,
        "-all-time",
        EPOCH,
    ]);
    process::capture_from(&mut command, std::fs::File::open(tar)?).map(drop)
}
