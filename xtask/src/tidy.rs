//! Checks on the workspace itself: layers, lints, file heads, licences, stray addresses.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::metadata::Package;
use crate::{metadata, process};

/// A rule, and the faults found against it.
type Check = (&'static str, fn(&Workspace) -> Vec<String>);

const CHECKS: &[Check] = &[
    ("dependencies point to lower layers only", layers),
    (
        "the test kit does not depend on crates that are tested with it",
        test_kit,
    ),
    (
        "every package takes the workspace's lints and licence",
        packages,
    ),
    (
        "every target but two crates' forbids unsafe code",
        unsafe_code,
    ),
    ("every source file says first what it is", file_heads),
    ("pure crates ban clocks by lint", pure_crates),
    (
        "no file names a mirror or a place on one machine",
        addresses,
    ),
    ("every test that docs/attacks.md names exists", named_tests),
];

/// Layers of ARCHITECTURE.md: a crate depends only on crates of lower layers.
const LAYERS: &[(u8, &[&str])] = &[
    (0, &["msb-name"]),
    (
        1,
        &[
            "msb-agent-proto",
            "msb-ca",
            "msb-control-proto",
            "msb-policy",
        ],
    ),
    (2, &["msb-guest-trust", "msb-secrets", "msb-tar"]),
    (
        3,
        &[
            "msb-image",
            "msb-net",
            "msb-state",
            "msb-tls-proxy",
            "msb-tree",
            "msb-vmm",
        ],
    ),
    (4, &["msb", "msb-agent"]),
    (5, &["msb-cli"]),
    (
        TOOLS,
        &[
            "msb-bare-init",
            "msb-benches",
            "msb-conformance",
            "msb-e2e",
            "xtask",
        ],
    ),
];

/// Programs about the project rather than of it. Only they may use the test kit as anything but a
/// dev-dependency.
const TOOLS: u8 = 6;

/// Fixtures, outside of the layers.
const TESTKIT: &str = "msb-testkit";

/// Lowest layer that may do input and output, and what does it.
const IO_FROM: u8 = 3;
const IO: &[&str] = &[
    "hickory-resolver",
    "hyper-util",
    "rtnetlink",
    "rustix",
    "tokio",
    "tokio-rustls",
];

/// Crates that get the time as an argument.
const PURE: &[&str] = &["msb-ca", "msb-name", "msb-policy", "msb-secrets"];

/// The crates that may contain `unsafe`: both say what a child does between fork and exec.
const UNSAFE: &[&str] = &["msb-agent", "msb-vmm"];

fn layer(name: &str) -> Option<u8> {
    let found = LAYERS.iter().find(|(_, names)| names.contains(&name));
    found.map(|(layer, _)| *layer)
}

/// What the checks look at.
struct Workspace {
    root: PathBuf,
    packages: Vec<Package>,
    /// Path below the root, and contents, of all files but build products.
    files: Vec<(PathBuf, String)>,
}

impl Workspace {
    fn read() -> Result<Self> {
        let root = process::workspace()
            .canonicalize()
            .context("cannot find the workspace")?;
        let mut files = Vec::new();
        collect(&root, &root, &mut files)?;
        Ok(Self {
            packages: metadata::packages()?,
            files,
            root,
        })
    }

    /// The contents of a file given by its path, absolute or from the root; empty if there is none.
    fn text(&self, path: &Path) -> &str {
        // A target's source may be given across packages, with `..` in it.
        let whole = self.root.join(path).canonicalize();
        let path = whole.as_deref().unwrap_or(path);
        let path = path.strip_prefix(&self.root).unwrap_or(path);
        let found = self.files.iter().find(|(of, _)| of == path);
        found.map_or("", |(_, text)| text.as_str())
    }
}

fn collect(root: &Path, dir: &Path, files: &mut Vec<(PathBuf, String)>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        if name == "target" || name == ".git" {
            continue;
        }
        if path.is_dir() {
            collect(root, &path, files)?;
        } else {
            let bytes =
                fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let below = path.strip_prefix(root).unwrap_or(&path).to_owned();
            files.push((below, String::from_utf8_lossy(&bytes).into_owned()));
        }
    }
    Ok(())
}

/// Runs every check and lists all faults.
pub(crate) fn run() -> Result<()> {
    let workspace = Workspace::read()?;
    let mut faults = String::new();
    for (rule, check) in CHECKS {
        for fault in check(&workspace) {
            faults.push_str(&format!("\n  {fault} (rule: {rule})"));
        }
    }
    if !faults.is_empty() {
        bail!("the workspace breaks its rules:{faults}");
    }
    Ok(())
}

fn layers(workspace: &Workspace) -> Vec<String> {
    let mut faults = Vec::new();
    for package in workspace
        .packages
        .iter()
        .filter(|package| package.name != TESTKIT)
    {
        let Some(own) = layer(&package.name) else {
            faults.push(format!("{} is in no layer", package.name));
            continue;
        };
        for dependency in &package.dependencies {
            let fault = match dependency.name.as_str() {
                TESTKIT => !dependency.is_dev && own != TOOLS,
                io if IO.contains(&io) => !dependency.is_dev && own < IO_FROM,
                name => layer(name).is_some_and(|layer| layer >= own),
            };
            if fault {
                faults.push(format!(
                    "{} (layer {own}) -> {}",
                    package.name, dependency.name
                ));
            }
        }
    }
    faults
}

fn test_kit(workspace: &Workspace) -> Vec<String> {
    let uses =
        |package: &Package, name: &str| package.dependencies.iter().any(|used| used.name == name);
    let Some(kit) = workspace
        .packages
        .iter()
        .find(|package| package.name == TESTKIT)
    else {
        return Vec::new();
    };
    let both = |package: &&Package| uses(kit, &package.name) && uses(package, TESTKIT);
    let faulty = workspace.packages.iter().filter(both);
    faulty.map(|package| package.name.clone()).collect()
}

fn packages(workspace: &Workspace) -> Vec<String> {
    let mut faults = Vec::new();
    for package in &workspace.packages {
        if !workspace
            .text(&package.manifest)
            .contains("[lints]\nworkspace = true\n")
        {
            faults.push(format!("{}: no `[lints] workspace = true`", package.name));
        }
        if package.license.as_deref() != Some("Apache-2.0") {
            faults.push(format!("{}: licence {:?}", package.name, package.license));
        }
    }
    let licence = workspace.text(Path::new("LICENSE"));
    if !licence.contains("Apache License") || !licence.contains("Version 2.0") {
        faults.push("LICENSE is not the Apache License, Version 2.0".to_owned());
    }
    faults
}

fn unsafe_code(workspace: &Workspace) -> Vec<String> {
    let mut faults = Vec::new();
    for package in workspace
        .packages
        .iter()
        .filter(|package| !UNSAFE.contains(&package.name.as_str()))
    {
        for target in &package.targets {
            let shipped = matches!(target.kind.as_str(), "lib" | "bin");
            if shipped
                && !workspace
                    .text(&target.source)
                    .contains("#![forbid(unsafe_code)]")
            {
                faults.push(format!(
                    "{} {} of {}",
                    target.kind, target.name, package.name
                ));
            }
        }
    }
    faults
}

fn file_heads(workspace: &Workspace) -> Vec<String> {
    let sources = workspace
        .files
        .iter()
        .filter(|(path, _)| path.extension().is_some_and(|extension| extension == "rs"));
    sources
        .filter(|(_, text)| {
            let first = text.lines().next().unwrap_or_default();
            !first.starts_with("//!") && !first.contains("@generated")
        })
        .map(|(path, _)| path.display().to_string())
        .collect()
}

fn pure_crates(workspace: &Workspace) -> Vec<String> {
    PURE.iter()
        .filter(|name| {
            let lints = workspace.text(&Path::new("crates").join(name).join("clippy.toml"));
            !lints.contains("Instant::now") || !lints.contains("SystemTime::now")
        })
        .map(|name| (*name).to_owned())
        .collect()
}

fn addresses(workspace: &Workspace) -> Vec<String> {
    // In two parts, or this file would name them.
    let banned = [
        ["deb.", "debian.org"],
        ["archive.", "ubuntu.com"],
        ["index.", "crates.io"],
        ["arti", "factory"],
        ["/root/", ".cargo"],
    ]
    .map(|parts| parts.concat());
    let mut faults = Vec::new();
    for (path, text) in &workspace.files {
        for word in banned.iter().filter(|word| text.contains(word.as_str())) {
            faults.push(format!("{}: {word}", path.display()));
        }
    }
    faults
}

/// Where known attacks are listed with the tests that show what happens.
const ATTACKS: &str = "docs/attacks.md";

/// A name in the last column of a table there is a test's.
fn named_tests(workspace: &Workspace) -> Vec<String> {
    let rows = workspace.text(Path::new(ATTACKS)).lines();
    let cells = rows
        .filter_map(|line| line.trim_end().strip_suffix('|'))
        .filter_map(|row| row.rsplit('|').next());
    let named: Vec<&str> = cells
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .collect();
    if named.is_empty() {
        return vec![format!("{ATTACKS} names no test")];
    }
    let sources = workspace
        .files
        .iter()
        .filter(|(path, _)| path.extension().is_some_and(|extension| extension == "rs"));
    let tests: HashSet<&str> = sources.flat_map(|(_, text)| tests_in(text)).collect();
    let missing = named.into_iter().filter(|name| !tests.contains(name));
    missing.map(str::to_owned).collect()
}

/// The names of the functions in `text` that have a test's attribute.
fn tests_in(text: &str) -> Vec<&str> {
    let (mut names, mut is_test) = (Vec::new(), false);
    for line in text.lines().map(str::trim_start) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if let Some((_, rest)) = line.split_once("fn ")
            && !line.starts_with("//")
        {
            if is_test {
                names.extend(rest.split('(').next());
            }
            is_test = false;
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(check: fn(&Workspace) -> Vec<String>) {
        let faults = check(&Workspace::read().unwrap());
        assert!(faults.is_empty(), "\n  {}", faults.join("\n  "));
    }

    #[test]
    fn dependencies_point_to_lower_layers_only() {
        check(layers);
    }

    #[test]
    fn test_kit_does_not_depend_on_crates_that_are_tested_with_it() {
        check(test_kit);
    }

    #[test]
    fn every_package_takes_the_workspaces_lints_and_licence() {
        check(packages);
    }

    #[test]
    fn unsafe_code_is_forbidden_everywhere_but_in_two_crates() {
        check(unsafe_code);
    }

    #[test]
    fn every_source_file_says_first_what_it_is() {
        check(file_heads);
    }

    #[test]
    fn pure_crates_ban_clocks_by_lint() {
        check(pure_crates);
    }

    #[test]
    fn no_file_names_a_mirror_or_a_place_on_one_machine() {
        check(addresses);
    }

    #[test]
    fn every_test_named_among_the_attacks_exists() {
        check(named_tests);
    }

    #[test]
    fn only_tests_count_as_tests() {
        let text = "#[test]\nfn one() {}\nfn two() {}\n#[tokio::test(start_paused = true)]\n// a fn \nasync fn three() {}";
        assert_eq!(tests_in(text), ["one", "three"]);
    }

    #[test]
    fn broken_rules_are_found() {
        let package = |name: &str, used: &[&str]| Package {
            name: name.to_owned(),
            manifest: format!("{name}.toml").into(),
            license: None,
            dependencies: used
                .iter()
                .map(|used| metadata::Dependency {
                    name: (*used).to_owned(),
                    is_dev: false,
                })
                .collect(),
            targets: vec![metadata::Target {
                name: name.to_owned(),
                kind: "lib".to_owned(),
                source: format!("{name}.rs").into(),
            }],
        };
        let workspace = Workspace {
            root: PathBuf::new(),
            packages: vec![
                package("msb-name", &["msb-ca", "tokio"]),
                package("msb-net", &["msb-vmm", TESTKIT]),
                package(TESTKIT, &["msb-net"]),
                package("msb-stray", &[]),
            ],
            files: vec![
                ("msb-name.rs".into(), ["use deb.", "debian.org"].concat()),
                (ATTACKS.into(), "| a | `b` | `no_such_test` |".to_owned()),
            ],
        };
        let count = |check: fn(&Workspace) -> Vec<String>| check(&workspace).len();
        assert_eq!(count(layers), 5);
        assert_eq!(count(test_kit), 1);
        assert_eq!(count(packages), 4 + 4 + 1);
        assert_eq!(count(unsafe_code), 4);
        assert_eq!(count(file_heads), 1);
        assert_eq!(count(pure_crates), PURE.len());
        assert_eq!(count(addresses), 1);
        assert_eq!(named_tests(&workspace), ["no_such_test"]);
    }
}
