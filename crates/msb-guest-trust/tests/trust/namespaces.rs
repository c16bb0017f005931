//! Mounts, which need a mount namespace: read-only roots, and the host's directories mounted into the guest.

use std::ffi::OsStr;
use std::process::Command;

use msb_guest_trust::{Facts, Problem, Purpose, TrustRequest, apply, plan};

use crate::support::{Root, authority, has_tool, image_bundle};

const ROOT_VARIABLE: &str = "MSB_TEST_ROOT";

/// Runs the test of this name again where `mounts` were made, with the root's path in `$R`; there, says where that is.
fn in_namespace(test: &str, root: &Root, mounts: &str) -> Option<std::path::PathBuf> {
    if let Some(inside) = variable() {
        return Some(inside.into());
    }
    if !has_tool("unshare", &["--map-root-user", "--mount", "true"]) {
        return None;
    }
    let output = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-ec"])
        .arg(format!("{mounts}\nexec \"$0\" --exact \"$1\""))
        .arg(std::env::current_exe().unwrap())
        .arg(test)
        .env("R", root.path())
        .env(ROOT_VARIABLE, root.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{output:?}"
    );
    None
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is how the test knows that it runs in the namespace"
)]
fn variable() -> Option<std::ffi::OsString> {
    std::env::var_os(ROOT_VARIABLE).filter(|root| root != OsStr::new(""))
}

fn with_bundle() -> Root {
    let root = Root::new();
    root.file("/etc/ssl/certs/ca-certificates.crt", image_bundle())
        .file("/etc/debian_version", "12.8\n")
        .directory("/host");
    root
}

#[test]
fn a_read_only_root_is_reported_and_its_programs_get_a_bundle_in_memory() {
    let fixture = with_bundle();
    let mounts = r#"mount --bind "$R" "$R"
        mount -o remount,ro,bind "$R"
        mount -t tmpfs tmpfs "$R/run""#;
    let name = "namespaces::a_read_only_root_is_reported_and_its_programs_get_a_bundle_in_memory";
    let Some(root) = in_namespace(name, &fixture, mounts) else {
        return;
    };
    let cas = [authority("msb sandbox CA")];
    let report = apply(
        &root,
        &plan(&Facts::read(&root), &TrustRequest { cas: &cas }),
    );
    let read_only = |problem: &Problem| matches!(problem, Problem::Io { kind, .. } if *kind == std::io::ErrorKind::ReadOnlyFilesystem);
    let purposes: Vec<_> = report
        .failed
        .iter()
        .map(|failure| failure.purpose)
        .collect();
    assert_eq!(purposes, [Purpose::Bundle, Purpose::Anchor]);
    assert!(
        report
            .failed
            .iter()
            .all(|failure| read_only(&failure.problem)),
        "{:?}",
        report.failed
    );
    assert_eq!(
        report.trusted.bundle.as_deref(),
        Some("/run/msb/trust/ca-bundle.pem")
    );

    let bundle = std::fs::read_to_string(root.join("run/msb/trust/ca-bundle.pem")).unwrap();
    let image = std::fs::read_to_string(root.join("etc/ssl/certs/ca-certificates.crt")).unwrap();
    assert!(bundle.starts_with(&image) && bundle.contains(&cas[0].pem()));
}

#[test]
fn what_is_mounted_into_the_guest_is_never_changed() {
    let fixture = with_bundle();
    let mounts = r#"mount -t tmpfs tmpfs "$R/host"
        cp -r "$R/etc/ssl/certs/." "$R/host/"
        echo image >"$R/host/msb-ca-0123456789abcdef.pem"
        ln -s x.pem "$R/host/01234567.0"
        mkdir -p "$R/usr/local/share/ca-certificates"
        mount --bind "$R/host" "$R/etc/ssl/certs"
        mount --bind "$R/host" "$R/usr/local/share/ca-certificates"
        mount -t tmpfs tmpfs "$R/run""#;
    let name = "namespaces::what_is_mounted_into_the_guest_is_never_changed";
    let Some(root) = in_namespace(name, &fixture, mounts) else {
        return;
    };
    let listing = || {
        let mut names: Vec<_> = std::fs::read_dir(root.join("host"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        names.sort();
        let contents: Vec<_> = names
            .iter()
            .map(|name| std::fs::read_to_string(name).ok())
            .collect();
        (names, contents)
    };
    let before = listing();
    let cas = [authority("msb sandbox CA")];
    let report = apply(
        &root,
        &plan(&Facts::read(&root), &TrustRequest { cas: &cas }),
    );
    assert_eq!(listing(), before);
    let problems: Vec<_> = report
        .failed
        .iter()
        .map(|failure| (failure.purpose, &failure.problem))
        .collect();
    assert_eq!(
        problems,
        [Purpose::Bundle, Purpose::Anchor, Purpose::HashedDirectory]
            .map(|purpose| (purpose, &Problem::OtherFileSystem))
    );
    assert_eq!(
        report.trusted.bundle.as_deref(),
        Some("/run/msb/trust/ca-bundle.pem")
    );
    assert_eq!(report.trusted.hashed_directory, None);
}

#[test]
fn a_root_that_is_an_overlay_is_one_file_system() {
    if variable().is_none() && !has_tool("unshare", OVERLAY) {
        return;
    }
    let fixture = with_bundle();
    let mounts = r#"mount -t tmpfs tmpfs "$R/host"
        mkdir "$R/host/upper" "$R/host/work"
        mount -t overlay overlay -o "lowerdir=$R,upperdir=$R/host/upper,workdir=$R/host/work" "$R"
        mount -t tmpfs tmpfs "$R/run""#;
    let name = "namespaces::a_root_that_is_an_overlay_is_one_file_system";
    let Some(root) = in_namespace(name, &fixture, mounts) else {
        return;
    };
    let cas = [authority("msb sandbox CA")];
    for _boot in 0..2 {
        let report = apply(
            &root,
            &plan(&Facts::read(&root), &TrustRequest { cas: &cas }),
        );
        assert_eq!(report.failed, []);
        assert_eq!(
            report.trusted.bundle.as_deref(),
            Some("/etc/ssl/certs/ca-certificates.crt")
        );
    }
}

/// Not every kernel lets an unprivileged user mount an overlay.
const OVERLAY: &[&str] = &[
    "--map-root-user",
    "--mount",
    "sh",
    "-ec",
    "mount -t tmpfs tmpfs /mnt && cd /mnt && mkdir l u w m && mount -t overlay o -o lowerdir=l,upperdir=u,workdir=w m",
];
