//! Key stores of Java where distributions keep them. What is in them is judged by `keytool` beside the code.

use msb_guest_trust::{CaCertificate, Problem, Purpose};
use sha1::{Digest, Sha1};

use crate::support::{Root, authority};

/// A JKS key store without entries.
fn empty_store(password: &str) -> Vec<u8> {
    let body = [0xfeed_feed_u32, 2, 0].map(u32::to_be_bytes).concat();
    let mut hash = Sha1::new();
    for unit in password.encode_utf16() {
        hash.update(unit.to_be_bytes());
    }
    hash.update(b"Mighty Aphrodite");
    hash.update(&body);
    [body, hash.finalize().to_vec()].concat()
}

#[track_caller]
fn holds(root: &Root, path: &str, ca: &CaCertificate) -> bool {
    let content = root.read(path);
    content.windows(ca.der().len()).any(|part| part == ca.der())
}

/// Builds a root with a key store, and says where it lies.
type Layout = fn(&Root, &[u8]) -> &'static str;

const LAYOUTS: &[(&str, Layout)] = &[
    ("Debian", |root, store| {
        root.file("/etc/ssl/certs/java/cacerts", store).link(
            "/usr/lib/jvm/java-17-openjdk-amd64/lib/security/cacerts",
            "/etc/ssl/certs/java/cacerts",
        );
        "/etc/ssl/certs/java/cacerts"
    }),
    ("Debian, Java 8", |root, store| {
        root.file("/usr/lib/jvm/java-8/jre/lib/security/cacerts", store);
        "/usr/lib/jvm/java-8/jre/lib/security/cacerts"
    }),
    ("Fedora and RHEL", |root, store| {
        let extracted = "/etc/pki/ca-trust/extracted/java/cacerts";
        root.file(extracted, store)
            .link("/etc/pki/java/cacerts", extracted)
            .link(
                "/usr/lib/jvm/java-21/lib/security/cacerts",
                "/etc/pki/java/cacerts",
            );
        extracted
    }),
    ("Alpine", |root, store| {
        root.file("/etc/ssl/certs/java/cacerts", store).link(
            "/usr/lib/jvm/java-21-openjdk/lib/security/cacerts",
            "../../../../../../etc/ssl/certs/java/cacerts",
        );
        "/etc/ssl/certs/java/cacerts"
    }),
    ("Arch", |root, store| {
        let extracted = "/etc/ca-certificates/extracted/java-cacerts.jks";
        root.file(extracted, store)
            .link("/etc/ssl/certs/java/cacerts", extracted);
        extracted
    }),
    ("openSUSE", |root, store| {
        let extracted = "/var/lib/ca-certificates/java-cacerts";
        root.file(extracted, store)
            .link("/usr/lib64/jvm/java-17/lib/security/cacerts", extracted);
        extracted
    }),
    ("Temurin's image", |root, store| {
        root.file("/opt/java/openjdk/lib/security/cacerts", store);
        "/opt/java/openjdk/lib/security/cacerts"
    }),
    ("OpenJDK's image", |root, store| {
        root.file("/usr/local/openjdk-11/lib/security/cacerts", store);
        "/usr/local/openjdk-11/lib/security/cacerts"
    }),
    ("JAVA_HOME", |root, store| {
        root.file("/srv/jdk/lib/security/cacerts", store);
        "/srv/jdk/lib/security/cacerts"
    }),
];

const ENVIRONMENT: &[(&str, &str)] = &[("JAVA_HOME", "/srv/jdk")];

#[test]
fn each_distributions_key_store_gets_the_authority_and_loses_the_former_one() {
    for (name, build) in LAYOUTS {
        let (root, store) = (Root::new(), empty_store("changeit"));
        let path = build(&root, &store);
        let (old, new) = (authority("old"), authority("new"));
        for (ca, other) in [(&old, &new), (&new, &old)] {
            for _again in 0..2 {
                let report = root.boot_with(std::slice::from_ref(ca), ENVIRONMENT);
                assert_eq!(report.failed, [], "{name}");
                assert!(
                    holds(&root, path, ca) && !holds(&root, path, other),
                    "{name}"
                );
            }
        }
        let _ = root.boot_with(&[], ENVIRONMENT);
        assert_eq!(root.read(path), store, "{name}");
    }
}

#[test]
fn a_key_store_that_cannot_be_changed_is_left_as_it_is_and_told() {
    let path = "/etc/ssl/certs/java/cacerts";
    let truncated = &empty_store("changeit")[..15];
    for (store, reason) in [
        (&empty_store("secret")[..], "password"),
        (truncated, "damaged"),
        (b"BKS", "neither"),
        (b"", "neither"),
        (b"\x30\x80\x02\x01\x03", "damaged"),
    ] {
        let root = Root::new();
        root.file(path, store);
        let report = root.boot(&[authority("msb sandbox CA")]);
        let [failure] = &report.failed[..] else {
            panic!("{:?}", report.failed);
        };
        assert_eq!(failure.purpose, Purpose::KeyStore);
        let told =
            matches!(&failure.problem, Problem::KeyStore { reason: why } if why.contains(reason));
        assert!(told, "{failure}");
        assert_eq!(root.read(path), store);
        assert!(report.trusted.bundle.is_some());
    }
}
