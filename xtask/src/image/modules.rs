//! The kernel modules a guest needs before its root disk is there, in load order.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::newc::Archive;
use crate::elf::Elf;
use crate::process;

/// What the agent loads, each after what it depends on. A name the kernel has built in or does
/// not know is left out. The random number source comes before the network, so that the
/// first TLS client need not wait for entropy.
pub(super) const WANTED: &[&str] = &[
    "virtio_mmio",
    "virtio_rng",
    "virtio_net",
    "virtio_console",
    "virtio_blk",
    "squashfs",
    "overlay",
];

/// What the agent loads where a disk has this file system, or a directory of the host is mounted, besides the others.
pub(super) const WANTED_BY_FILE_SYSTEM: [(&str, &[&str]); 2] =
    [("order.ext4", &["ext4"]), ("order.virtiofs", &["virtiofs"])];

/// `/modules/NN-name.ko` in load order, `/modules/order` with their names, one a line, and `/modules/order.FSTYPE` with
/// those that only a file system of that type needs.
pub(super) fn archive(modules: &Path) -> Result<Vec<u8>> {
    let mut paths = BTreeMap::new();
    collect(&modules.join("kernel"), &mut paths)?;
    let mut loaded = Vec::new();
    let mut archive = Archive::default();
    archive.directory("modules");
    for (order, wanted) in [("order", WANTED)].into_iter().chain(WANTED_BY_FILE_SYSTEM) {
        let before = loaded.len();
        for name in wanted {
            load(name, &paths, &mut loaded)?;
        }
        let mut names = String::new();
        for (at, (name, contents)) in loaded.iter().enumerate().skip(before) {
            let file = format!("{at:02}-{name}.ko");
            archive.file(
                &format!("modules/{file}"),
                0o644,
                without_signature(contents),
            );
            names.push_str(&file);
            names.push('\n');
        }
        archive.file(&format!("modules/{order}"), 0o644, names.as_bytes());
    }
    Ok(archive.finish())
}

/// Appends `name` to `loaded`, after what it depends on.
fn load(
    name: &str,
    paths: &BTreeMap<String, PathBuf>,
    loaded: &mut Vec<(String, Vec<u8>)>,
) -> Result<()> {
    let Some(path) = paths.get(name) else {
        return Ok(());
    };
    if loaded.iter().any(|(other, _)| other == name) {
        return Ok(());
    }
    let contents = read(path)?;
    let info = Elf::parse(&contents)
        .and_then(|elf| elf.section(".modinfo"))
        .with_context(|| format!("{} is no kernel module", path.display()))?;
    for dependency in depends(info) {
        load(&dependency, paths, loaded)?;
    }
    loaded.push((name.to_owned(), contents));
    Ok(())
}

/// The module without the signature behind it. The kernel loads it all the same, since the host vouches for the
/// whole initramfs, and does not hash it and raise the signature to its power, which takes long under emulation.
///
/// Layout: Linux `scripts/sign-file.c`; the length is the last four bytes before the magic text, big-endian.
fn without_signature(module: &[u8]) -> &[u8] {
    const MAGIC: &[u8] = b"~Module signature appended~\n";
    const INFO_BYTES: usize = 12;
    let signed = || {
        let (rest, info) = module
            .strip_suffix(MAGIC)?
            .split_last_chunk::<INFO_BYTES>()?;
        let len = info.last_chunk().map(|len| u32::from_be_bytes(*len))?;
        rest.get(..rest.len().checked_sub(usize::try_from(len).ok()?)?)
    };
    signed().unwrap_or(module)
}

/// Module names in a `.modinfo` section's `depends=` entry.
fn depends(info: &[u8]) -> Vec<String> {
    info.split(|byte| *byte == 0)
        .filter_map(|entry| std::str::from_utf8(entry).ok()?.strip_prefix("depends="))
        .flat_map(|names| names.split(','))
        .filter(|name| !name.is_empty())
        .map(canonical)
        .collect()
}

/// Files below `dir` by module name.
fn collect(dir: &Path, paths: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, paths)?;
        } else if let Some(name) = path.file_name().and_then(|name| name.to_str())
            && let Some((name, "ko" | "ko.xz" | "ko.gz" | "ko.zst")) = name.split_once('.')
        {
            paths.insert(canonical(name), path);
        }
    }
    Ok(())
}

/// File names may have `-` where the kernel says `_`.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// The module's ELF file; the agent hands it to the kernel as it is, so not compressed.
fn read(path: &Path) -> Result<Vec<u8>> {
    let decompress = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("gz") => "gzip",
        Some("zst") => "zstd",
        _ => return fs::read(path).with_context(|| format!("cannot read {}", path.display())),
    };
    process::capture(Command::new(decompress).arg("-dc").arg(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_from_modinfo() {
        let info = b"license=GPL\0depends=virtio-ring,virtio\0vermagic=6.1\0";
        assert_eq!(depends(info), ["virtio_ring", "virtio"]);
        assert!(depends(b"depends=\0name=x\0").is_empty());
        assert!(depends(b"").is_empty());
    }

    #[test]
    fn only_a_whole_signature_is_cut_off() {
        let magic = b"~Module signature appended~\n";
        let signed = |len: u8| {
            [
                b"ELF".as_slice(),
                b"sign",
                &[0; 8],
                &[0, 0, 0, len],
                magic.as_slice(),
            ]
            .concat()
        };
        assert_eq!(without_signature(&signed(4)), b"ELF");
        assert_eq!(without_signature(&signed(200)), signed(200));
        assert_eq!(without_signature(magic), magic);
        assert_eq!(without_signature(b"ELF"), b"ELF");
    }
}
