//! What runs the guest's instructions, and how it is chosen.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Attachments, Error, Machine, Vm};

/// How long a guest may take under KVM to get to the point where its kernel looks for a root file system.
/// Where KVM works it takes well under a second.
const PROBE_WAIT: Duration = Duration::from_secs(10);
/// What a kernel without an initial file system says when it has booted.
const BOOTED: &str = "Unable to mount root fs";

/// What runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// The processor itself, by Linux' KVM.
    Kvm,
    /// QEMU's translator. Works everywhere, several times slower.
    Tcg,
}

impl Accelerator {
    /// The values of `-accel` and `-cpu`.
    pub(crate) fn arguments(self) -> (&'static str, &'static str) {
        match self {
            Self::Kvm => ("kvm", "host"),
            // Without the promise that copying byte by byte is fast: emulated it is not, and kernels take processors at
            // their word. Copies are three to four times as fast so (QEMU 7.2, Linux 6.1).
            Self::Tcg => ("tcg,thread=multi", "max,-erms,-fsrm"),
        }
    }
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "KVM",
            Self::Tcg => "TCG",
        })
    }
}

/// What the user asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AcceleratorChoice {
    /// KVM where a guest really boots under it, else TCG. Tried once and remembered.
    #[default]
    Auto,
    /// This one, without a trial.
    Fixed(Accelerator),
}

/// The text is none of `auto`, `kvm` and `tcg`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no accelerator {0:?}; use auto, kvm or tcg")]
pub struct UnknownAccelerator(String);

impl FromStr for AcceleratorChoice {
    type Err = UnknownAccelerator;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "kvm" => Ok(Self::Fixed(Accelerator::Kvm)),
            "tcg" => Ok(Self::Fixed(Accelerator::Tcg)),
            other => Err(UnknownAccelerator(other.to_owned())),
        }
    }
}

/// Chooses the accelerator for guests of `kernel` under `qemu`.
///
/// A `/dev/kvm` that opens, makes a machine and a processor may still never boot a guest (a hypervisor that runs
/// paravirtualised guests only), so `Auto` boots `kernel` once and remembers the outcome in `memory`, a file in a
/// directory that exists. It is forgotten when the host's kernel or processor or QEMU changes.
///
/// # Errors
/// When QEMU itself cannot be run. A failed trial is an answer, not an error.
pub async fn choose_accelerator(
    choice: AcceleratorChoice,
    qemu: &Path,
    kernel: &Path,
    memory: &Path,
) -> Result<Accelerator, Error> {
    if let AcceleratorChoice::Fixed(accelerator) = choice {
        return Ok(accelerator);
    }
    if !kvm_opens() {
        return Ok(Accelerator::Tcg);
    }
    let host = host_fingerprint(qemu);
    if let Some(remembered) = recall(memory, &host) {
        return Ok(remembered);
    }
    tracing::info!("trying once whether a guest boots under KVM");
    let accelerator = if boots_under_kvm(qemu, kernel).await? {
        Accelerator::Kvm
    } else {
        Accelerator::Tcg
    };
    remember(memory, &Memory { host, accelerator });
    Ok(accelerator)
}

fn kvm_opens() -> bool {
    fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_ok()
}

async fn boots_under_kvm(qemu: &Path, kernel: &Path) -> Result<bool, Error> {
    let mut machine = Machine::new(kernel, "", Accelerator::Kvm);
    machine.qemu = qemu.to_owned();
    machine.initramfs = None;
    machine.agent = false;
    machine.memory_mib = 128;
    let (vm, _channels) = match Vm::start(&machine, Attachments::default()).await {
        Ok(started) => started,
        Err(Error::QemuRefused { reason }) => {
            tracing::debug!(reason, "KVM refused");
            return Ok(false);
        }
        Err(error) => return Err(error),
    };
    // The kernel panics for want of a root and, by `panic=-1`, resets, which ends QEMU.
    let ended = tokio::time::timeout(PROBE_WAIT, vm.wait()).await;
    Ok(ended.is_ok() && vm.console().tail(usize::MAX).contains(BOOTED))
}

#[derive(Serialize, Deserialize)]
struct Memory {
    host: String,
    accelerator: Accelerator,
}

/// What the outcome of the trial depends on.
fn host_fingerprint(qemu: &Path) -> String {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processor
        .lines()
        .find(|line| line.starts_with("model name"))
        .unwrap_or_default();
    let program = find_program(qemu).and_then(|path| fs::metadata(path).ok());
    let qemu = program.map_or((0, 0), |meta| (meta.size(), meta.mtime()));
    format!("{} / {model} / qemu {}.{}", kernel.trim(), qemu.0, qemu.1)
}

fn find_program(program: &Path) -> Option<PathBuf> {
    if program.components().count() > 1 {
        return Some(program.to_owned());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

fn recall(memory: &Path, host: &str) -> Option<Accelerator> {
    let text = fs::read_to_string(memory).ok()?;
    let memory: Memory = serde_json::from_str(&text).ok()?;
    (memory.host == host).then_some(memory.accelerator)
}

/// Failing to remember costs another trial next time, nothing else.
fn remember(memory: &Path, outcome: &Memory) {
    let write = || -> std::io::Result<()> {
        let whole = memory.with_extension(format!("{}.tmp", std::process::id()));
        fs::write(&whole, serde_json::to_vec(outcome)?)?;
        fs::rename(&whole, memory)
    };
    if let Err(error) = write() {
        tracing::warn!(%error, path = %memory.display(), "the accelerator's trial will be repeated");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_parse_by_their_names() {
        for (text, expected) in [
            ("auto", Ok(AcceleratorChoice::Auto)),
            ("kvm", Ok(AcceleratorChoice::Fixed(Accelerator::Kvm))),
            ("tcg", Ok(AcceleratorChoice::Fixed(Accelerator::Tcg))),
            ("hvf", Err(UnknownAccelerator("hvf".into()))),
        ] {
            assert_eq!(text.parse::<AcceleratorChoice>(), expected);
        }
    }

    #[test]
    fn an_outcome_is_recalled_for_the_same_host_only() {
        let dir = tempfile::tempdir().expect("a directory");
        let memory = dir.path().join("accelerator.json");
        assert_eq!(recall(&memory, "a"), None);
        let outcome = Memory {
            host: "a".into(),
            accelerator: Accelerator::Kvm,
        };
        remember(&memory, &outcome);
        assert_eq!(recall(&memory, "a"), Some(Accelerator::Kvm));
        assert_eq!(recall(&memory, "b"), None);
        fs::write(&memory, "{ half").expect("written");
        assert_eq!(recall(&memory, "a"), None);
    }

    #[tokio::test]
    async fn a_fixed_choice_is_not_tried() {
        let missing = Path::new("/nonexistent");
        for accelerator in [Accelerator::Kvm, Accelerator::Tcg] {
            let choice = AcceleratorChoice::Fixed(accelerator);
            let chosen = choose_accelerator(choice, missing, missing, missing).await;
            assert_eq!(chosen.expect("no trial"), accelerator);
        }
    }
}
