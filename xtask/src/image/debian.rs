//! Where Debian packages come from, and how mmdebstrap is run.
//!
//! On Debian it is what the machine's own apt is set up with; elsewhere mmdebstrap's default.
//! `MSB_DEBIAN_MIRROR` and `MSB_DEBIAN_SUITE` override both.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::process;

/// The release taken where the host is not Debian: the one the tests ran on.
const DEFAULT_SUITE: &str = "bookworm";

/// Debian's own package of its signing keys installs this file.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A Debian release and the mirrors to take it from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sources {
    /// Code name of the release.
    pub(crate) suite: String,
    /// One-line entries of a sources.list or a mirror's address; none for mmdebstrap's default.
    mirrors: Vec<String>,
    /// Whether the host's own apt knows this release's packages.
    pub(crate) hosts_own: bool,
}

impl Sources {
    /// What the environment says, else the host's own sources, else mmdebstrap's default.
    pub(crate) fn find() -> Result<Self> {
        let env = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        let host = debian_codename(&release);
        let mirror = env("MSB_DEBIAN_MIRROR");
        let suite = env("MSB_DEBIAN_SUITE");
        if let Some(codename) = host
            && mirror.is_none()
            && suite.as_ref().is_none_or(|suite| *suite == codename)
        {
            let mirrors = match process::find("apt-get") {
                Some(_) => host_mirrors(&codename)?,
                None => Vec::new(),
            };
            return Ok(Self {
                suite: codename,
                hosts_own: !mirrors.is_empty(),
                mirrors,
            });
        }
        Ok(Self {
            suite: suite.unwrap_or_else(|| DEFAULT_SUITE.to_owned()),
            mirrors: mirror.into_iter().collect(),
            hosts_own: false,
        })
    }

    /// What this adds to a recipe.
    pub(crate) fn ingredient(&self) -> String {
        format!("{} {}", self.suite, self.mirrors.join(" "))
    }

    /// mmdebstrap for this release, to which options can be added. `scratch` is its working
    /// directory. Unpacks packages and their dependencies; runs none of their scripts, so it
    /// needs no privileges.
    pub(crate) fn mmdebstrap(&self, options: &[String], target: &Path) -> Command {
        self.run(&["--mode=chrootless", "--variant=extract"], options, target)
    }

    /// As [`mmdebstrap`](Self::mmdebstrap), but packages are installed, which runs their scripts. It needs root, or user
    /// namespaces with ranges of ids.
    pub(crate) fn mmdebstrap_installing(&self, options: &[String], target: &Path) -> Command {
        self.run(&["--variant=minbase"], options, target)
    }

    fn run(&self, how: &[&str], options: &[String], target: &Path) -> Command {
        let mut command = Command::new("mmdebstrap");
        command.args(how).arg("--architectures=amd64").args(options);
        if Path::new(KEYRING).exists() {
            command.arg(format!("--keyring={KEYRING}"));
        }
        for scheme in ["http", "https"] {
            let key = format!("Acquire::{scheme}::Proxy");
            let proxy = process::capture_text(
                Command::new("apt-config").args(["dump", "--format", "%v", &key]),
            );
            if let Some(proxy) = proxy.ok().filter(|proxy| !proxy.is_empty()) {
                command.arg(format!("--aptopt={key} \"{proxy}\""));
            }
        }
        command.arg(&self.suite).arg(target).args(&self.mirrors);
        command
    }
}

/// Downloads the package that `metapackage` depends on and whose name contains `containing`
/// into `dir`.
pub(crate) fn download_dependency(
    sources: &Sources,
    metapackage: &str,
    containing: &str,
    dir: &Path,
) -> Result<PathBuf> {
    let script = format!(
        "set -eu; package=$(apt-cache depends --important {metapackage} | \
         sed -n 's/^ *Depends: \\([a-z0-9.+-]*{containing}[a-z0-9.+-]*\\)$/\\1/p' | head -n 1); \
         test -n \"$package\"; apt-get -o APT::Sandbox::User=root download \"$package\""
    );
    let known = sources.hosts_own
        && process::succeeds(Command::new("apt-cache").args(["show", metapackage]));
    if known {
        process::capture(Command::new("sh").args(["-c", &script]).current_dir(dir))?;
    } else {
        let hook = format!(
            "--extract-hook=export APT_CONFIG=\"$MMDEBSTRAP_APT_CONFIG\"; cd '{}'; {script}",
            dir.display()
        );
        // Something has to be asked for, or there is nothing to run the hook on.
        let options = [
            "--format=null".to_owned(),
            "--include=debian-archive-keyring".to_owned(),
            hook,
        ];
        process::capture(&mut sources.mmdebstrap(&options, Path::new("/dev/null")))?;
    }
    std::fs::read_dir(dir)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .with_context(|| format!("no package came of {metapackage}"))
}

/// The code name if this os-release text is Debian's own.
fn debian_codename(os_release: &str) -> Option<String> {
    let fields: BTreeMap<_, _> = os_release
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.trim(), value.trim().trim_matches('"')))
        .collect();
    let codename = fields
        .get("VERSION_CODENAME")
        .filter(|name| !name.is_empty())?;
    (fields.get("ID") == Some(&"debian")).then(|| (*codename).to_owned())
}

fn host_mirrors(codename: &str) -> Result<Vec<String>> {
    let format = "$(ORIGIN)|$(CODENAME)|$(RELEASE)|$(COMPONENT)|$(ARCHITECTURE)|$(REPO_URI)";
    let targets = process::capture_text(Command::new("apt-get").args([
        "indextargets",
        "Created-By: Packages",
        "--format",
        format,
    ]))?;
    Ok(mirrors_of(&targets, codename))
}

/// The sources.list entries for main of one Debian release, its updates and security, out of
/// all that apt is set up with.
fn mirrors_of(targets: &str, codename: &str) -> Vec<String> {
    let mut entries: Vec<String> = targets
        .lines()
        .filter_map(|line| {
            let fields: Vec<_> = line.split('|').collect();
            let ["Debian", of, release, "main", "amd64", uri] = fields[..] else {
                return None;
            };
            let wanted = ["", "-updates", "-security"]
                .iter()
                .any(|suffix| of.strip_prefix(codename) == Some(*suffix));
            let remote = uri.starts_with("http://") || uri.starts_with("https://");
            (wanted && remote).then(|| format!("deb {uri} {release} main"))
        })
        .collect();
    entries.sort();
    entries.dedup();
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codename_is_taken_from_debian_only() {
        let debian = "ID=debian\nVERSION_CODENAME=bookworm\n";
        assert_eq!(debian_codename(debian).as_deref(), Some("bookworm"));
        let ubuntu = "ID=ubuntu\nID_LIKE=debian\nVERSION_CODENAME=noble\n";
        assert_eq!(debian_codename(ubuntu), None);
        assert_eq!(
            debian_codename("ID=debian\n"),
            None,
            "testing has no code name"
        );
        assert_eq!(debian_codename(""), None);
    }

    #[test]
    fn only_the_releases_own_sources_are_taken() {
        let targets = "\
Debian|bookworm|stable|main|amd64|http://mirror.test/debian/
Debian|bookworm|stable|main|i386|http://mirror.test/debian/
Debian|bookworm|stable|contrib|amd64|http://mirror.test/debian/
Debian|bookworm-security|bookworm-security|main|amd64|http://mirror.test/security/
Debian|bookworm-backports|bookworm-backports|main|amd64|http://mirror.test/debian/
Debian|trixie|trixie|main|amd64|http://mirror.test/debian/
Debian|bookworm|bookworm|main|amd64|cdrom:[Debian]/
Other|bookworm|bookworm|main|amd64|https://other.test/";
        assert_eq!(
            mirrors_of(targets, "bookworm"),
            [
                "deb http://mirror.test/debian/ stable main",
                "deb http://mirror.test/security/ bookworm-security main",
            ]
        );
    }
}
