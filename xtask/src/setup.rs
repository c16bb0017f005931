//! `cargo xtask setup`: installs what the other tasks need and this machine lacks.
//!
//! It says what it will install and with which command, then runs that as root or through sudo.
//! It installs only: if apt would upgrade or remove anything it refuses, and says so.

use std::fmt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::process;

/// Something the tasks run, and the package of Debian and Ubuntu that brings it: the first that apt knows, where a release has
/// moved it to another.
struct Need {
    what: &'static str,
    packages: &'static [&'static str],
    is_there: fn() -> bool,
}

/// The oldest QEMU that the machine description was tested with: the one of Debian 12.
const QEMU_AT_LEAST: Version = Version(7, 2);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32);

/// Where `msb` looks for it outside of `PATH`.
const VIRTIOFSD: [&str; 3] = [
    "/usr/libexec/virtiofsd",
    "/usr/lib/virtiofsd",
    "/usr/lib/qemu/virtiofsd",
];

const NEEDS: &[Need] = &[
    Need {
        what: "qemu-system-x86_64",
        packages: &["qemu-system-x86"],
        is_there: || process::find("qemu-system-x86_64").is_some(),
    },
    Need {
        what: "virtiofsd",
        // A package of its own since Debian 13 and Ubuntu 24.04; before, QEMU's own program.
        packages: &["virtiofsd", "qemu-system-common"],
        is_there: || {
            process::find("virtiofsd").is_some()
                || VIRTIOFSD.iter().any(|path| Path::new(path).exists())
        },
    },
    Need {
        what: "mmdebstrap",
        packages: &["mmdebstrap"],
        is_there: || process::find("mmdebstrap").is_some(),
    },
    Need {
        what: "mksquashfs",
        packages: &["squashfs-tools"],
        is_there: || process::find("mksquashfs").is_some(),
    },
    Need {
        what: "xz",
        packages: &["xz-utils"],
        is_there: || process::find("xz").is_some(),
    },
    Need {
        what: "a C compiler",
        packages: &["gcc"],
        is_there: || process::find("cc").is_some(),
    },
    Need {
        what: "a C++ compiler, for libFuzzer",
        packages: &["g++"],
        is_there: || process::find("c++").is_some(),
    },
    Need {
        what: "the static C library",
        packages: &["libc6-dev"],
        is_there: || {
            [
                "/usr/lib/x86_64-linux-gnu/libc.a",
                "/usr/lib64/libc.a",
                "/usr/lib/libc.a",
            ]
            .iter()
            .any(|path| Path::new(path).exists())
        },
    },
    Need {
        what: "Debian's signing keys",
        packages: &["debian-archive-keyring"],
        is_there: || Path::new("/usr/share/keyrings/debian-archive-keyring.gpg").exists(),
    },
];

/// What fetches packages of PyPI and npm for the image `runtimes`.
const NEEDS_OF_RUNTIMES: &[Need] = &[
    Need {
        what: "npm",
        packages: &["npm"],
        is_there: || process::find("npm").is_some(),
    },
    Need {
        what: "pip",
        packages: &["python3-pip"],
        is_there: || process::succeeds(Command::new("python3").args(["-m", "pip", "--version"])),
    },
];

/// Installs what is missing; does nothing, quickly, if nothing is.
pub(crate) fn run() -> Result<()> {
    bring(NEEDS)?;
    check_qemu()
}

/// The same for what only the image `runtimes` is made with.
pub(crate) fn for_runtimes() -> Result<()> {
    bring(NEEDS_OF_RUNTIMES)
}

fn bring(needs: &'static [Need]) -> Result<()> {
    let missing = missing(needs);
    if !missing.is_empty() {
        eprintln!("setup: missing {}", names(&missing));
        if process::find("apt-get").is_none() {
            bail!(
                "this machine has no apt: install {} by hand",
                names(&missing)
            );
        }
        install(&packages(&missing)?)?;
        let still = self::missing(needs);
        ensure!(
            still.is_empty(),
            "still missing after the installation: {}",
            names(&still)
        );
    }
    Ok(())
}

fn missing(needs: &'static [Need]) -> Vec<&'static Need> {
    needs.iter().filter(|need| !(need.is_there)()).collect()
}

fn names(needs: &[&Need]) -> String {
    let name = |need: &&Need| {
        let packages = need.packages.join(" or ");
        format!("{} (Debian package {packages})", need.what)
    };
    needs.iter().map(name).collect::<Vec<_>>().join(", ")
}

fn packages(needs: &[&'static Need]) -> Result<Vec<&'static str>> {
    let unknown = |need: &&&Need| choose(need.packages, is_known).is_none();
    if needs.iter().any(|need| unknown(&need)) {
        eprintln!("setup: apt does not know these packages yet");
        as_root(&["update"])?;
    }
    let known = needs.iter().map(|need| {
        let found = choose(need.packages, is_known);
        found.with_context(|| format!("apt knows none of {}", need.packages.join(", ")))
    });
    known.collect()
}

fn choose(packages: &[&'static str], is_known: impl Fn(&str) -> bool) -> Option<&'static str> {
    packages.iter().copied().find(|package| is_known(package))
}

fn is_known(package: &str) -> bool {
    process::succeeds(Command::new("apt-cache").args(["show", package]))
}

fn check_qemu() -> Result<()> {
    let said = process::capture_text(Command::new("qemu-system-x86_64").arg("--version"))?;
    let version =
        qemu_version(&said).with_context(|| format!("cannot tell QEMU's version from `{said}`"))?;
    ensure!(
        version >= QEMU_AT_LEAST,
        "QEMU {version} is too old: {QEMU_AT_LEAST} or newer is needed; what is installed is left as \
         it is, so install a newer one by hand"
    );
    Ok(())
}

/// Installs these Debian packages.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let mut options = vec![
        "install",
        "--yes",
        "--no-install-recommends",
        "--no-upgrade",
        "--no-remove",
    ];
    options.extend(packages);
    let simulate =
        || process::capture_text(Command::new("apt-get").arg("--simulate").args(&options));
    let plan = match simulate() {
        Ok(plan) => plan,
        Err(_) => {
            eprintln!("setup: apt does not know these packages yet");
            as_root(&["update"])?;
            simulate()?
        }
    };
    let plan = Plan::parse(&plan);
    if !plan.touched.is_empty() {
        bail!(
            "apt would upgrade or remove {}, which this task never does: run `apt-get install \
             --no-install-recommends {}` yourself",
            plan.touched.join(", "),
            packages.join(" "),
        );
    }
    eprintln!(
        "setup: installing {} packages: {}",
        plan.new.len(),
        plan.new.join(" ")
    );
    if as_root(&options).is_err() {
        // Lists of packages grow old: what they name is no longer on the mirror.
        as_root(&["update"])?;
        as_root(&options)?;
    }
    Ok(())
}

/// Runs apt-get as root, through sudo if need be, and shows the command before.
fn as_root(args: &[&str]) -> Result<()> {
    let mut command = if is_root()? {
        Command::new("env")
    } else {
        ensure!(
            process::find("sudo").is_some(),
            "this needs root and there is no sudo: run `apt-get {}` as root",
            args.join(" ")
        );
        let mut sudo = Command::new("sudo");
        sudo.arg("env");
        sudo
    };
    // No questions, and no services restarted because a library of theirs is new.
    command
        .args([
            "DEBIAN_FRONTEND=noninteractive",
            "NEEDRESTART_SUSPEND=1",
            "apt-get",
            "--quiet",
        ])
        .args(args);
    eprintln!("setup: {}", process::line(&command));
    process::show(&mut command)
}

fn is_root() -> Result<bool> {
    Ok(process::capture_text(Command::new("id").arg("-u"))? == "0")
}

/// What apt says it would do.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    new: Vec<String>,
    /// Packages that are there and would be upgraded or removed.
    touched: Vec<String>,
}

impl Plan {
    /// Reads the lines `Inst NAME (VERSION ..)`, `Inst NAME [OLD] (VERSION ..)` and `Remv NAME`.
    fn parse(simulation: &str) -> Self {
        let mut plan = Self::default();
        for line in simulation.lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            match words[..] {
                ["Inst", name, old, ..] if old.starts_with('[') => {
                    plan.touched.push(name.to_owned())
                }
                ["Inst", name, ..] => plan.new.push(name.to_owned()),
                ["Remv", name, ..] => plan.touched.push(name.to_owned()),
                _ => {}
            }
        }
        plan
    }
}

/// The version in `QEMU emulator version 7.2.22 (Debian ..)`.
fn qemu_version(text: &str) -> Option<Version> {
    let (_, version) = text.lines().next()?.split_once(" version ")?;
    let mut parts = version.split(|c: char| !c.is_ascii_digit());
    Some(Version(
        parts.next()?.parse().ok()?,
        parts.next()?.parse().ok()?,
    ))
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemu_versions_are_compared_as_numbers() {
        let version = |text| qemu_version(text).unwrap();
        let debian_12 =
            version("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright");
        assert_eq!(debian_12, QEMU_AT_LEAST);
        assert!(version("QEMU emulator version 10.0.2") > QEMU_AT_LEAST);
        assert!(
            version("QEMU emulator version 6.2.0 (Debian 1:6.2+dfsg-2ubuntu6)") < QEMU_AT_LEAST
        );
        assert_eq!(qemu_version("qemu: command not found"), None);
    }

    #[test]
    fn of_several_packages_the_first_that_apt_knows_is_taken() {
        let virtiofsd = ["virtiofsd", "qemu-system-common"];
        for (known, expected) in [
            (&["qemu-system-common"][..], Some("qemu-system-common")),
            (&["qemu-system-common", "virtiofsd"], Some("virtiofsd")),
            (&[], None),
        ] {
            let chosen = choose(&virtiofsd, |package| known.contains(&package));
            assert_eq!(chosen, expected, "{known:?}");
        }
    }

    #[test]
    fn plan_tells_new_packages_from_touched_ones() {
        let plan = Plan::parse(
            "Reading package lists...\n\
             Remv old-tool [1.0]\n\
             Inst libslirp0 (4.7.0-1 Debian:12.0/stable [amd64])\n\
             Inst libc6 [2.36-9] (2.36-10 Debian:12.0/stable [amd64])\n\
             Inst qemu-system-x86 (1:7.2 Debian:12.0/stable [amd64])\n\
             Conf libslirp0 (4.7.0-1 Debian:12.0/stable [amd64])",
        );
        assert_eq!(plan.new, ["libslirp0", "qemu-system-x86"]);
        assert_eq!(plan.touched, ["old-tool", "libc6"]);
    }
}
