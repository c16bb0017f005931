//! The tools of a distribution and of OpenSSL on a root that was booted.

use std::path::Path;
use std::process::{Command, Output};

use crate::support::{Authority, Root, authority, has_tool};

fn verify(trust: &[&str], leaf: &Path) -> bool {
    let output = Command::new("openssl")
        .args(["verify", "-no-CAfile", "-no-CApath"])
        .args(trust)
        .arg(leaf)
        .output()
        .unwrap();
    output.status.success()
}

#[test]
fn openssl_finds_the_authority_in_the_bundle_and_in_the_directory() {
    if !has_tool("openssl", &["version"]) {
        return;
    }
    let root = Root::new();
    let image = authority("Image Root");
    root.file("/etc/ssl/certs/ca-certificates.crt", image.pem())
        .file("/etc/ssl/certs/image.pem", image.pem())
        .link(
            &format!("/etc/ssl/certs/{:08x}.0", image.subject_hash().unwrap()),
            "image.pem",
        );
    let (ours, other) = (
        Authority::new("msb Sandbox  CA"),
        Authority::new("msb Sandbox  CA"),
    );
    root.file("/leaf.pem", ours.leaf_pem())
        .file("/other.pem", other.leaf_pem());
    let bundle = root.outside("/etc/ssl/certs/ca-certificates.crt");
    let directory = root.outside("/etc/ssl/certs");
    let (leaf, foreign) = (root.outside("/leaf.pem"), root.outside("/other.pem"));
    let by_file = ["-CAfile", bundle.to_str().unwrap()];
    let by_directory = ["-CApath", directory.to_str().unwrap()];

    assert!(!verify(&by_file, &leaf) && !verify(&by_directory, &leaf));
    let report = root.boot(std::slice::from_ref(&ours.certificate));
    assert_eq!(report.failed, []);
    for trust in [&by_file, &by_directory] {
        assert!(verify(trust, &leaf), "{trust:?}");
        assert!(!verify(trust, &foreign), "{trust:?}");
    }
    let report = root.boot(std::slice::from_ref(&other.certificate));
    assert_eq!(report.failed, []);
    for trust in [&by_file, &by_directory] {
        assert!(!verify(trust, &leaf), "{trust:?}");
        assert!(verify(trust, &foreign), "{trust:?}");
    }
}

/// A Debian root whose bundle the real tool has made.
fn debian() -> Root {
    let root = Root::new();
    root.file("/etc/debian_version", "12.8\n")
        .file(
            "/etc/ca-certificates.conf",
            "mozilla/Root_1.crt\nmozilla/Root_2.crt\n",
        )
        .file(
            "/usr/share/ca-certificates/mozilla/Root_1.crt",
            authority("Image Root 1").pem(),
        )
        .file(
            "/usr/share/ca-certificates/mozilla/Root_2.crt",
            authority("Image Root 2").pem(),
        )
        .directory("/usr/local/share/ca-certificates")
        .directory("/etc/ca-certificates/update.d")
        .directory("/etc/ssl/certs");
    update(&root, &[]);
    root
}

fn update(root: &Root, options: &[&str]) -> Output {
    let output = Command::new("update-ca-certificates")
        .args(options)
        .arg("--certsconf")
        .arg(root.outside("/etc/ca-certificates.conf"))
        .arg("--certsdir")
        .arg(root.outside("/usr/share/ca-certificates"))
        .arg("--localcertsdir")
        .arg(root.outside("/usr/local/share/ca-certificates"))
        .arg("--etccertsdir")
        .arg(root.outside("/etc/ssl/certs"))
        .arg("--hooksdir")
        .arg(root.outside("/etc/ca-certificates/update.d"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    output
}

#[test]
fn debians_tool_keeps_the_authority_and_the_next_boot_still_takes_it_out() {
    if !has_tool("update-ca-certificates", &["--help"]) || !has_tool("openssl", &["version"]) {
        return;
    }
    let bundle = "/etc/ssl/certs/ca-certificates.crt";
    for options in [&[][..], &["--fresh"]] {
        let (used, fresh) = (debian(), debian());
        for number in 1..=2 {
            let path = format!("/usr/share/ca-certificates/mozilla/Root_{number}.crt");
            fresh.file(&path, used.read(&path));
        }
        update(&fresh, &["--fresh"]);

        let (first, second) = (authority("msb sandbox CA"), authority("msb sandbox CA"));
        let _ = used.boot(std::slice::from_ref(&first));
        let output = update(&used, options);
        assert!(
            !String::from_utf8_lossy(&output.stderr).contains("msb-ca"),
            "{output:?}"
        );
        assert_eq!(used.count(bundle, &first), 1, "{options:?}");

        let report = used.boot(std::slice::from_ref(&second));
        assert_eq!(report.failed, []);
        let _ = fresh.boot(std::slice::from_ref(&second));
        assert_eq!(used.read(bundle), fresh.read(bundle), "{options:?}");
        let names = |root: &Root| root.snapshot().into_keys().collect::<Vec<_>>();
        assert_eq!(names(&used), names(&fresh), "{options:?}");

        update(&used, options);
        let report = used.boot(std::slice::from_ref(&second));
        assert_eq!(report.failed, []);
        assert_eq!(used.read(bundle), fresh.read(bundle), "{options:?}");
    }
}

#[test]
fn installing_ca_certificates_into_a_booted_root_keeps_the_authority() {
    if !has_tool("update-ca-certificates", &["--help"]) {
        return;
    }
    let root = Root::new();
    root.file("/etc/debian_version", "12.8\n")
        .directory("/usr/local/share");
    let ca = authority("msb sandbox CA");
    let _ = root.boot(std::slice::from_ref(&ca));
    let image = authority("Image Root");
    root.file("/etc/ca-certificates.conf", "mozilla/Root.crt\n")
        .file("/usr/share/ca-certificates/mozilla/Root.crt", image.pem())
        .directory("/etc/ca-certificates/update.d");
    update(&root, &[]);
    let bundle = "/etc/ssl/certs/ca-certificates.crt";
    assert_eq!(
        (root.count(bundle, &ca), root.count(bundle, &image)),
        (1, 1)
    );
}
