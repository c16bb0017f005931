//! Roots that are not as a distribution makes them. None of them stops a boot.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::process::Command;

use msb_guest_trust::{CaCertificate, Problem, Purpose, Report, environment};

use crate::support::{Root, authority, image_bundle, lookup};

const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";

#[track_caller]
fn problems(report: &Report) -> Vec<(String, Purpose, &Problem)> {
    let failures = report.failed.iter();
    failures
        .map(|failure| {
            (
                failure.path.to_str().unwrap().to_owned(),
                failure.purpose,
                &failure.problem,
            )
        })
        .collect()
}

/// Something on the host that no guest may change, and what it held.
fn host_file() -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bundle.pem");
    fs::write(&path, "the host's").unwrap();
    let path = path.to_str().unwrap().to_owned();
    (directory, path)
}

#[test]
fn links_never_lead_out_of_the_root() {
    let up = "../".repeat(30);
    let cases: [fn(&Root, &str, &str); 6] = [
        |root, host, _| _ = root.link(BUNDLE, host),
        |root, host, up| _ = root.link(BUNDLE, &format!("{up}{host}")),
        |root, host, up| _ = root.link("/etc/ssl/cert.pem", &format!("./{up}/.//{host}")),
        |root, host, _| {
            _ = root
                .link("/etc/ssl", host.rsplit_once('/').unwrap().0)
                .link("/etc/pki", host)
        },
        |root, host, _| {
            root.file("/etc/debian_version", "12")
                .link(
                    "/usr/local/share/ca-certificates",
                    host.rsplit_once('/').unwrap().0,
                )
                .link("/etc/ssl/certs/.msb-new-ca-certificates.crt", host);
        },
        |root, host, _| _ = root.link("/run/msb/trust", host.rsplit_once('/').unwrap().0),
    ];
    for (index, build) in cases.into_iter().enumerate() {
        let (directory, host) = host_file();
        let root = Root::new();
        build(&root, &host, &up);
        let ca = authority("msb sandbox CA");
        let report = root.boot(std::slice::from_ref(&ca));
        assert_eq!(
            fs::read_to_string(&host).unwrap(),
            "the host's",
            "case {index}"
        );
        assert_eq!(
            fs::read_dir(directory.path()).unwrap().count(),
            1,
            "case {index}"
        );
        assert_eq!(report.failed, [], "case {index}");
        assert!(report.trusted.bundle.is_some(), "case {index}");
    }
}

#[test]
fn a_file_of_ours_that_is_a_link_is_replaced_and_not_followed() {
    let (_directory, host) = host_file();
    let ca = authority("msb sandbox CA");
    let root = Root::new();
    let anchor = format!(
        "/usr/local/share/ca-certificates/msb-ca-{}.crt",
        &ca.fingerprint()[..16]
    );
    root.file("/victim", "the image's").link(&anchor, "/victim");
    root.link(&anchor.replace("share", "other"), &host);
    let report = root.boot(std::slice::from_ref(&ca));
    assert_eq!(report.failed, []);
    assert_eq!(root.read("/victim"), b"the image's");
    assert!(!root.outside(&anchor).is_symlink());
    assert_eq!(root.count(&anchor, &ca), 1);
}

#[test]
fn a_bundle_behind_links_is_changed_where_it_lies() {
    let ca = authority("msb sandbox CA");
    let root = Root::new();
    root.file("/data/a/b/bundle", image_bundle())
        .link("/data/c", "a/../a/./b")
        .link("/etc/ssl/certs", "/etc/ssl/../../../data")
        .link("/data/ca-certificates.crt", "c/bundle");
    let report = root.boot(std::slice::from_ref(&ca));
    assert_eq!(report.failed, []);
    assert_eq!(root.count("/data/a/b/bundle", &ca), 1);
    assert!(root.outside("/data/ca-certificates.crt").is_symlink());
}

#[test]
fn links_that_lead_in_a_circle_are_reported() {
    let root = Root::new();
    root.link(BUNDLE, "loop")
        .link("/etc/ssl/certs/loop", "ca-certificates.crt");
    let report = root.boot(&[authority("msb sandbox CA")]);
    let problems = problems(&report);
    assert!(
        problems
            .iter()
            .all(|(path, _, problem)| path == BUNDLE && matches!(problem, Problem::Io { .. }))
    );
    assert!(!problems.is_empty());
    assert_eq!(
        report.trusted.bundle.as_deref(),
        Some("/run/msb/trust/ca-bundle.pem")
    );
}

#[test]
fn mode_and_owner_of_a_bundle_are_kept_and_new_files_can_be_read_by_everyone() {
    let root = Root::new();
    root.file(BUNDLE, image_bundle()).file("/etc/apk/world", "");
    let bundle = root.outside(BUNDLE);
    // Only root may give files away.
    let owner = match fs::metadata(root.path()).unwrap().uid() {
        0 => (1234, 5678),
        other => (other, fs::metadata(&bundle).unwrap().gid()),
    };
    chown(&bundle, Some(owner.0), Some(owner.1)).unwrap();
    fs::set_permissions(&bundle, fs::Permissions::from_mode(0o440)).unwrap();
    let ca = authority("msb sandbox CA");
    let report = root.boot(std::slice::from_ref(&ca));
    assert_eq!(report.failed, []);
    let metadata = fs::metadata(&bundle).unwrap();
    assert_eq!(
        (metadata.mode() & 0o7777, metadata.uid(), metadata.gid()),
        (0o440, owner.0, owner.1)
    );
    for (purpose, path) in &report.done {
        if *purpose != Purpose::Bundle {
            assert_eq!(
                fs::metadata(root.outside(path)).unwrap().mode() & 0o7777,
                0o644,
                "{path:?}"
            );
        }
    }
    for directory in [
        "/usr/local/share/ca-certificates",
        "/run/msb",
        "/run/msb/trust",
    ] {
        assert_eq!(
            fs::metadata(root.outside(directory)).unwrap().mode() & 0o7777,
            0o755,
            "{directory}"
        );
    }
}

#[test]
fn a_root_without_etc_gets_one() {
    let root = Root::new();
    let ca = authority("msb sandbox CA");
    let report = root.boot(std::slice::from_ref(&ca));
    assert_eq!(report.failed, []);
    assert_eq!(root.count(BUNDLE, &ca), 1);
}

#[test]
fn where_nothing_of_the_system_can_be_changed_programs_get_a_bundle_in_memory() {
    let root = Root::new();
    root.file("/etc", "not a directory");
    let ca = authority("msb sandbox CA");
    let report = root.boot(std::slice::from_ref(&ca));
    let bundle = "/run/msb/trust/ca-bundle.pem";
    assert_eq!(problems(&report).len(), 1, "{:?}", report.failed);
    assert_eq!(report.trusted.bundle.as_deref(), Some(bundle));
    assert_eq!(root.count(bundle, &ca), 1);
    let set = environment(&report.trusted, &lookup(&[]));
    assert_eq!(set[0], ("SSL_CERT_FILE".to_owned(), bundle.to_owned()));
}

#[test]
fn where_nothing_at_all_can_be_written_nothing_is_promised() {
    let root = Root::new();
    fs::remove_dir(root.outside("/run")).unwrap();
    root.file("/etc", "").file("/run", "").file("/usr", "");
    let report = root.boot(&[authority("msb sandbox CA")]);
    assert!(!report.failed.is_empty());
    assert_eq!(report.done, []);
    assert_eq!(environment(&report.trusted, &lookup(&[])), []);
}

#[test]
fn what_is_no_file_is_left_alone() {
    let root = Root::new();
    root.directory(BUNDLE)
        .file("/etc/pki/tls/certs/ca-bundle.crt", image_bundle());
    let pipe = root.outside("/etc/ssl/cert.pem");
    assert!(Command::new("mkfifo").arg(pipe).status().unwrap().success());
    let ca = authority("msb sandbox CA");
    let report = root.boot(std::slice::from_ref(&ca));
    assert_eq!(
        problems(&report),
        [
            (BUNDLE.to_owned(), Purpose::Bundle, &Problem::NotAFile),
            (
                "/etc/ssl/cert.pem".to_owned(),
                Purpose::Bundle,
                &Problem::NotAFile
            ),
        ]
    );
    assert_eq!(root.count("/etc/pki/tls/certs/ca-bundle.crt", &ca), 1);
}

#[test]
fn a_file_too_large_for_a_bundle_is_not_read() {
    let root = Root::new();
    root.file(BUNDLE, "");
    let len_bytes = 1 << 40;
    fs::File::options()
        .write(true)
        .open(root.outside(BUNDLE))
        .unwrap()
        .set_len(len_bytes)
        .unwrap();
    let report = root.boot(&[authority("msb sandbox CA")]);
    assert_eq!(problems(&report)[0].2, &Problem::TooLarge { len_bytes });
}

#[test]
fn what_the_environment_names_must_be_there_and_absolute() {
    let root = Root::new();
    root.file(BUNDLE, image_bundle());
    let existing = [
        ("PIP_CERT", "certs/x.pem"),
        ("CURL_CA_BUNDLE", "/opt/\u{1b}[2J\n.pem"),
        ("AWS_CA_BUNDLE", ""),
    ];
    let report = root.boot_with(&[authority("msb sandbox CA")], &existing);
    let lines: Vec<_> = report.failed.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            r#"certificate bundle "/opt/\u{1b}[2J\n.pem": named by the environment, but it does not exist"#,
            r#"certificate bundle "certs/x.pem": named by the environment by a path that is not absolute"#,
        ]
    );
}

#[test]
fn files_of_others_are_left_alone() {
    let root = Root::new();
    let kept = [
        "/usr/local/share/ca-certificates/corp.crt",
        "/usr/local/share/ca-certificates/msb-ca-notes.crt",
        "/usr/local/share/ca-certificates/msb-ca-0123456789abcdef.crt.bak",
        "/etc/ssl/certs/corp.pem",
        "/etc/ssl/certs/0123abcd.1",
    ];
    for path in kept {
        root.file(path, "another's");
    }
    root.link("/etc/ssl/certs/deadbeef.0", "gone.pem");
    let report = root.boot(&[authority("msb sandbox CA")]);
    assert_eq!(report.failed, []);
    let _ = root.boot(&[authority("other")]);
    for path in kept {
        assert_eq!(root.read(path), b"another's", "{path}");
    }
    assert_eq!(
        fs::read_link(root.outside("/etc/ssl/certs/deadbeef.0"))
            .unwrap()
            .to_str(),
        Some("gone.pem")
    );
}

#[test]
fn a_hash_that_is_taken_gets_the_next_number() {
    let root = Root::new();
    let (image, ours) = (authority("same name"), authority("same name"));
    let hash = format!("/etc/ssl/certs/{:08x}", image.subject_hash().unwrap());
    root.file("/etc/ssl/certs/image.pem", image.pem())
        .link(&format!("{hash}.0"), "image.pem");
    let target = |number: u32| fs::read_link(root.outside(format!("{hash}.{number}"))).ok();
    let name = |ca: &CaCertificate| Some(format!("msb-ca-{}.pem", &ca.fingerprint()[..16]).into());
    for cas in [
        vec![ours.clone()],
        vec![ours.clone(), authority("same name")],
        vec![ours.clone()],
    ] {
        let report = root.boot(&cas);
        assert_eq!(report.failed, []);
        assert_eq!(target(0), Some("image.pem".into()));
        assert_eq!(target(1), name(&cas[0]));
        assert_eq!(target(2), cas.get(1).and_then(name));
    }
}

#[test]
fn nothing_is_left_beside_what_was_written() {
    let root = Root::new();
    root.file(BUNDLE, image_bundle())
        .file(
            "/etc/ssl/certs/.msb-new-ca-certificates.crt",
            "of a boot that was cut off",
        )
        .file("/etc/apk/world", "");
    let report = root.boot(&[authority("msb sandbox CA")]);
    assert_eq!(report.failed, []);
    let left: Vec<_> = root
        .snapshot()
        .into_keys()
        .filter(|path| path.to_string_lossy().contains(".msb-new-"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn an_empty_bundle_is_filled_like_a_missing_one() {
    let (empty, missing) = (Root::new(), Root::new());
    empty.file(BUNDLE, "");
    let cas = [authority("msb sandbox CA")];
    let _ = empty.boot(&cas);
    let _ = missing.boot(&cas);
    assert_eq!(empty.read(BUNDLE), missing.read(BUNDLE));
    let certificates = CaCertificate::from_pem(&empty.read(BUNDLE)).unwrap();
    assert!(certificates.contains(&cas[0]));
    assert_eq!(certificates.len() > 100, cfg!(feature = "mozilla-roots"));
    let again = empty.read(BUNDLE);
    let _ = empty.boot(&cas);
    assert_eq!(empty.read(BUNDLE), again);
}

#[test]
fn programs_are_sent_to_a_bundle_with_roots_rather_than_to_an_empty_one() {
    let root = Root::new();
    root.file(BUNDLE, "")
        .file("/etc/pki/tls/certs/ca-bundle.crt", image_bundle());
    let ca = authority("msb sandbox CA");
    let report = root.boot(std::slice::from_ref(&ca));
    assert_eq!(report.failed, []);
    assert_eq!(
        report.trusted.bundle.as_deref(),
        Some("/etc/pki/tls/certs/ca-bundle.crt")
    );
    assert_eq!(CaCertificate::from_pem(&root.read(BUNDLE)).unwrap(), [ca]);
}
