//! The subject's hash, compared with what OpenSSL says.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use msb_guest_trust::CaCertificate;
use rcgen::string::{BmpString, Ia5String, PrintableString, TeletexString};
use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair};

use crate::support::has_tool;

fn openssl_hash(pem: &str) -> String {
    let mut child = Command::new("openssl")
        .args(["x509", "-noout", "-subject_hash"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(pem.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[track_caller]
fn check(ca: &CaCertificate) {
    let hash = ca.subject_hash().map(|hash| format!("{hash:08x}"));
    assert_eq!(hash, Some(openssl_hash(&ca.pem())));
}

#[track_caller]
fn check_subject(attributes: Vec<(DnType, DnValue)>) {
    let mut subject = DistinguishedName::new();
    for (kind, value) in attributes {
        subject.push(kind, value);
    }
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = subject;
    let certificate = parameters
        .self_signed(&KeyPair::generate().unwrap())
        .unwrap();
    check(&CaCertificate::from_der(certificate.der()).unwrap());
}

#[test]
fn subjects_of_every_string_type_hash_as_openssl_does() {
    if !has_tool("openssl", &["version"]) {
        return;
    }
    use DnType::{CommonName, CountryName, OrganizationName, OrganizationalUnitName};
    let utf8 = |text: &str| DnValue::Utf8String(text.to_owned());
    check_subject(vec![]);
    check_subject(vec![(CommonName, utf8(""))]);
    check_subject(vec![(CommonName, utf8("msb sandbox CA"))]);
    check_subject(vec![(
        CommonName,
        utf8("  Many   SPACES\t\r\n and\x0bTabs \x0c"),
    )]);
    check_subject(vec![(CommonName, utf8(" \t "))]);
    check_subject(vec![(
        CommonName,
        utf8("Főtanúsítvány ÄÖÜ \u{a0} 証明書 🦀"),
    )]);
    check_subject(vec![
        (
            CountryName,
            DnValue::PrintableString(PrintableString::try_from("HU").unwrap()),
        ),
        (
            OrganizationName,
            DnValue::TeletexString(TeletexString::try_from("Old Teletex").unwrap()),
        ),
        (
            OrganizationalUnitName,
            DnValue::Ia5String(Ia5String::try_from("Ia5 @ Unit").unwrap()),
        ),
        (
            CommonName,
            DnValue::BmpString(BmpString::try_from("BMP Őrség").unwrap()),
        ),
        (
            DnType::CustomDnType(vec![2, 5, 4, 5]),
            utf8("1234567890".repeat(30).as_str()),
        ),
    ]);
}

#[test]
fn subjects_with_several_attributes_in_one_set_hash_as_openssl_does() {
    if !has_tool("openssl", &["version"]) {
        return;
    }
    // In lower case the attributes of a set sort otherwise than as they are written.
    for subject in [
        "/CN=b+CN=A",
        "/CN=aa+CN=B+OU=z",
        "/O=Zed+O=alpha+O=Beta/CN=x",
        "/serialNumber=12 34+CN=Q",
    ] {
        let directory = tempfile::tempdir().unwrap();
        let output = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
            ])
            .args(["-multivalue-rdn", "-subj", subject, "-keyout"])
            .arg(directory.path().join("key.pem"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        for ca in CaCertificate::from_pem(&output.stdout).unwrap() {
            check(&ca);
        }
    }
}

#[test]
fn roots_of_this_machine_hash_as_their_links_are_named() {
    let Ok(entries) = fs::read_dir("/etc/ssl/certs") else {
        eprintln!("skipped: this machine has no /etc/ssl/certs");
        return;
    };
    for entry in entries {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let is_link = name.len() == 10 && name.ends_with(".0");
        let Some(Ok(pem)) = is_link.then(|| fs::read(entry.path())) else {
            continue;
        };
        let cas = CaCertificate::from_pem(&pem).unwrap();
        assert_eq!(format!("{:08x}.0", cas[0].subject_hash().unwrap()), name);
    }
}
