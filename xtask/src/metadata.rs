//! What cargo says about the workspace's packages.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::process;

/// A package of the workspace.
#[derive(Debug)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) manifest: PathBuf,
    pub(crate) license: Option<String>,
    pub(crate) dependencies: Vec<Dependency>,
    pub(crate) targets: Vec<Target>,
}

/// A line in one of a package's dependency tables.
#[derive(Debug)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    pub(crate) is_dev: bool,
}

/// A library, program, example, test or benchmark.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) name: String,
    /// `lib`, `bin`, `example`, `test`, `bench` or `custom-build`.
    pub(crate) kind: String,
    pub(crate) source: PathBuf,
}

/// All packages of the workspace.
pub(crate) fn packages() -> Result<Vec<Package>> {
    packages_of(&process::workspace().join("Cargo.toml"))
}

/// All packages of the workspace with this manifest.
pub(crate) fn packages_of(manifest: &Path) -> Result<Vec<Package>> {
    let mut cargo = process::cargo();
    cargo
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .arg("--manifest-path")
        .arg(manifest);
    let metadata: Value = serde_json::from_slice(&process::capture(&mut cargo)?)?;
    list(&metadata, "packages").iter().map(package).collect()
}

fn package(value: &Value) -> Result<Package> {
    let dependency = |value: &Value| {
        Ok(Dependency {
            name: text(value, "name")?,
            is_dev: value["kind"] == "dev",
        })
    };
    let target = |value: &Value| {
        Ok(Target {
            name: text(value, "name")?,
            kind: value["kind"][0].as_str().unwrap_or_default().to_owned(),
            source: text(value, "src_path")?.into(),
        })
    };
    Ok(Package {
        name: text(value, "name")?,
        manifest: text(value, "manifest_path")?.into(),
        license: text(value, "license").ok(),
        dependencies: list(value, "dependencies")
            .iter()
            .map(dependency)
            .collect::<Result<_>>()?,
        targets: list(value, "targets")
            .iter()
            .map(target)
            .collect::<Result<_>>()?,
    })
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value, key: &str) -> Result<String> {
    let text = value[key]
        .as_str()
        .with_context(|| format!("cargo metadata has no `{key}`"))?;
    Ok(text.to_owned())
}
