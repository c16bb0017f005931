//! Stores that Java's own `keytool` has made, and reads after they were changed.

#![expect(clippy::disallowed_methods, reason = "keytool reads and writes files")]

use std::path::Path;
use std::process::Command;

use super::*;

fn ca(name: &str) -> CaCertificate {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::default();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    parameters
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    CaCertificate::from_der(parameters.self_signed(&key).unwrap().der()).unwrap()
}

/// How a store is made.
struct Kind {
    name: &'static str,
    options: &'static [&'static str],
    /// What opens it; nothing for a store that has no password, as OpenJDK has delivered it since version 18.
    password: Option<&'static str>,
}

const KINDS: &[Kind] = &[
    Kind {
        name: "JKS",
        options: &["-storetype", "JKS"],
        password: Some(PASSWORD),
    },
    Kind {
        name: "PKCS#12 as keytool makes it",
        options: &["-storetype", "PKCS12"],
        password: Some(PASSWORD),
    },
    Kind {
        name: "PKCS#12 with SHA-1",
        options: &["-J-Dkeystore.pkcs12.legacy", "-storetype", "PKCS12"],
        password: Some(PASSWORD),
    },
    Kind {
        name: "PKCS#12 without a password",
        options: &[
            "-J-Dkeystore.pkcs12.certProtectionAlgorithm=NONE",
            "-J-Dkeystore.pkcs12.macAlgorithm=NONE",
            "-storetype",
            "PKCS12",
        ],
        password: None,
    },
    Kind {
        name: "PKCS#12 that is signed but not encrypted",
        options: &[
            "-J-Dkeystore.pkcs12.certProtectionAlgorithm=NONE",
            "-storetype",
            "PKCS12",
        ],
        password: Some(PASSWORD),
    },
];

fn keytool(arguments: &[&str]) -> String {
    let mut command = Command::new("keytool");
    // One processor's share of Java, which is slow to start.
    command.args(["-J-XX:TieredStopAtLevel=1", "-J-XX:+UseSerialGC"]);
    let output = command.args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{arguments:?}: {text}");
    text
}

fn has_keytool() -> bool {
    let works = Command::new("keytool").arg("-help").output().is_ok();
    if !works {
        eprintln!("skipped: keytool is not installed");
    }
    works
}

fn make(kind: &Kind, password: &str, dir: &Path, cas: &[(&str, &CaCertificate)]) -> Vec<u8> {
    let (store, file) = (dir.join("made"), dir.join("ca.pem"));
    let _ = std::fs::remove_file(&store);
    for (alias, ca) in cas {
        std::fs::write(&file, ca.pem()).unwrap();
        let (store, file) = (store.to_str().unwrap(), file.to_str().unwrap());
        let mut arguments = vec!["-importcert", "-noprompt", "-alias", alias];
        arguments.extend(["-keystore", store, "-storepass", password, "-file", file]);
        arguments.extend(kind.options);
        keytool(&arguments);
    }
    std::fs::read(&store).unwrap()
}

/// The aliases of the trusted entries, as `keytool -list` shows them.
fn list(store: &[u8], password: Option<&str>, dir: &Path) -> Vec<String> {
    let path = dir.join("listed");
    std::fs::write(&path, store).unwrap();
    let mut arguments = vec!["-list", "-keystore", path.to_str().unwrap()];
    arguments.extend(password.into_iter().flat_map(|word| ["-storepass", word]));
    let mut aliases: Vec<_> = keytool(&arguments)
        .lines()
        .filter(|line| line.contains("trustedCertEntry"))
        .filter_map(|line| line.split(',').next())
        .map(str::to_owned)
        .collect();
    aliases.sort();
    aliases
}

#[test]
fn java_lists_what_was_added_and_the_store_is_as_before_without_it() {
    if !has_keytool() {
        return;
    }
    let (image, first, second) = (ca("Image Root"), ca("First"), ca("Second"));
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let before = make(kind, PASSWORD, dir.path(), &[("image", &image)]);
        let cas = [first.clone(), second.clone()];
        let both = with_entries(&before, &cas).unwrap();
        let mut expected = vec!["image".to_owned(), first.entry_name(), second.entry_name()];
        expected.sort();
        let listed = list(&both, kind.password, dir.path());
        assert_eq!(listed, expected, "{}", kind.name);
        let check = |from: &[u8], cas: &[CaCertificate], expected: &[u8]| {
            let edited = with_entries(from, cas).unwrap();
            assert!(edited == expected, "{}", kind.name);
        };
        check(&both, &cas, &both);
        check(&both, &[], &before);
        let one = with_entries(&before, &cas[1..]).unwrap();
        check(&both, &cas[1..], &one);
        check(&one, &cas, &both);
    }
}

#[test]
fn a_root_that_the_store_shows_is_not_added_again() {
    if !has_keytool() {
        return;
    }
    let image = ca("Image Root");
    for kind in [&KINDS[0], &KINDS[3]] {
        let dir = tempfile::tempdir().unwrap();
        let before = make(kind, PASSWORD, dir.path(), &[("image", &image)]);
        let after = with_entries(&before, std::slice::from_ref(&image)).unwrap();
        assert!(before == after, "{}", kind.name);
    }
}

#[test]
fn what_debians_hook_made_of_an_anchor_goes_with_it() {
    if !has_keytool() {
        return;
    }
    let (image, old) = (ca("Image Root"), ca("old"));
    let hooks = format!("debian:{}.pem", old.entry_name());
    for kind in [&KINDS[0], &KINDS[3]] {
        let dir = tempfile::tempdir().unwrap();
        let entries = [("image", &image), (hooks.as_str(), &old)];
        let before = make(kind, PASSWORD, dir.path(), &entries);
        let after = with_entries(&before, &[]).unwrap();
        let listed = list(&after, kind.password, dir.path());
        assert_eq!(listed, ["image"], "{}", kind.name);
    }
}

#[test]
fn a_store_with_another_password_is_left_alone() {
    if !has_keytool() {
        return;
    }
    for kind in &KINDS[..3] {
        let dir = tempfile::tempdir().unwrap();
        let store = make(kind, "another-one", dir.path(), &[("image", &ca("x"))]);
        let refused = with_entries(&store, &[ca("ours")]);
        assert_eq!(refused, Err(OTHER_PASSWORD), "{}", kind.name);
    }
}

#[test]
fn damaged_stores_are_refused_wherever_they_are_cut() {
    assert_ne!(with_entries(b"", &[]).err(), None);
    assert_ne!(with_entries(b"\xce\xce\xce\xce", &[]).err(), None);
    if !has_keytool() {
        return;
    }
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let store = make(kind, PASSWORD, dir.path(), &[("image", &ca("x"))]);
        for len in 0..store.len() {
            assert_ne!(with_entries(&store[..len], &[]).err(), None, "{len}");
        }
    }
}

#[test]
fn only_names_of_our_form_are_ours() {
    for (name, ours) in [
        ("msb-ca-0123456789abcdef", true),
        ("debian:msb-ca-0123456789abcdef.pem", true),
        ("msb-ca-notes", false),
        ("msb-ca-0123456789abcdef0", false),
        ("debian:ISRG_Root_X1.pem", false),
        ("", false),
    ] {
        assert_eq!(is_our_alias(name), ours, "{name}");
    }
}
