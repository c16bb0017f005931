//! A guest's root in a temporary directory, and authorities to put into it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use msb_guest_trust::{CaCertificate, Facts, Report, TrustRequest, apply, plan};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

/// An authority that can sign.
pub(crate) struct Authority {
    pub(crate) certificate: CaCertificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(DnType::CommonName, name);
        let certificate =
            CaCertificate::from_der(parameters.self_signed(&key).unwrap().der()).unwrap();
        let issuer = Issuer::new(parameters, key);
        Self {
            certificate,
            issuer,
        }
    }

    pub(crate) fn leaf_pem(&self) -> String {
        let key = KeyPair::generate().unwrap();
        let parameters = CertificateParams::new(vec!["api.example.test".to_owned()]).unwrap();
        let leaf = parameters.signed_by(&key, &self.issuer).unwrap();
        CaCertificate::from_der(leaf.der()).unwrap().pem()
    }
}

pub(crate) fn authority(name: &str) -> CaCertificate {
    Authority::new(name).certificate
}

/// Two roots of the image, in PEM.
pub(crate) fn image_bundle() -> String {
    format!(
        "# first\n{}\n{}",
        authority("Image Root 1").pem(),
        authority("Image Root 2").pem()
    )
}

pub(crate) struct Root {
    directory: TempDir,
}

impl Root {
    pub(crate) fn new() -> Self {
        let root = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        root.directory("/run");
        root
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn outside(&self, path: impl AsRef<Path>) -> PathBuf {
        self.path().join(path.as_ref().strip_prefix("/").unwrap())
    }

    pub(crate) fn directory(&self, path: &str) -> &Self {
        fs::create_dir_all(self.outside(path)).unwrap();
        self
    }

    pub(crate) fn file(&self, path: &str, content: impl AsRef<[u8]>) -> &Self {
        fs::create_dir_all(self.outside(path).parent().unwrap()).unwrap();
        fs::write(self.outside(path), content).unwrap();
        self
    }

    pub(crate) fn link(&self, path: &str, target: &str) -> &Self {
        fs::create_dir_all(self.outside(path).parent().unwrap()).unwrap();
        symlink(target, self.outside(path)).unwrap();
        self
    }

    /// The content of a file that is reached without links which leave the root.
    #[track_caller]
    pub(crate) fn read(&self, path: impl AsRef<Path>) -> Vec<u8> {
        fs::read(self.outside(path.as_ref()))
            .unwrap_or_else(|error| panic!("{:?}: {error}", path.as_ref()))
    }

    #[track_caller]
    pub(crate) fn count(&self, path: &str, ca: &CaCertificate) -> usize {
        let content = String::from_utf8_lossy(&self.read(path)).replace("\r\n", "\n");
        content.matches(&ca.pem()).count()
    }

    pub(crate) fn boot(&self, cas: &[CaCertificate]) -> Report {
        self.boot_with(cas, &[])
    }

    pub(crate) fn boot_with(&self, cas: &[CaCertificate], existing: &[(&str, &str)]) -> Report {
        let facts = Facts::read_with(self.path(), &lookup(existing));
        apply(self.path(), &plan(&facts, &TrustRequest { cas }))
    }

    /// Every file and link outside of `/run`: content, mode, owner, and whether it is still the same file.
    pub(crate) fn snapshot(&self) -> BTreeMap<PathBuf, (String, Vec<u8>)> {
        let mut entries = BTreeMap::new();
        self.visit(Path::new("/"), &mut entries);
        entries
    }

    fn visit(&self, directory: &Path, entries: &mut BTreeMap<PathBuf, (String, Vec<u8>)>) {
        for entry in fs::read_dir(self.outside(directory)).unwrap() {
            let entry = entry.unwrap();
            let path = directory.join(entry.file_name());
            if path == Path::new("/run") {
                continue;
            }
            let metadata = entry.path().symlink_metadata().unwrap();
            let content = if metadata.is_symlink() {
                fs::read_link(entry.path())
                    .unwrap()
                    .into_os_string()
                    .into_encoded_bytes()
            } else if metadata.is_file() {
                fs::read(entry.path()).unwrap()
            } else {
                Vec::new()
            };
            let kind = format!(
                "{:o} {}:{} {}",
                metadata.mode(),
                metadata.uid(),
                metadata.gid(),
                if metadata.is_dir() { 0 } else { metadata.ino() }
            );
            if metadata.is_dir() {
                self.visit(&path, entries);
            }
            entries.insert(path, (kind, content));
        }
    }
}

pub(crate) fn lookup<'a>(
    variables: &'a [(&'a str, &'a str)],
) -> impl Fn(&str) -> Option<String> + 'a {
    |name| {
        let found = variables.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| (*value).to_owned())
    }
}

/// Whether a tool that serves as an oracle is there. Says so if it is not.
pub(crate) fn has_tool(name: &str, arguments: &[&str]) -> bool {
    let works = Command::new(name)
        .args(arguments)
        .output()
        .is_ok_and(|output| output.status.success());
    if !works {
        eprintln!("skipped: {name} is not installed or may not be used");
    }
    works
}

/// A program that serves as an oracle: installed, or as `cargo xtask DIRECTORY` has unpacked it. Says so if it is neither.
pub(crate) fn tool(directory: &str, name: &str) -> Option<PathBuf> {
    let unpacked =
        Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name(format!("{directory}/bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain([unpacked]);
    let found = places
        .map(|place| place.join(name))
        .find(|file| file.is_file());
    if found.is_none() {
        eprintln!("skipped: {name} is not there: `cargo xtask {directory}` brings it");
    }
    found
}
