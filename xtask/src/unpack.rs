//! Programs of tests from Debian packages, unpacked below a directory: nothing is installed, started, upgraded or removed.
//!
//! Libraries a program needs newer than the system's come with it and are seen by it alone.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::process;

/// Where a program finds its files, if not where its package was unpacked.
const FILES: &[(&str, &str)] = &[
    ("NMAPDIR", "usr/share/nmap"),
    ("TESTSSL_INSTALL_DIR", "etc/testssl"),
];

/// What packages append to the names of programs that others bring as well; only installing would take it away.
const ALTERNATIVES: &[&str] = &["", ".db", ".openbsd"];

/// Below a package's root.
const DIRECTORIES: &[&str] = &["usr/bin", "usr/sbin", "bin", "sbin"];

/// A program, and the package of Debian that brings it.
pub(crate) type Program = (&'static str, &'static str);

/// Makes every program that is not in `PATH` available as `TOOLS/bin/NAME`.
pub(crate) fn prepare(tools: &Path, programs: &[Program]) -> Result<()> {
    let bin = tools.join("bin");
    fs::create_dir_all(&bin)?;
    let missing: Vec<_> = programs
        .iter()
        .filter(|(program, _)| process::find(program).is_none() && !bin.join(program).is_file())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: BTreeSet<&str> = missing.iter().map(|(_, package)| *package).collect();
    let mut failures = Vec::new();
    for package in packages {
        let root = tools.join("debian").join(package);
        if let Err(error) = unpack(package, &root) {
            failures.push(format!("{package}: {error:#}"));
            continue;
        }
        for (program, _) in missing.iter().filter(|(_, of)| *of == package) {
            link(program, &root, &bin)?;
        }
    }
    ensure!(failures.is_empty(), "{}", failures.join("; "));
    Ok(())
}

/// Downloads `package` and what it needs beyond what is installed, and unpacks all of it to `root`.
fn unpack(package: &str, root: &Path) -> Result<()> {
    for tool in ["apt-get", "dpkg-deb"] {
        ensure!(process::find(tool).is_some(), "there is no {tool} here");
    }
    let names = plan(package)?;
    eprintln!(
        "unpacking from Debian into {}: {}",
        root.display(),
        names.join(" ")
    );
    if root.exists() {
        fs::remove_dir_all(root)?;
    }
    let archives = root.join("archives");
    fs::create_dir_all(&archives)?;
    let mut download = Command::new("apt-get");
    // Its own user may not be able to write here.
    download.args(["-o", "APT::Sandbox::User=root", "download"]);
    process::capture(download.args(&names).current_dir(&archives))
        .context("run `apt-get update` as root if its lists are old")?;
    for archive in fs::read_dir(&archives)? {
        process::capture(
            Command::new("dpkg-deb")
                .arg("--extract")
                .arg(archive?.path())
                .arg(root),
        )?;
    }
    Ok(fs::remove_dir_all(archives)?)
}

/// The packages that apt would install or upgrade for `package`; where it is installed already, itself.
fn plan(package: &str) -> Result<Vec<String>> {
    let plan = process::capture_text(Command::new("apt-get").args([
        "--simulate",
        "install",
        "--no-install-recommends",
        package,
    ]))?;
    let mut names: Vec<_> = plan
        .lines()
        .filter_map(|line| line.strip_prefix("Inst ")?.split_whitespace().next())
        .map(str::to_owned)
        .collect();
    if names.is_empty() {
        names.push(package.to_owned());
    }
    Ok(names)
}

/// Writes a script `bin/PROGRAM` that starts the program with the libraries it came with.
fn link(program: &str, root: &Path, bin: &Path) -> Result<()> {
    let Some(found) = find(program, root) else {
        bail!("no {program} below {}", root.display());
    };
    let libraries: Vec<_> = libraries(root)?
        .iter()
        .map(|dir| dir.display().to_string())
        .collect();
    let mut script = format!(
        "#!/bin/sh\nexport LD_LIBRARY_PATH='{}' PATH=\"$PATH:{}\"\n",
        libraries.join(":"),
        root.join("usr/bin").display()
    );
    for (variable, below) in FILES {
        let path = root.join(below);
        if path.is_dir() {
            script += &format!("export {variable}='{}'\n", path.display());
        }
    }
    script += &format!("exec '{}' \"$@\"\n", found.display());
    let path = bin.join(program);
    fs::write(&path, script)?;
    Ok(fs::set_permissions(
        path,
        fs::Permissions::from_mode(0o755),
    )?)
}

fn find(program: &str, root: &Path) -> Option<PathBuf> {
    let names = ALTERNATIVES.iter().map(|end| format!("{program}{end}"));
    let mut candidates = names.flat_map(|name| {
        DIRECTORIES
            .iter()
            .map(move |dir| root.join(dir).join(&name))
    });
    candidates.find_map(file)
}

/// The directories of `root` that hold shared libraries.
fn libraries(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for below in ["lib", "usr/lib"] {
        let dir = root.join(below);
        let Ok(entries) = fs::read_dir(&dir) else {
            continue;
        };
        found.push(dir);
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_dir() && name.contains("-linux-gnu") {
                // Libraries that have alternatives, too, are put in their place only by installing.
                found.push(path.join("blas"));
                found.push(path);
            }
        }
    }
    Ok(found)
}

/// `path` if it is a file.
fn file(path: PathBuf) -> Option<PathBuf> {
    Some(path).filter(|path| path.is_file())
}
