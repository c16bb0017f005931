//! Policies of browsers: merged with what is there, the same at each boot, and gone when they are not wanted.

use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use msb_guest_trust::{CaCertificate, Purpose};
use serde_json::{Value, json};

use crate::support::{Root, authority};

const OF_SYSTEM: &str = "/etc/firefox/policies/policies.json";
const MANAGED: &str = "/etc/chromium/policies/managed";
const OURS: &str = "/etc/chromium/policies/managed/zz-msb-ca.json";

fn parsed(root: &Root, path: &str) -> Value {
    serde_json::from_slice(&root.read(path)).unwrap()
}

fn exists(root: &Root, path: &str) -> bool {
    root.outside(path).symlink_metadata().is_ok()
}

/// The file that Firefox is told to read.
fn file(ca: &CaCertificate) -> String {
    format!("/run/msb/trust/msb-ca-{}.pem", &ca.fingerprint()[..16])
}

fn in_base64(ca: &CaCertificate) -> String {
    STANDARD.encode(ca.der())
}

fn done(root: &Root, cas: &[CaCertificate]) -> Vec<PathBuf> {
    let report = root.boot(cas);
    assert_eq!(report.failed, []);
    let of_browsers = |(purpose, _): &(Purpose, PathBuf)| *purpose == Purpose::BrowserPolicy;
    let done = report.done.into_iter().filter(of_browsers);
    done.map(|(_, path)| path).collect()
}

#[test]
fn an_installed_firefox_is_told_of_the_authority_of_this_boot() {
    for (installation, policies) in [
        (
            "/usr/lib/firefox-esr",
            "/usr/share/firefox-esr/distribution/policies.json",
        ),
        ("/opt/firefox", "/opt/firefox/distribution/policies.json"),
    ] {
        let root = Root::new();
        root.file(&format!("{installation}/application.ini"), "[App]\n");
        if installation != "/opt/firefox" {
            root.directory("/usr/share/firefox-esr/distribution").link(
                &format!("{installation}/distribution"),
                "../../share/firefox-esr/distribution",
            );
        }
        for ca in [authority("msb sandbox CA"), authority("msb sandbox CA")] {
            let cas = std::slice::from_ref(&ca);
            assert_eq!(done(&root, cas), [PathBuf::from(policies)]);
            let expected = json!({"policies": {"Certificates": {"Install": [file(&ca)]}}});
            assert_eq!(parsed(&root, policies), expected);
            assert_eq!(root.read(file(&ca)), ca.pem().as_bytes());
            assert_eq!(done(&root, cas), Vec::<PathBuf>::new(), "again");
        }
        assert_eq!(done(&root, &[]), [PathBuf::from(policies)]);
        assert!(!exists(&root, policies));
    }
}

#[test]
fn what_firefox_was_told_before_stays() {
    let ours = authority("msb sandbox CA");
    let with = |install: Value| json!({"policies": {"BlockAboutConfig": true, "Certificates": {"ImportEnterpriseRoots": true, "Install": install}}});
    // What the image holds, what it becomes, and what is left when nothing is to be trusted any more.
    let cases = [
        (
            json!({"policies": {"BlockAboutConfig": true}}),
            json!({"policies": {"BlockAboutConfig": true, "Certificates": {"Install": [file(&ours)]}}}),
            json!({"policies": {"BlockAboutConfig": true}}),
        ),
        (
            with(json!(["corp.pem"])),
            with(json!(["corp.pem", file(&ours)])),
            with(json!(["corp.pem"])),
        ),
        // A former boot's, which nobody has any more.
        (
            with(json!([
                "/run/msb/trust/msb-ca-0123456789abcdef.pem",
                "corp.pem"
            ])),
            with(json!(["corp.pem", file(&ours)])),
            with(json!(["corp.pem"])),
        ),
    ];
    for (before, after, left) in cases {
        let root = Root::new();
        root.file("/usr/lib/firefox/application.ini", "")
            .file(OF_SYSTEM, before.to_string());
        let cas = std::slice::from_ref(&ours);
        // Those of the installation count if the system's are removed.
        assert_eq!(done(&root, cas).len(), 2);
        assert_eq!(parsed(&root, OF_SYSTEM), after);
        assert_eq!(done(&root, cas).len(), 0);
        let _ = done(&root, &[]);
        assert_eq!(parsed(&root, OF_SYSTEM), left);
    }
}

#[test]
fn each_kind_of_chromium_is_told_of_the_authority_of_this_boot() {
    for (evidence, managed) in [
        ("/usr/bin/chromium", MANAGED),
        ("/usr/lib64/chromium-browser/chrome", MANAGED),
        (
            "/usr/bin/chromium-browser",
            "/etc/chromium-browser/policies/managed",
        ),
        (
            "/opt/google/chrome/chrome",
            "/etc/opt/chrome/policies/managed",
        ),
        (
            "/opt/microsoft/msedge/msedge",
            "/etc/opt/edge/policies/managed",
        ),
        ("/opt/brave.com/brave/brave", "/etc/brave/policies/managed"),
    ] {
        let root = Root::new();
        root.file(evidence, "");
        let ours = format!("{managed}/zz-msb-ca.json");
        for ca in [authority("msb sandbox CA"), authority("msb sandbox CA")] {
            let cas = std::slice::from_ref(&ca);
            assert_eq!(done(&root, cas), [PathBuf::from(&ours)]);
            assert_eq!(
                parsed(&root, &ours),
                json!({"CACertificates": [in_base64(&ca)]})
            );
            assert_eq!(done(&root, cas), Vec::<PathBuf>::new(), "again");
        }
        assert_eq!(done(&root, &[]), [PathBuf::from(&ours)]);
        assert!(!exists(&root, &ours));
    }
}

#[test]
fn what_other_files_tell_chromium_is_said_again_in_the_one_that_counts() {
    let (ca, corporate) = (authority("msb sandbox CA"), authority("Corporate Root"));
    let root = Root::new();
    let theirs = format!("{MANAGED}/corp.json");
    root.file("/usr/bin/chromium", "")
        .file(
            &format!("{MANAGED}/a.json"),
            r#"{"HomepageLocation": "x", /* a comment */ }"#,
        )
        .file(&format!("{MANAGED}/notes.txt"), "CACertificates")
        .file(
            &theirs,
            json!({"CACertificates": [in_base64(&corporate)]}).to_string(),
        );
    let before = root.read(&theirs);
    let cas = [ca.clone(), corporate.clone()];
    assert_eq!(done(&root, &cas), [PathBuf::from(OURS)]);
    let expected = json!({"CACertificates": [in_base64(&corporate), in_base64(&ca)]});
    assert_eq!(parsed(&root, OURS), expected);
    assert_eq!(root.read(&theirs), before);
}

#[test]
fn without_a_browser_there_are_no_policies() {
    let root = Root::new();
    root.directory("/usr/lib/firefox").directory(MANAGED);
    assert_eq!(
        done(&root, &[authority("msb sandbox CA")]),
        Vec::<PathBuf>::new()
    );
}

#[test]
fn policies_that_no_browser_would_read_are_told_of_and_left() {
    const UNREADABLE: &str = "left alone: it does not hold policies as the browser reads them";
    let cases = [
        (OF_SYSTEM, "{", UNREADABLE),
        (OF_SYSTEM, "[]", UNREADABLE),
        (OF_SYSTEM, r#"{"policies": 1}"#, UNREADABLE),
        (
            OF_SYSTEM,
            r#"{"policies": {"Certificates": {"Install": {}}}}"#,
            UNREADABLE,
        ),
        (
            "/etc/chromium/policies/managed/a.json",
            r#"{"CACertificates": [], }"#,
            UNREADABLE,
        ),
        (
            "/etc/chromium/policies/managed/a.json",
            r#"{"CACertificates": "x"}"#,
            UNREADABLE,
        ),
        (
            "/etc/chromium/policies/managed/zzz.json",
            r#"{"CACertificates": []}"#,
            "left alone: a file that comes after it sets the same policy",
        ),
    ];
    let deep = "[".repeat(100_000);
    for (path, content, expected) in cases.into_iter().chain([(OF_SYSTEM, &*deep, UNREADABLE)]) {
        let root = Root::new();
        root.file("/usr/lib/firefox/application.ini", "")
            .file("/usr/bin/chromium", "")
            .file(path, content);
        let report = root.boot(&[authority("msb sandbox CA")]);
        let lines: Vec<_> = report.failed.iter().map(ToString::to_string).collect();
        let named = if path == OF_SYSTEM { path } else { OURS };
        assert_eq!(lines, [format!("browser policy {named:?}: {expected}")]);
        assert_eq!(root.read(path), content.as_bytes());
        assert_eq!(root.boot(&[]).failed, []);
    }
}

#[test]
fn a_link_to_the_hosts_files_is_followed_inside_the_root_only() {
    let outside = tempfile::tempdir().unwrap();
    let root = Root::new();
    root.file("/usr/bin/chromium", "");
    root.link("/etc/chromium", outside.path().to_str().unwrap());
    let _ = root.boot(&[authority("msb sandbox CA")]);
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
}
