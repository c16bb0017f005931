//! The layouts of the distributions, each as a fixture root.

use std::fs;
use std::path::PathBuf;

use msb_guest_trust::{CaCertificate, Facts, TrustRequest, Trusted, plan};

use crate::support::{Root, authority, image_bundle};

struct Layout {
    name: &'static str,
    build: fn(&Root),
    /// Bundles as programs name them, the one that is offered to them first.
    bundles: &'static [&'static str],
    anchors: Option<&'static str>,
    hashed: Option<&'static str>,
}

const LAYOUTS: &[Layout] = &[
    Layout {
        name: "Debian with ca-certificates",
        build: |root| {
            root.file("/etc/debian_version", "12.8\n")
                .file("/etc/ca-certificates.conf", "mozilla/Root_1.crt\n")
                .directory("/usr/local/share/ca-certificates")
                .file(
                    "/usr/share/ca-certificates/mozilla/Root_1.crt",
                    image_bundle(),
                )
                .file("/etc/ssl/certs/ca-certificates.crt", image_bundle())
                .link(
                    "/etc/ssl/certs/Root_1.pem",
                    "/usr/share/ca-certificates/mozilla/Root_1.crt",
                )
                .link("/etc/ssl/certs/002c0b4f.0", "Root_1.pem")
                .link("/usr/lib/ssl/certs", "/etc/ssl/certs")
                .link("/usr/lib/ssl/cert.pem", "/etc/ssl/cert.pem");
        },
        bundles: &["/etc/ssl/certs/ca-certificates.crt"],
        anchors: Some("/usr/local/share/ca-certificates"),
        hashed: Some("/etc/ssl/certs"),
    },
    Layout {
        name: "Debian slim, without ca-certificates",
        build: |root| {
            root.file("/etc/debian_version", "12.8\n")
                .directory("/usr/local/share");
        },
        bundles: &["/etc/ssl/certs/ca-certificates.crt"],
        anchors: Some("/usr/local/share/ca-certificates"),
        hashed: None,
    },
    Layout {
        name: "Alpine",
        build: |root| {
            root.directory("/etc/apk")
                .file("/etc/ssl/certs/ca-certificates.crt", image_bundle())
                .link("/etc/ssl/cert.pem", "certs/ca-certificates.crt")
                .link("/etc/ssl1.1/cert.pem", "/etc/ssl/cert.pem");
        },
        bundles: &["/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/cert.pem"],
        anchors: Some("/usr/local/share/ca-certificates"),
        hashed: None,
    },
    Layout {
        name: "Fedora and RHEL",
        build: |root| {
            root.file("/etc/redhat-release", "Fedora release 41\n")
                .directory("/etc/pki/ca-trust/source/anchors")
                .file(
                    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
                    image_bundle(),
                )
                .file(
                    "/etc/pki/ca-trust/extracted/openssl/ca-bundle.trust.crt",
                    image_bundle(),
                )
                .link(
                    "/etc/pki/tls/certs/ca-bundle.crt",
                    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
                )
                .link("/etc/pki/tls/cert.pem", "certs/ca-bundle.crt")
                .link("/etc/ssl/certs", "../pki/tls/certs")
                .file(
                    "/etc/pki/ca-trust/extracted/pem/directory-hash/Root.pem",
                    image_bundle(),
                )
                .link(
                    "/etc/pki/ca-trust/extracted/pem/directory-hash/002c0b4f.0",
                    "Root.pem",
                );
        },
        bundles: &[
            "/etc/pki/tls/certs/ca-bundle.crt",
            "/etc/pki/tls/cert.pem",
            "/etc/ssl/certs/ca-bundle.crt",
            "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
            "/etc/pki/ca-trust/extracted/openssl/ca-bundle.trust.crt",
        ],
        anchors: Some("/etc/pki/ca-trust/source/anchors"),
        hashed: Some("/etc/pki/ca-trust/extracted/pem/directory-hash"),
    },
    Layout {
        name: "Amazon Linux, minimal, without a bundle",
        build: |root| {
            root.file("/etc/system-release", "Amazon Linux release 2023\n");
        },
        bundles: &[
            "/etc/ssl/certs/ca-certificates.crt",
            "/etc/pki/tls/certs/ca-bundle.crt",
        ],
        anchors: Some("/etc/pki/ca-trust/source/anchors"),
        hashed: None,
    },
    Layout {
        name: "openSUSE",
        build: |root| {
            root.directory("/etc/zypp")
                .directory("/etc/pki/trust/anchors")
                .directory("/usr/share/pki/trust/anchors")
                .file("/var/lib/ca-certificates/ca-bundle.pem", image_bundle())
                .link(
                    "/etc/ssl/ca-bundle.pem",
                    "../../var/lib/ca-certificates/ca-bundle.pem",
                )
                .link("/etc/ssl/certs", "/var/lib/ca-certificates/pem")
                .file("/var/lib/ca-certificates/pem/Root.pem", image_bundle())
                .link("/var/lib/ca-certificates/pem/002c0b4f.0", "Root.pem");
        },
        bundles: &[
            "/etc/ssl/ca-bundle.pem",
            "/var/lib/ca-certificates/ca-bundle.pem",
        ],
        anchors: Some("/etc/pki/trust/anchors"),
        hashed: Some("/etc/ssl/certs"),
    },
    Layout {
        name: "Arch",
        build: |root| {
            root.file("/etc/arch-release", "")
                .directory("/etc/ca-certificates/trust-source/anchors")
                .file(
                    "/etc/ca-certificates/extracted/tls-ca-bundle.pem",
                    image_bundle(),
                )
                .link(
                    "/etc/ssl/certs/ca-certificates.crt",
                    "../../ca-certificates/extracted/tls-ca-bundle.pem",
                )
                .link(
                    "/etc/ssl/cert.pem",
                    "../ca-certificates/extracted/tls-ca-bundle.pem",
                )
                .file(
                    "/etc/ca-certificates/extracted/cadir/Root.pem",
                    image_bundle(),
                )
                .link(
                    "/etc/ca-certificates/extracted/cadir/002c0b4f.0",
                    "Root.pem",
                )
                .link(
                    "/etc/ssl/certs/002c0b4f.0",
                    "../../ca-certificates/extracted/cadir/Root.pem",
                );
        },
        bundles: &[
            "/etc/ssl/certs/ca-certificates.crt",
            "/etc/ssl/cert.pem",
            "/etc/ca-certificates/extracted/tls-ca-bundle.pem",
        ],
        anchors: Some("/etc/ca-certificates/trust-source/anchors"),
        hashed: Some("/etc/ssl/certs"),
    },
    Layout {
        name: "Gentoo",
        build: |root| {
            root.file("/etc/gentoo-release", "Gentoo Base System\n")
                .file("/etc/ssl/certs/ca-certificates.crt", image_bundle());
        },
        bundles: &["/etc/ssl/certs/ca-certificates.crt"],
        anchors: Some("/usr/local/share/ca-certificates"),
        hashed: None,
    },
    Layout {
        name: "NixOS",
        build: |root| {
            root.file(
                "/nix/store/abc-nss-cacert/etc/ssl/certs/ca-bundle.crt",
                image_bundle(),
            )
            .link("/nix/store/def-etc/etc", "/nix/store/ghi-etc")
            .link(
                "/nix/store/ghi-etc/ssl/certs/ca-bundle.crt",
                "/nix/store/abc-nss-cacert/etc/ssl/certs/ca-bundle.crt",
            )
            .link("/etc/static", "/nix/store/def-etc/etc")
            .link(
                "/etc/ssl/certs/ca-certificates.crt",
                "/etc/static/ssl/certs/ca-bundle.crt",
            )
            .link(
                "/etc/ssl/certs/ca-bundle.crt",
                "/etc/static/ssl/certs/ca-bundle.crt",
            )
            .link(
                "/etc/pki/tls/certs/ca-bundle.crt",
                "/etc/static/ssl/certs/ca-bundle.crt",
            );
        },
        bundles: &[
            "/etc/ssl/certs/ca-certificates.crt",
            "/etc/pki/tls/certs/ca-bundle.crt",
            "/etc/ssl/certs/ca-bundle.crt",
        ],
        anchors: None,
        hashed: None,
    },
    Layout {
        name: "nothing but a static program",
        build: |root| {
            root.file("/app", "\x7fELF");
        },
        bundles: &["/etc/ssl/certs/ca-certificates.crt"],
        anchors: None,
        hashed: None,
    },
];

/// Where `path` leads a program in the guest. Written without looking at how the crate does it.
fn follow(root: &Root, path: &str) -> String {
    let mut path = path.to_owned();
    for _ in 0..40 {
        let parts: Vec<_> = path.split('/').skip(1).map(str::to_owned).collect();
        let mut at = String::new();
        let mut next = None;
        for (index, part) in parts.iter().enumerate() {
            let here = format!("{at}/{part}");
            if let Ok(target) = fs::read_link(root.outside(&here)) {
                let target = target.to_str().unwrap();
                let base = if target.starts_with('/') {
                    target.to_owned()
                } else {
                    format!("{at}/{target}")
                };
                let rest = parts[index + 1..].join("/");
                next = Some(lexically(&format!("{base}/{rest}")));
                break;
            }
            at = here;
        }
        match next {
            Some(target) => path = target,
            None => return path,
        }
    }
    panic!("too many links at {path}");
}

fn lexically(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    format!("/{}", parts.join("/"))
}

#[track_caller]
fn check(layout: &Layout, root: &Root, ca: &CaCertificate) {
    for bundle in layout.bundles {
        assert_eq!(
            root.count(&follow(root, bundle), ca),
            1,
            "{}: {bundle}",
            layout.name
        );
    }
    let short = &ca.fingerprint()[..16];
    if let Some(anchors) = layout.anchors {
        assert_eq!(
            root.count(&format!("{anchors}/msb-ca-{short}.crt"), ca),
            1,
            "{}",
            layout.name
        );
    }
    if let Some(hashed) = layout.hashed {
        let link = format!("{hashed}/{:08x}.0", ca.subject_hash().unwrap());
        assert_eq!(
            root.count(&follow(root, &link), ca),
            1,
            "{}: {link}",
            layout.name
        );
    }
}

#[test]
fn each_distribution_trusts_the_authority_everywhere() {
    for layout in LAYOUTS {
        let root = Root::new();
        (layout.build)(&root);
        let ca = authority("msb sandbox CA");
        let report = root.boot(std::slice::from_ref(&ca));
        assert_eq!(report.failed, [], "{}", layout.name);
        assert_eq!(
            report.trusted.bundle.as_deref(),
            Some(layout.bundles[0]),
            "{}",
            layout.name
        );
        assert_eq!(
            report.trusted.ca_file.as_deref(),
            Some("/run/msb/trust/ca.pem")
        );
        assert_eq!(
            report.trusted.hashed_directory.as_deref(),
            layout.hashed,
            "{}",
            layout.name
        );
        check(layout, &root, &ca);
    }
}

#[test]
fn booting_again_changes_nothing() {
    for layout in LAYOUTS {
        let root = Root::new();
        (layout.build)(&root);
        let cas = [authority("msb sandbox CA"), authority("Corporate Root")];
        let first = root.boot(&cas);
        let snapshot = root.snapshot();
        let again = plan(&Facts::read(root.path()), &TrustRequest { cas: &cas });
        assert!(
            again
                .actions()
                .iter()
                .all(|action| action.path.starts_with("/run/msb")),
            "{}: {again:?}",
            layout.name
        );
        let second = root.boot(&cas);
        assert_eq!(root.snapshot(), snapshot, "{}", layout.name);
        assert_eq!(second.trusted, first.trusted, "{}", layout.name);
    }
}

#[test]
fn another_authority_replaces_the_former_one() {
    for layout in LAYOUTS {
        // The subject is the same at each boot, or another.
        for second in ["msb sandbox CA", "other"] {
            let (used, fresh) = (Root::new(), Root::new());
            let (old, new) = (authority("msb sandbox CA"), authority(second));
            (layout.build)(&used);
            for entry in used.snapshot() {
                copy(&fresh, &entry);
            }
            let _ = used.boot(&[old]);
            let report = used.boot(std::slice::from_ref(&new));
            assert_eq!(report.failed, [], "{}", layout.name);
            let _ = fresh.boot(std::slice::from_ref(&new));
            check(layout, &used, &new);
            assert_eq!(contents(&used), contents(&fresh), "{}", layout.name);
        }
    }
}

#[test]
fn booting_without_an_authority_takes_the_former_one_out() {
    for layout in LAYOUTS {
        let root = Root::new();
        (layout.build)(&root);
        // Directories that were made stay, and so does the bundle of an image that had none, empty.
        let with_content = |root: &Root| {
            let mut contents = contents(root);
            contents.retain(|(_, content)| !content.is_empty());
            contents
        };
        let before = with_content(&root);
        let _ = root.boot(&[authority("msb sandbox CA")]);
        let report = root.boot(&[]);
        assert_eq!(report.failed, []);
        assert_eq!(report.trusted, Trusted::default());
        assert_eq!(with_content(&root), before, "{}", layout.name);
    }
}

fn contents(root: &Root) -> Vec<(PathBuf, Vec<u8>)> {
    root.snapshot()
        .into_iter()
        .map(|(path, (_, content))| (path, content))
        .collect()
}

fn copy(to: &Root, (path, (kind, content)): &(PathBuf, (String, Vec<u8>))) {
    let path = path.to_str().unwrap();
    if kind.starts_with("4") {
        to.directory(path);
    } else if kind.starts_with("12") {
        to.link(path, std::str::from_utf8(content).unwrap());
    } else {
        to.file(path, content);
    }
}
