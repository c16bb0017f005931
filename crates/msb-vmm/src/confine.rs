//! What the process of a machine may reach: its own files, and no network (SPEC V9).
//!
//! QEMU's own seccomp sandbox denies it to start programs and to change what it is. This takes away what it could have
//! opened: files by Landlock, the network by a namespace that has none, privileges for good.

use std::ffi::{CStr, CString};
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _,
    RulesetStatus, Scope, path_beneath_rules,
};
use rustix::mount::{MountFlags, MountPropagationFlags, mount_bind, mount_change, mount_remount};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, UnshareFlags, remove_capability_from_bounding_set,
    set_capabilities, set_no_new_privs, unshare_unsafe,
};

use crate::{Accelerator, Machine};

/// The newest kernel whose restrictions are asked for; an older one gives what it has.
const NEWEST: ABI = ABI::V7;
/// Where a distribution keeps programs, libraries and QEMU's data. Nothing there is anybody's own.
const DISTRIBUTION: [&str; 8] = [
    "/usr",
    "/bin",
    "/lib",
    "/lib32",
    "/lib64",
    "/nix/store",
    "/etc/ld.so.cache",
    "/etc/ld.so.preload",
];
/// Random numbers, and nothing.
const DEVICES: [&str; 3] = ["/dev/null", "/dev/random", "/dev/urandom"];
const KVM: &str = "/dev/kvm";

/// A part of the confinement that this host does not give. The machine runs without it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Gap {
    /// Files are not, or only in part, restricted to the machine's own.
    Files(String),
    /// The process shares the host's network.
    Network,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Files(reason) => {
                write!(f, "QEMU can open files other than its own: {reason}")
            }
            Self::Network => f.write_str(
                "QEMU has the host's network: this host gives neither a network namespace nor a user namespace \
                 (user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns)",
            ),
        }
    }
}

/// The files of one machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Confinement {
    pub(crate) read: Vec<PathBuf>,
    pub(crate) write: Vec<PathBuf>,
}

impl Confinement {
    /// What this machine's process needs.
    pub(crate) fn of(machine: &Machine) -> Self {
        let mut own = Self::of_program(&machine.qemu);
        own.read.push(machine.kernel.clone());
        own.read.extend(machine.initramfs.clone());
        own.read
            .extend(machine.root.as_ref().map(|root| root.path.clone()));
        if machine.accelerator == Accelerator::Kvm {
            own.write.push(KVM.into());
        }
        own
    }

    /// What the program itself needs. One that is not the distribution's has its data beside it: `DIR/bin/qemu` and
    /// `DIR/share/qemu`.
    pub(crate) fn of_program(program: &Path) -> Self {
        let Ok(program) = fs::canonicalize(find(program)) else {
            return Self::default();
        };
        let prefix = program
            .parent()
            .filter(|dir| dir.ends_with("bin"))
            .and_then(Path::parent);
        let data = ["lib", "share/qemu", "share/qemu-firmware"];
        let data = prefix
            .into_iter()
            .flat_map(|dir| data.map(|data| dir.join(data)));
        let mut read: Vec<_> = data.collect();
        read.push(program);
        Self {
            read,
            write: Vec::new(),
        }
    }

    /// Restricts the calling thread, and every process it starts from now on, for good. Without effect on other threads.
    fn restrict_files(&self) -> Option<Gap> {
        let own = self.read.iter().map(PathBuf::as_path);
        let read = own.chain(DISTRIBUTION.map(Path::new));
        let write = self.write.iter().map(PathBuf::as_path);
        let write = write.chain(DEVICES.map(Path::new));
        let in_place =
            AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev;
        let restricted = Ruleset::default()
            .handle_access(AccessFs::from_all(NEWEST))
            .and_then(|rules| rules.handle_access(AccessNet::from_all(NEWEST)))
            .and_then(|rules| rules.scope(Scope::from_all(NEWEST)))
            .and_then(|rules| rules.create())
            .and_then(|rules| {
                rules.add_rules(path_beneath_rules(read, AccessFs::from_read(NEWEST)))
            })
            .and_then(|rules| rules.add_rules(path_beneath_rules(write, in_place)))
            .and_then(|rules| rules.restrict_self());
        match restricted.map(|status| status.ruleset) {
            Ok(RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced) => None,
            Ok(RulesetStatus::NotEnforced) => Some(Gap::Files(
                "this kernel has no Landlock, or it is not switched on (lsm=landlock,...)".into(),
            )),
            Err(error) => Some(Gap::Files(error.to_string())),
        }
    }
}

/// The program as the system would find it: a name without a slash in `PATH`.
fn find(program: &Path) -> PathBuf {
    let dirs = std::env::var_os("PATH").unwrap_or_default();
    let is_name = program.components().count() == 1 && !program.has_root();
    let found = std::env::split_paths(&dirs)
        .filter(|_| is_name)
        .map(|dir| dir.join(program))
        .find(|path| path.is_file());
    found.unwrap_or_else(|| program.to_owned())
}

/// How a process is confined.
#[derive(Debug)]
pub(crate) enum Confines {
    /// To these files, without a network.
    To(Confinement),
    /// By itself; all that it sees of a directory, if one is given, is that it cannot be written.
    Itself { read_only: Option<CString> },
}

impl From<Confinement> for Confines {
    fn from(confinement: Confinement) -> Self {
        Self::To(confinement)
    }
}

impl Confines {
    pub(crate) fn restrict_files(&self) -> Option<Gap> {
        match self {
            Self::To(confinement) => confinement.restrict_files(),
            Self::Itself { .. } => None,
        }
    }

    pub(crate) fn network_gap(&self, pid: u32) -> Option<Gap> {
        match self {
            Self::To(_) => network_gap(pid),
            Self::Itself { .. } => None,
        }
    }

    pub(crate) fn privileges(&self) -> Privileges {
        match self {
            Self::To(_) => Privileges::GiveUp,
            Self::Itself { read_only } => Privileges::Keep {
                read_only: read_only.clone(),
            },
        }
    }
}

/// What is changed in the child, between fork and exec.
pub(crate) enum Privileges {
    GiveUp,
    Keep { read_only: Option<CString> },
}

impl Privileges {
    /// Makes system calls and nothing else.
    pub(crate) fn change(&self) -> io::Result<()> {
        match self {
            Self::GiveUp => give_up_privileges(),
            Self::Keep { read_only: None } => Ok(()),
            Self::Keep {
                read_only: Some(dir),
            } => Ok(protect(dir)?),
        }
    }
}

/// Makes a directory read-only for the calling process alone.
fn protect(dir: &CStr) -> rustix::io::Result<()> {
    // SAFETY: the child is a process with one thread, and its table of descriptors is left as it is.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS)? };
    mount_change(
        c"/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )?;
    // What is mounted below is left out: it would stay writable.
    mount_bind(dir, dir)?;
    mount_remount(dir, MountFlags::BIND | MountFlags::RDONLY, c"")
}

/// Gives up the network and all privileges, for good.
fn give_up_privileges() -> io::Result<()> {
    // Whether that worked is seen from outside.
    let _ = leave_network();
    for capability in CapabilitySet::all().iter() {
        // May be refused to those who have none; what counts is below.
        let _ = remove_capability_from_bounding_set(capability);
    }
    let none = CapabilitySet::empty();
    set_no_new_privs(true)?;
    set_capabilities(
        None,
        CapabilitySets {
            effective: none,
            permitted: none,
            inheritable: none,
        },
    )?;
    let nothing = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, nothing)?;
    Ok(())
}

fn leave_network() -> rustix::io::Result<()> {
    // SAFETY: the child is a process with one thread, and its table of descriptors is left as it is.
    unsafe {
        unshare_unsafe(UnshareFlags::NEWNET)
            .or_else(|_| unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNET))
    }
}

/// Whether the process has the calling one's network.
fn network_gap(pid: u32) -> Option<Gap> {
    let theirs = fs::read_link(format!("/proc/{pid}/ns/net"));
    let ours = fs::read_link("/proc/self/ns/net");
    // What cannot be told is told as the worse.
    let apart = matches!((theirs, ours), (Ok(theirs), Ok(ours)) if theirs != ours);
    (!apart).then_some(Gap::Network)
}
