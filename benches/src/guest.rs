//! The two sides that are compared: `msb run`, and the fastest boot that this QEMU and kernel allow.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use msb_image::{Guest, Store};
use msb_vmm::{Accelerator, AcceleratorChoice, Fds, Machine, tsc_khz};

/// What runs guests on this machine, chosen and remembered as `msb run` does it.
///
/// # Errors
/// When the images are missing or QEMU cannot be run.
pub async fn accelerator() -> Result<Accelerator> {
    let store = Store::open_default()?;
    let guest = store.bare_guest()?;
    Ok(msb_vmm::choose_accelerator(
        AcceleratorChoice::Auto,
        "qemu-system-x86_64".as_ref(),
        &guest.kernel,
        &store.dir().join("accelerator.json"),
    )
    .await?)
}

/// The release build of `msb`, which `cargo xtask bench` has put beside this program.
///
/// # Errors
/// When it is not there.
pub fn msb_program() -> Result<PathBuf> {
    let beside = std::env::current_exe()?.with_file_name("msb");
    ensure!(
        beside.is_file(),
        "{} is missing: run this through `cargo xtask bench`",
        beside.display()
    );
    Ok(beside)
}

/// [`msb_program`] with a first argument `run`.
///
/// # Errors
/// When it is not there.
pub fn msb(accelerator: Accelerator) -> Result<Command> {
    let mut command = Command::new(msb_program()?);
    let accelerator = accelerator.to_string().to_lowercase();
    command.args(["run", "--accel", &accelerator]);
    Ok(command)
}

/// The bare boot: the kernel, accelerator, processor model, memory and kernel command line of a sandbox, an initramfs
/// whose init powers off at once, and a serial console. No virtio device, no monitor, no seccomp filter.
#[derive(Debug)]
pub struct Bare {
    program: PathBuf,
    arguments: Vec<OsString>,
    // Keeps its files in the store.
    _guest: Guest,
}

impl Bare {
    /// What the kernel says last, even with `quiet`.
    pub const LAST_WORD: &str = "reboot: Power down";

    /// Describes the machine.
    ///
    /// # Errors
    /// When the images are missing.
    pub fn new(accelerator: Accelerator) -> Result<Self> {
        let guest = Store::open_default()?.bare_guest()?;
        let mut machine = Machine::new(&guest.kernel, &guest.initramfs, accelerator);
        machine.agent = false;
        machine.tsc_khz = Some(tsc_khz());
        Ok(Self {
            arguments: without_devices(machine.arguments(&Fds {
                qmp: 0,
                agent: 0,
                network: 0,
                scratch: None,
                shares: Vec::new(),
            }))?,
            program: machine.qemu,
            _guest: guest,
        })
    }

    /// The command that boots it.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        command
    }
}

fn without_devices(arguments: Vec<OsString>) -> Result<Vec<OsString>> {
    let mut kept = Vec::new();
    let mut arguments = arguments.into_iter().peekable();
    while let Some(flag) = arguments.next() {
        let value = arguments.next_if(|next| !next.as_encoded_bytes().starts_with(b"-"));
        let dropped = match flag.to_str().context("an argument is not UTF-8")? {
            "-device" | "-mon" | "-netdev" | "-blockdev" | "-sandbox" | "-object" => true,
            "-chardev" => value
                .as_ref()
                .is_some_and(|value| value.as_encoded_bytes().starts_with(b"socket,")),
            _ => false,
        };
        if !dropped {
            kept.push(flag);
            kept.extend(value);
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bare_machine_has_a_console_and_nothing_else() {
        let mut machine = Machine::new("/k/vmlinux", "/k/initramfs", Accelerator::Tcg);
        machine.agent = true;
        let fds = Fds {
            qmp: 3,
            agent: 4,
            network: 5,
            scratch: None,
            shares: Vec::new(),
        };
        let kept = without_devices(machine.arguments(&fds)).expect("UTF-8");
        let text = kept.join(" ".as_ref()).into_string().expect("UTF-8");
        for part in [
            "-M microvm,",
            "-cpu ",
            "-m 512M",
            "-kernel /k/vmlinux",
            "-initrd /k/initramfs",
            "-append console=ttyS0 ",
            "-serial chardev:console",
        ] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        for part in ["virtio", "qmp", "socket"] {
            assert!(!text.contains(part), "{part} is in {text}");
        }
    }
}
