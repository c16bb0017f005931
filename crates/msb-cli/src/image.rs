//! `msb image`: what is in the store, what comes into it and what leaves it.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use msb::image::{Artefact, Digest, ImageName, ImportOptions, Imported, Manifest, Store};
use serde::Serialize;

use crate::report;

/// Digits of a digest that lists show.
const SHORT_DIGEST: usize = 12;

#[derive(Debug, Subcommand)]
pub(crate) enum ImageTask {
    /// Make an image of a file or directory, and print its name.
    ///
    /// Takes an OCI image layout (a directory, or a tar archive of one), a docker archive (`docker save`), a directory with
    /// a root file system, or a squashfs file. What was imported before is not made again.
    Import(Import),
    /// List the images.
    Ls {
        /// As a JSON array.
        #[arg(long)]
        json: bool,
    },
    /// Remove imported images. A sandbox that runs one keeps it until its end.
    Rm {
        /// Their names.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<ImageName>,
    },
    /// Show one image as JSON.
    Inspect {
        /// Its name.
        name: ImageName,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Import {
    /// The file or directory.
    path: PathBuf,

    /// Its name in the store. Default: the file's own.
    #[arg(long)]
    name: Option<ImageName>,

    /// Which image, where the layout or archive has several: a reference or a tag.
    #[arg(long = "ref", value_name = "REFERENCE")]
    reference: Option<String>,
}

/// An image for people and programs.
#[derive(Serialize)]
struct Shown<'a> {
    name: &'a str,
    #[serde(flatten)]
    manifest: &'a Manifest,
}

pub(crate) fn run(task: ImageTask) -> Result<()> {
    let store = Store::open_default()?;
    match task {
        ImageTask::Import(import) => {
            let options = ImportOptions {
                name: import.name,
                reference: import.reference,
                ..ImportOptions::default()
            };
            let imported = store.import(&import.path, &options)?;
            tell(&imported);
            print(imported.name.as_str())
        }
        ImageTask::Ls { json } => list(&store, json),
        ImageTask::Rm { names } => {
            for name in names {
                store.remove_image(&name)?;
            }
            Ok(())
        }
        ImageTask::Inspect { name } => {
            let manifest = store.image(&name)?;
            let shown = Shown {
                name: name.as_str(),
                manifest: &manifest,
            };
            print(&serde_json::to_string_pretty(&shown)?)
        }
    }
}

/// Imports what is at `path` for a run, under a name that no other path has, and returns that name.
pub(crate) fn import_path(path: &Path) -> Result<String> {
    let store = Store::open_default()?;
    let whole = path
        .canonicalize()
        .with_context(|| format!("cannot find the image {}", path.display()))?;
    let digest = Digest::of(whole.as_os_str().as_encoded_bytes()).to_string();
    let options = ImportOptions {
        name: Some(format!("path-{}", &digest[..SHORT_DIGEST]).parse()?),
        ..ImportOptions::default()
    };
    let imported = store.import(&whole, &options)?;
    if imported.is_new {
        tell(&imported);
    }
    Ok(imported.name.to_string())
}

/// Whether the image says what to run. Where it cannot be told, the sandbox will tell why.
pub(crate) fn says_command(name: &str) -> bool {
    let config = || {
        let manifest = Store::open_default()
            .ok()?
            .image(&name.parse().ok()?)
            .ok()?;
        Some(manifest.config)
    };
    config().is_none_or(|config| !config.command(&[]).is_empty())
}

fn tell(imported: &Imported) {
    let mib = imported.manifest.content.bytes as f64 / f64::from(1 << 20);
    let state = match imported.is_new {
        true => "new",
        false => "known already",
    };
    report::note(&format!("image {}: {mib:.1} MiB ({state})", imported.name));
}

fn list(store: &Store, json: bool) -> Result<()> {
    let mut images = Vec::new();
    for name in store.image_names()? {
        // One that is being removed is not there.
        if let Some(manifest) = store.manifest(&Artefact::Image(name.clone()))? {
            images.push((name, manifest));
        }
    }
    if json {
        let shown = images.iter().map(|(name, manifest)| Shown {
            name: name.as_str(),
            manifest,
        });
        return print(&serde_json::to_string_pretty(&shown.collect::<Vec<_>>())?);
    }
    let names = images.iter().map(|(name, _)| name.as_str().len());
    let width = names.max().unwrap_or(0).max("NAME".len());
    let mut text = format!("{:width$}  {:12}  {:>10}  ORIGIN", "NAME", "DIGEST", "SIZE");
    for (name, manifest) in &images {
        let digest = manifest.content.sha256.to_string();
        let mib = manifest.content.bytes as f64 / f64::from(1 << 20);
        // A path may have bytes in it that drive a terminal.
        let origin = manifest.origin.escape_debug();
        let digest = &digest[..SHORT_DIGEST];
        text.push_str(&format!(
            "\n{:width$}  {digest}  {mib:>6.1} MiB  {origin}",
            name.as_str()
        ));
    }
    print(&text)
}

fn print(text: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{text}").context("cannot write to standard output")
}
