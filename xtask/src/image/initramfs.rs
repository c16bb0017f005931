//! The initramfs files: the agent with the modules, and the bare-boot one.

use anyhow::{Context as _, Result, ensure};
use msb_image::{Artefact, Digest};

use super::newc::Archive;
use super::{Builder, recipe, report};
use crate::elf::Elf;
use crate::process;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Raise when the archive would come out different from the same programs.
const RECIPE_VERSION: u32 = 1;

/// Builds the guest's programs and brings both initramfs files up to date.
pub(super) fn build(builder: &Builder) -> Result<()> {
    let modules = builder
        .store
        .manifest(&Artefact::Modules)?
        .context("the kernel modules are not in the store")?;
    let agent = program("msb-agent")?;
    let ingredients = [modules.content.sha256, Digest::of(&agent)].map(|digest| digest.to_string());
    let recipe_of_agent = recipe(RECIPE_VERSION, &ingredients.each_ref().map(String::as_str));
    match builder.current(&Artefact::Initramfs, &recipe_of_agent) {
        Some(manifest) => report(&Artefact::Initramfs, &manifest, "unchanged"),
        None => {
            let mut archive = with_init(&agent);
            archive.extend_from_slice(&builder.read(&modules)?);
            let origin = format!(
                "agent {} KiB, modules of {}",
                agent.len() / 1024,
                modules.origin
            );
            builder.publish(&Artefact::Initramfs, &archive, &recipe_of_agent, &origin)?;
        }
    }

    let bare = program("msb-bare-init")?;
    let recipe_of_bare = recipe(RECIPE_VERSION, &[&Digest::of(&bare).to_string()]);
    match builder.current(&Artefact::BareInitramfs, &recipe_of_bare) {
        Some(manifest) => report(&Artefact::BareInitramfs, &manifest, "unchanged"),
        None => {
            let origin = "powers off at once";
            builder.publish(
                &Artefact::BareInitramfs,
                &with_init(&bare),
                &recipe_of_bare,
                origin,
            )?;
        }
    }
    Ok(())
}

/// Builds a package's program statically and reads it.
fn program(package: &str) -> Result<Vec<u8>> {
    // A directory of its own: with other flags everything in the main one would be built again.
    let target_dir = process::target_dir().join("guest");
    let mut cargo = process::cargo();
    cargo
        .args(["build", "--quiet", "--profile", "guest", "--target", TARGET])
        .args(["--package", package, "--target-dir"])
        .arg(&target_dir)
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    process::show(&mut cargo)?;
    let path = target_dir.join(TARGET).join("guest").join(package);
    let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let elf = Elf::parse(&bytes).with_context(|| format!("{} is no program", path.display()))?;
    ensure!(
        elf.is_static(),
        "{} is not statically linked",
        path.display()
    );
    Ok(bytes)
}

fn with_init(program: &[u8]) -> Vec<u8> {
    let mut archive = Archive::default();
    archive.file("init", 0o755, program);
    archive.finish()
}
