//! `cargo xtask image`: guest kernel, initramfs and root disk, into the store.
//!
//! Each artefact is kept with its recipe, a digest of everything it is made from. An equal recipe
//! is not built again; `--force` fetches anew.

mod base;
mod debian;
mod initramfs;
mod kernel;
mod modules;
mod newc;
mod runtimes;

use std::fs::File;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use msb_image::{Artefact, Digest, ImageName, Manifest, Store};

use crate::process;

/// How much of what is there to build again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rebuild {
    /// What is missing, damaged, or made from something else than now.
    WhatChanged,
    /// All of it, from the newest packages.
    Everything,
}

/// Brings every artefact up to date.
pub(crate) fn run(rebuild: Rebuild) -> Result<()> {
    let builder = Builder::new(rebuild)?;
    let _lock = lock(&builder.store)?;
    let sources = debian::Sources::find()?;
    kernel::build(&builder, &sources)?;
    base::build(&builder, &sources)?;
    initramfs::build(&builder)?;
    let pruned = builder.store.prune()?;
    if pruned > 0 {
        eprintln!("  removed {pruned} files that nothing uses any more");
    }
    eprintln!("images are in {}", builder.store.dir().display());
    Ok(())
}

/// Brings the image `runtimes` up to date, which only `cargo xtask trust` needs.
pub(crate) fn runtimes() -> Result<ImageName> {
    let builder = Builder::new(Rebuild::WhatChanged)?;
    let _lock = lock(&builder.store)?;
    runtimes::build(&builder, &debian::Sources::find()?)
}

/// Waits until no other process builds images for this store: two would do the same work.
fn lock(store: &Store) -> Result<File> {
    std::fs::create_dir_all(store.dir())
        .and_then(|()| File::create(store.dir().join("build.lock")))
        .and_then(|file| {
            if file.try_lock().is_err() {
                eprintln!("  waiting for another build of images");
                file.lock()?;
            }
            Ok(file)
        })
        .with_context(|| format!("cannot use {} for images", store.dir().display()))
}

/// Where artefacts go, and when to make them.
struct Builder {
    store: Store,
    rebuild: Rebuild,
    /// Tools that this machine lacks, for the message when one is needed after all.
    missing: String,
}

impl Builder {
    fn new(rebuild: Rebuild) -> Result<Self> {
        if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
            bail!("guest images are built on Linux on x86-64 only");
        }
        let tools = ["apt-get", "dpkg-deb", "mmdebstrap", "mksquashfs"];
        let missing: Vec<_> = tools
            .into_iter()
            .filter(|tool| process::find(tool).is_none())
            .collect();
        Ok(Self {
            store: Store::open_default()?,
            rebuild,
            missing: missing.join(", "),
        })
    }

    /// The current manifest of `artefact` if it was made by `recipe` and need not be made again.
    fn current(&self, artefact: &Artefact, recipe: &str) -> Option<Manifest> {
        if self.rebuild == Rebuild::Everything {
            return None;
        }
        // A damaged artefact is made again.
        let manifest = self.store.manifest(artefact).ok().flatten();
        manifest.filter(|manifest| manifest.recipe == recipe)
    }

    fn require_tools(&self) -> Result<()> {
        if !self.missing.is_empty() {
            bail!("missing {}: run `cargo xtask setup`", self.missing);
        }
        Ok(())
    }

    fn publish(
        &self,
        artefact: &Artefact,
        bytes: &[u8],
        recipe: &str,
        origin: &str,
    ) -> Result<Manifest> {
        let manifest = self.store.publish(
            artefact,
            &mut &bytes[..],
            recipe.to_owned(),
            origin.to_owned(),
        )?;
        report(artefact, &manifest, "new");
        Ok(manifest)
    }

    fn read(&self, manifest: &Manifest) -> Result<Vec<u8>> {
        let path = self.store.content_path(&manifest.content.sha256);
        std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    }
}

/// Identifies everything an artefact is made from; `version` is that of the code making it.
fn recipe(version: u32, ingredients: &[&str]) -> String {
    let mut text = format!("{version}\n");
    for ingredient in ingredients {
        text.push_str(&format!("{}\n{ingredient}\n", ingredient.len()));
    }
    Digest::of(text.as_bytes()).to_string()
}

fn report(artefact: &Artefact, manifest: &Manifest, state: &str) {
    let mib = manifest.content.bytes as f64 / f64::from(1 << 20);
    eprintln!("  {artefact}: {mib:.1} MiB, {} ({state})", manifest.origin);
}

/// Says what is being done, and when it is done how long it took.
fn step<T>(what: &str, run: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("  {what} ...");
    let start = Instant::now();
    let done = run().with_context(|| format!("{what} failed"))?;
    eprintln!("  {what}: done in {:.1} s", start.elapsed().as_secs_f64());
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipes_differ_by_any_ingredient_and_by_where_one_ends() {
        let all = [
            recipe(1, &["ab", "c"]),
            recipe(1, &["a", "bc"]),
            recipe(1, &["ab", "d"]),
            recipe(2, &["ab", "c"]),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(!all[at + 1..].contains(one), "{at}");
        }
        assert_eq!(all[0], recipe(1, &["ab", "c"]));
    }
}
