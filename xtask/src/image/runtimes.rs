//! The root disk `runtimes`: an installed Debian with the programs of `cargo xtask trust`.
//!
//! Unlike `base` its packages are really installed, their scripts run: what is tried there are the trust stores as a user
//! of these packages has them.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use msb_image::{Artefact, ImageName};

use super::debian::Sources;
use super::{Builder, recipe, report, step};
use crate::{process, setup};

const PACKAGES: &[&str] = &[
    "apt",
    "ca-certificates",
    "ca-certificates-java",
    "curl",
    "default-jre-headless",
    "git",
    "gnutls-bin",
    "hostname",
    "netbase",
    "nodejs",
    "openssl",
    "perl",
    "php-cli",
    "php-curl",
    "python3",
    "python3-pip",
    "ruby",
    "wget",
];

/// The release whose versions of Python and Java the script names.
const SUITE: &str = "bookworm";

/// Below `xtask/trust`, each with its text, which is part of the recipe.
const SOURCES: &[(&str, &str)] = &[
    ("Client.java", include_str!("../../trust/Client.java")),
    ("client.go", include_str!("../../trust/client.go")),
    ("finish.sh", include_str!("../../trust/finish.sh")),
    (
        "requirements.txt",
        include_str!("../../trust/requirements.txt"),
    ),
];

/// Half a gigabyte: packed fast rather than small.
const SQUASHFS: &[&str] = &["-comp", "lz4", "-b", "128K", "-no-xattrs", "-no-exports"];

/// Raise when the image would come out different for a reason not named above.
const RECIPE_VERSION: u32 = 1;

/// Brings the root disk up to date.
pub(super) fn build(builder: &Builder, sources: &Sources) -> Result<ImageName> {
    let name: ImageName = "runtimes".parse()?;
    let artefact = Artefact::Image(name.clone());
    let texts: Vec<_> = SOURCES.iter().map(|(_, text)| *text).collect();
    let recipe = recipe(
        RECIPE_VERSION,
        &[
            &sources.ingredient(),
            &PACKAGES.join(" "),
            &texts.join("\n"),
            &SQUASHFS.join(" "),
        ],
    );
    if let Some(manifest) = builder.current(&artefact, &recipe) {
        report(&artefact, &manifest, "unchanged");
        return Ok(name);
    }
    builder.require_tools()?;
    ensure!(
        sources.suite == SUITE,
        "the image `runtimes` is made of Debian {SUITE}: set MSB_DEBIAN_SUITE={SUITE}"
    );
    setup::for_runtimes()?;
    let dir = tempfile::tempdir()?;
    let tar = dir.path().join("runtimes.tar");
    step("installing Debian for `runtimes`", || {
        install(sources, dir.path(), &tar)
    })?;
    let disk = dir.path().join("runtimes.squashfs");
    step("packing `runtimes`", || {
        let mut command = Command::new("mksquashfs");
        command.arg("-").arg(&disk).arg("-tar").args(SQUASHFS);
        command.args(["-noappend", "-no-progress", "-quiet"]);
        process::capture_from(&mut command, std::fs::File::open(&tar)?).map(drop)
    })?;
    let mut file = std::fs::File::open(&disk)?;
    let origin = format!("Debian {} with PyPI and npm", sources.suite);
    let manifest = builder
        .store
        .publish(&artefact, &mut file, recipe, origin)
        .context("cannot put it into the store")?;
    report(&artefact, &manifest, "new");
    Ok(name)
}

fn install(sources: &Sources, dir: &Path, tar: &Path) -> Result<()> {
    for (name, text) in SOURCES {
        std::fs::write(dir.join(name), text)?;
    }
    let dir = dir.display();
    let options = [
        "--format=tar".to_owned(),
        format!("--include={}", PACKAGES.join(",")),
        "--dpkgopt=path-exclude=/usr/share/doc/*".to_owned(),
        "--dpkgopt=path-exclude=/usr/share/locale/*".to_owned(),
        format!("--customize-hook=sh '{dir}/finish.sh' \"$1\" '{dir}'"),
    ];
    let mut command = sources.mmdebstrap_installing(&options, tar);
    process::capture(command.env("LC_ALL", "C")).map(drop)
}
