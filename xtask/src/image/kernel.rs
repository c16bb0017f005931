//! The guest kernel: vmlinux out of Debian's cloud kernel package, and its modules.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use msb_image::Artefact;

use super::debian::{self, Sources};
use super::{Builder, modules, recipe, report, step};
use crate::elf::{self, Elf};
use crate::process;

/// Depends on the newest kernel for virtual machines: small, and quick to boot.
const METAPACKAGE: &str = "linux-image-cloud-amd64";

/// Raise when vmlinux or the module archive would come out different from the same package.
const RECIPE_VERSION: u32 = 2;

/// Brings kernel and modules up to date.
pub(super) fn build(builder: &Builder, sources: &Sources) -> Result<()> {
    let recipe = recipe(
        RECIPE_VERSION,
        &[
            METAPACKAGE,
            &sources.ingredient(),
            &modules::WANTED.join(" "),
            &modules::WANTED_BY_FILE_SYSTEM
                .map(|(_, wanted)| wanted.join(" "))
                .join(" "),
        ],
    );
    let kernel = builder.current(&Artefact::Kernel, &recipe);
    let modules = builder.current(&Artefact::Modules, &recipe);
    if let (Some(kernel), Some(modules)) = (kernel, modules) {
        report(&Artefact::Kernel, &kernel, "unchanged");
        report(&Artefact::Modules, &modules, "unchanged");
        return Ok(());
    }
    builder.require_tools()?;
    let dir = tempfile::tempdir()?;
    let package = step(
        &format!("fetching {METAPACKAGE} of {}", sources.suite),
        || debian::download_dependency(sources, METAPACKAGE, "-cloud-amd64", dir.path()),
    )?;
    let field = |name| {
        process::capture_text(
            Command::new("dpkg-deb")
                .arg("--field")
                .arg(&package)
                .arg(name),
        )
    };
    let origin = format!("{} {}", field("Package")?, field("Version")?);
    let root = dir.path().join("root");
    process::capture(
        Command::new("dpkg-deb")
            .arg("--extract")
            .arg(&package)
            .arg(&root),
    )?;

    let image = fs::read(bzimage(&root)?)?;
    let vmlinux =
        vmlinux(&image).with_context(|| format!("cannot take the kernel out of {origin}"))?;
    let archive = modules::archive(&modules_dir(&root)?)
        .with_context(|| format!("cannot take the modules out of {origin}"))?;
    builder.publish(&Artefact::Modules, &archive, &recipe, &origin)?;
    builder.publish(&Artefact::Kernel, &vmlinux, &recipe, &origin)?;
    Ok(())
}

fn bzimage(root: &Path) -> Result<PathBuf> {
    only(&root.join("boot"), "vmlinuz-")
}

fn modules_dir(root: &Path) -> Result<PathBuf> {
    only(&root.join("lib/modules"), "").or_else(|_| only(&root.join("usr/lib/modules"), ""))
}

fn only(dir: &Path, prefix: &str) -> Result<PathBuf> {
    let entries =
        fs::read_dir(dir).with_context(|| format!("the package has no {}", dir.display()))?;
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
        })
        .with_context(|| format!("the package has no {prefix}* in {}", dir.display()))
}

/// The uncompressed kernel in a bzImage, checked to be bootable directly. Starting with it saves
/// the guest its own decompression, which takes longest under emulation.
///
/// Layout: Linux `Documentation/arch/x86/boot.rst`, `payload_offset` and `payload_length`.
fn vmlinux(bzimage: &[u8]) -> Result<Vec<u8>> {
    let payload = || {
        let setup_sectors = match *bzimage.get(0x1f1)? {
            0 => 4,
            sectors => usize::from(sectors),
        };
        let start = (setup_sectors + 1) * 512 + elf::index(bzimage, 0x248, 4)?;
        bzimage.get(start..start + elf::index(bzimage, 0x24c, 4)?)
    };
    ensure!(
        bzimage.get(0x202..0x206) == Some(b"HdrS"),
        "it is not a bzImage"
    );
    let kernel = decompress(payload().context("its payload is cut short")?)?;
    let elf = Elf::parse(&kernel).context("its payload is not an ELF file for x86-64")?;
    ensure!(elf.has_pvh_entry(), "its kernel has no PVH entry point");
    Ok(kernel)
}

fn decompress(payload: &[u8]) -> Result<Vec<u8>> {
    let mut kernel = Vec::new();
    match payload {
        [0x02, 0x21, 0x4c, 0x18, blocks @ ..] => kernel = lz4_legacy(blocks)?,
        [0x1f, 0x8b, ..] => {
            flate2::read::GzDecoder::new(payload).read_to_end(&mut kernel)?;
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            ruzstd::decoding::StreamingDecoder::new(payload)?.read_to_end(&mut kernel)?;
        }
        [0x7f, b'E', b'L', b'F', ..] => kernel = payload.to_vec(),
        _ => bail!("its compression is neither LZ4, gzip nor zstd"),
    }
    Ok(kernel)
}

/// The LZ4 "legacy" frame behind its magic number: blocks with a length before each, decoding to
/// 8 MiB at most. Behind them the kernel's build appends the uncompressed length in four bytes.
fn lz4_legacy(mut blocks: &[u8]) -> Result<Vec<u8>> {
    const BLOCK_BYTES: usize = 8 << 20;
    let mut out = Vec::new();
    while blocks.len() > 4 {
        let len = elf::index(blocks, 0, 4).context("an LZ4 block is cut short")?;
        let block = blocks
            .get(4..4 + len)
            .context("an LZ4 block is cut short")?;
        out.extend_from_slice(&lz4_flex::block::decompress(block, BLOCK_BYTES)?);
        blocks = &blocks[4 + len..];
    }
    ensure!(
        elf::index(blocks, 0, 4) == Some(out.len()),
        "the LZ4 payload has another length than stated"
    );
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lz4(data: &[u8]) -> Vec<u8> {
        let mut payload = vec![0x02, 0x21, 0x4c, 0x18];
        for chunk in data.chunks(8 << 20) {
            let block = lz4_flex::block::compress(chunk);
            payload.extend_from_slice(&u32::try_from(block.len()).unwrap().to_le_bytes());
            payload.extend_from_slice(&block);
        }
        payload.extend_from_slice(&u32::try_from(data.len()).unwrap().to_le_bytes());
        payload
    }

    #[test]
    fn lz4_payload_of_several_blocks_is_decompressed() {
        let data: Vec<u8> = (0..20_u32 << 18)
            .flat_map(u32::to_le_bytes)
            .take(9 << 20)
            .collect();
        assert_eq!(decompress(&lz4(&data)).unwrap(), data);
    }

    #[test]
    fn cut_or_foreign_payloads_are_errors() {
        let payload = lz4(b"kernel");
        for len in 0..payload.len() {
            decompress(&payload[..len]).unwrap_err();
        }
        decompress(b"\xfd7zXZ\0").unwrap_err();
    }

    #[test]
    fn file_without_setup_header_is_no_kernel() {
        let error = vmlinux(&[0; 4096]).unwrap_err();
        assert!(error.to_string().contains("not a bzImage"), "{error}");
    }
}
