//! Layouts whose distributions put their bundles together out of anchors: with p11-kit's `trust extract`, as
//! `update-ca-trust` of Fedora and Arch and `update-ca-certificates` of openSUSE run it, or Debian's tool on Alpine's.

use std::path::{Path, PathBuf};
use std::process::Command;

use msb_guest_trust::{CaCertificate, Facts, TrustRequest, plan};

use crate::support::{Authority, Root, authority, has_tool, tool};

/// Makes all of a distribution's stores anew from `/etc` and `/var` of the root, as its own tool does.
struct Distribution {
    name: &'static str,
    /// Where p11-kit looks for anchors, as that distribution builds it.
    source: &'static str,
    anchors: &'static str,
    script: &'static str,
    bundle: &'static str,
    hashed: &'static str,
    java: &'static str,
    /// What is there before: files that say which distribution it is, directories, links.
    build: fn(&Root),
}

const DISTRIBUTIONS: &[Distribution] = &[
    Distribution {
        name: "Fedora and RHEL",
        source: "/etc/pki/ca-trust/source",
        anchors: "/etc/pki/ca-trust/source/anchors",
        script: "
            cd /etc/pki/ca-trust/extracted
            extract --format=openssl-bundle --filter=certificates --comment openssl/ca-bundle.trust.crt
            extract --format=pem-bundle --filter=ca-anchors --comment --purpose=server-auth pem/tls-ca-bundle.pem
            extract --format=java-cacerts --filter=ca-anchors --purpose=server-auth java/cacerts
            extract --format=pem-directory-hash --filter=ca-anchors --purpose=server-auth pem/directory-hash",
        bundle: "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
        hashed: "/etc/pki/ca-trust/extracted/pem/directory-hash",
        java: "/etc/pki/ca-trust/extracted/java/cacerts",
        build: |root| {
            root.file("/etc/redhat-release", "Fedora release 41\n")
                .directory("/etc/pki/ca-trust/extracted/openssl")
                .directory("/etc/pki/ca-trust/extracted/pem")
                .directory("/etc/pki/ca-trust/extracted/java")
                .link(
                    "/etc/pki/tls/certs/ca-bundle.crt",
                    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
                )
                .link("/etc/pki/tls/cert.pem", "certs/ca-bundle.crt")
                .link("/etc/ssl/certs", "../pki/tls/certs")
                .link(
                    "/etc/pki/java/cacerts",
                    "/etc/pki/ca-trust/extracted/java/cacerts",
                );
        },
    },
    Distribution {
        name: "Arch",
        source: "/etc/ca-certificates/trust-source",
        anchors: "/etc/ca-certificates/trust-source/anchors",
        script: "
            cd /etc/ca-certificates/extracted
            extract --format=openssl-bundle --filter=certificates --comment ca-bundle.trust.crt
            extract --format=pem-bundle --filter=ca-anchors --comment --purpose=server-auth tls-ca-bundle.pem
            extract --format=java-cacerts --filter=ca-anchors --purpose=server-auth java-cacerts.jks
            extract --format=pem-directory-hash --filter=ca-anchors --purpose=server-auth cadir
            for file in cadir/*; do ln -fs /etc/ca-certificates/extracted/$file /etc/ssl/certs/; done",
        bundle: "/etc/ca-certificates/extracted/tls-ca-bundle.pem",
        hashed: "/etc/ca-certificates/extracted/cadir",
        java: "/etc/ca-certificates/extracted/java-cacerts.jks",
        build: |root| {
            root.file("/etc/arch-release", "")
                .directory("/etc/ca-certificates/extracted")
                .link(
                    "/etc/ssl/certs/ca-certificates.crt",
                    "../../ca-certificates/extracted/tls-ca-bundle.pem",
                )
                .link(
                    "/etc/ssl/cert.pem",
                    "../ca-certificates/extracted/tls-ca-bundle.pem",
                );
        },
    },
    Distribution {
        name: "openSUSE",
        source: "/etc/pki/trust",
        anchors: "/etc/pki/trust/anchors",
        script: "
            cd /var/lib/ca-certificates
            extract --format=pem-bundle --filter=ca-anchors --purpose=server-auth ca-bundle.pem
            extract --format=java-cacerts --filter=ca-anchors --purpose=server-auth java-cacerts
            extract --format=pem-directory-hash --filter=ca-anchors --purpose=server-auth pem
            extract --format=openssl-directory --filter=ca-anchors openssl",
        bundle: "/var/lib/ca-certificates/ca-bundle.pem",
        hashed: "/var/lib/ca-certificates/pem",
        java: "/var/lib/ca-certificates/java-cacerts",
        build: |root| {
            root.directory("/etc/zypp")
                .directory("/var/lib/ca-certificates")
                .link(
                    "/etc/ssl/ca-bundle.pem",
                    "../../var/lib/ca-certificates/ca-bundle.pem",
                )
                .link("/etc/ssl/certs", "/var/lib/ca-certificates/pem");
        },
    },
];

/// p11-kit's program, and the module that reads anchors.
fn p11_kit() -> Option<(PathBuf, PathBuf)> {
    if !has_tool("unshare", &["--map-root-user", "--mount", "true"]) {
        return None;
    }
    let trust = tool("trust-tools", "trust")?;
    let below = "usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-trust.so";
    let unpacked = trust.parent()?.with_file_name("debian/p11-kit").join(below);
    let installed = Path::new("/").join(below);
    let module = [unpacked, installed]
        .into_iter()
        .find(|path| path.is_file());
    if module.is_none() {
        eprintln!("skipped: p11-kit's module of anchors is not there");
    }
    Some((trust, module?))
}

impl Distribution {
    /// A root as it is when its image was made: one authority, all stores put together.
    fn root(&self, image: &CaCertificate, p11_kit: &(PathBuf, PathBuf)) -> Root {
        let root = Root::new();
        let module = format!(
            "module: {}\ntrust-policy: yes\npriority: 1\nx-init-reserved: paths='{}'\n",
            p11_kit.1.display(),
            self.source
        );
        root.file("/etc/pkcs11/modules/p11-kit-trust.module", module)
            .directory("/var")
            .file(&format!("{}/image.crt", self.anchors), image.pem());
        (self.build)(&root);
        self.extract(&root, p11_kit);
        root
    }

    /// Runs the distribution's commands where `/etc` and `/var` are the root's.
    fn extract(&self, root: &Root, (trust, _): &(PathBuf, PathBuf)) {
        let script = format!(
            r#"mount --bind "$R/etc" /etc
            mount --bind "$R/var" /var
            extract() {{ '{}' extract --overwrite "$@"; }}
            {}"#,
            trust.display(),
            self.script
        );
        let output = Command::new("unshare")
            .args(["--map-root-user", "--mount", "sh", "-ec", &script])
            .env("R", root.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}: {output:?}", self.name);
    }

    /// How often an authority is in what programs read: bundle, key store of Java, hashed directory.
    fn counts(&self, root: &Root, ca: &CaCertificate) -> [usize; 3] {
        let bundle = CaCertificate::from_pem(&root.read(self.bundle)).unwrap();
        let java = root.read(self.java);
        let hash = format!("{:08x}.", ca.subject_hash().unwrap());
        let entries = std::fs::read_dir(root.outside(self.hashed)).unwrap();
        let hashed = entries.filter(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            let name = name.to_str().unwrap();
            let path = format!("{}/{name}", self.hashed);
            let hashed = || CaCertificate::from_pem(&root.read(path)).unwrap();
            name.starts_with(&hash) && hashed() == [ca.clone()]
        });
        [
            bundle.iter().filter(|found| *found == ca).count(),
            java.windows(ca.der().len())
                .filter(|part| *part == ca.der())
                .count(),
            // Under a name of its own and under the tool's it is one to OpenSSL.
            hashed.count().min(1),
        ]
    }
}

#[test]
fn what_distributions_extract_with_p11_kit_has_the_authority_once() {
    let Some(p11_kit) = p11_kit() else { return };
    for distribution in DISTRIBUTIONS {
        let name = distribution.name;
        let image = authority("Image Root");
        let root = distribution.root(&image, &p11_kit);
        let (first, second) = (authority("msb sandbox CA"), authority("msb second CA"));
        assert_eq!(distribution.counts(&root, &image), [1; 3], "{name}");
        for (ca, former) in [(&first, &second), (&second, &first)] {
            let cas = std::slice::from_ref(ca);
            for _extracted in 0..2 {
                assert_eq!(root.boot(cas).failed, [], "{name}");
                assert_eq!(distribution.counts(&root, ca), [1; 3], "{name}: booted");
                distribution.extract(&root, &p11_kit);
                assert_eq!(distribution.counts(&root, ca), [1; 3], "{name}: extracted");
                assert_eq!(distribution.counts(&root, &image), [1; 3], "{name}");
                assert_eq!(distribution.counts(&root, former), [0; 3], "{name}: former");
            }
            // A boot puts back what the tool takes for its own; the boot after that finds nothing to do.
            assert_eq!(root.boot(cas).failed, [], "{name}");
            let again = plan(&Facts::read(root.path()), &TrustRequest { cas });
            let of_root = |path: &Path| !path.starts_with("/run/msb");
            let actions: Vec<_> = again.actions().iter().map(|action| &*action.path).collect();
            assert!(
                !actions.iter().any(|path| of_root(path)),
                "{name}: {actions:?}"
            );
        }
        assert_eq!(root.boot(&[]).failed, [], "{name}");
        distribution.extract(&root, &p11_kit);
        assert_eq!(distribution.counts(&root, &second), [0; 3], "{name}");
        assert_eq!(distribution.counts(&root, &image), [1; 3], "{name}");
    }
}

#[test]
fn openssl_verifies_with_what_was_extracted() {
    let Some(p11_kit) = p11_kit() else { return };
    if !has_tool("openssl", &["version"]) {
        return;
    }
    for distribution in DISTRIBUTIONS {
        let root = distribution.root(&authority("Image Root"), &p11_kit);
        let ca = Authority::new("msb sandbox CA");
        root.file("/leaf.pem", ca.leaf_pem());
        let bundle = root.outside(distribution.bundle);
        let hashed = root.outside(distribution.hashed);
        let verifies = |option: &str, path: &Path| {
            let mut openssl = Command::new("openssl");
            openssl.args(["verify", "-no-CAfile", "-no-CApath", option]);
            let output = openssl.arg(path).arg(root.outside("/leaf.pem")).output();
            output.unwrap().status.success()
        };
        let verified = || [verifies("-CAfile", &bundle), verifies("-CApath", &hashed)];
        assert_eq!(verified(), [false; 2], "{}", distribution.name);
        let _ = root.boot(std::slice::from_ref(&ca.certificate));
        assert_eq!(verified(), [true; 2], "{}: booted", distribution.name);
        distribution.extract(&root, &p11_kit);
        assert_eq!(verified(), [true; 2], "{}: extracted", distribution.name);
    }
}

/// Alpine's tool does as Debian's: a bundle, and a link by name and by hash for each certificate.
#[test]
fn alpines_stores_keep_the_authority_when_they_are_made_again() {
    if !has_tool("update-ca-certificates", &["--help"]) {
        return;
    }
    let root = Root::new();
    let image = authority("Image Root");
    root.directory("/etc/apk")
        .file("/etc/ca-certificates.conf", "mozilla/Root.crt\n")
        .file("/usr/share/ca-certificates/mozilla/Root.crt", image.pem())
        .directory("/usr/local/share/ca-certificates")
        .directory("/etc/ca-certificates/update.d")
        .directory("/etc/ssl/certs")
        .link("/etc/ssl/cert.pem", "certs/ca-certificates.crt");
    let update = || {
        let places = [
            ("--certsconf", "/etc/ca-certificates.conf"),
            ("--certsdir", "/usr/share/ca-certificates"),
            ("--localcertsdir", "/usr/local/share/ca-certificates"),
            ("--etccertsdir", "/etc/ssl/certs"),
            ("--hooksdir", "/etc/ca-certificates/update.d"),
        ];
        let mut command = Command::new("update-ca-certificates");
        for (option, path) in places {
            command.arg(option).arg(root.outside(path));
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    update();
    let bundle = "/etc/ssl/certs/ca-certificates.crt";
    for ca in [authority("msb sandbox CA"), authority("msb sandbox CA")] {
        for _again in 0..2 {
            let report = root.boot(std::slice::from_ref(&ca));
            assert_eq!(report.failed, []);
            assert_eq!(root.count(bundle, &ca), 1);
            update();
            assert_eq!(root.count(bundle, &ca), 1);
            assert_eq!(root.count(bundle, &image), 1);
            let certificates = CaCertificate::from_pem(&root.read(bundle)).unwrap();
            assert_eq!(certificates.len(), 2);
        }
    }
}
