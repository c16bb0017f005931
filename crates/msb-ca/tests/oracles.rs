//! CAs and leaves as seen by parties that did not make them: webpki and the openssl command.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(
    clippy::disallowed_methods,
    reason = "the openssl command reads files and the real clock"
)]

use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, SystemTime};

use msb_ca::{Leaf, LeafMinter, SandboxCa};
use msb_name::Host;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// 64 bytes with the dots: the longest name that still fits a common name.
const NAME_64: &str = "a23456789012345678901234567890123456789012345678901.example.test";
const NAME_65: &str = "a234567890123456789012345678901234567890123456789012.example.test";

fn noon() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn minter() -> LeafMinter {
    LeafMinter::new(SandboxCa::generate("worker", noon()).unwrap()).unwrap()
}

/// The oracle: does a client that trusts only `ca` accept `chain` for `name` at `when`?
fn verify(
    ca: &CertificateDer<'_>,
    chain: &[CertificateDer<'_>],
    name: &str,
    when: SystemTime,
) -> Result<(), webpki::Error> {
    let anchor = webpki::anchor_from_trusted_cert(ca)?;
    let leaf = EndEntityCert::try_from(&chain[0])?;
    let when = UnixTime::since_unix_epoch(when.duration_since(SystemTime::UNIX_EPOCH).unwrap());
    leaf.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        &[anchor],
        &chain[1..],
        when,
        KeyUsage::server_auth(),
        None,
        None,
    )?;
    leaf.verify_is_valid_for_subject_name(&ServerName::try_from(name).unwrap())
}

fn mint(minter: &LeafMinter, host: &str) -> Leaf {
    minter.mint(&host.parse::<Host>().unwrap(), noon()).unwrap()
}

#[track_caller]
fn check_accepted(host: &str, name: &str) {
    let minter = minter();
    let leaf = mint(&minter, host);
    verify(minter.ca().cert_der(), leaf.chain(), name, noon()).unwrap();
}

#[test]
fn webpki_accepts_a_leaf_for_its_name() {
    check_accepted("api.example.test", "api.example.test");
    check_accepted("API.Example.Test.", "api.example.test");
    check_accepted("bücher.example", "xn--bcher-kva.example");
    check_accepted("192.0.2.7", "192.0.2.7");
    check_accepted("[2001:db8::7]", "2001:db8::7");
    check_accepted(NAME_64, NAME_64);
    check_accepted(NAME_65, NAME_65);
}

#[test]
fn webpki_refuses_a_leaf_for_another_name() {
    let minter = minter();
    let leaf = mint(&minter, "api.example.test");
    for other in ["example.test", "x.api.example.test", "192.0.2.7"] {
        let answer = verify(minter.ca().cert_der(), leaf.chain(), other, noon());
        assert!(
            matches!(answer, Err(webpki::Error::CertNotValidForName(_))),
            "{other}: {answer:?}"
        );
    }
}

#[test]
fn webpki_refuses_a_leaf_of_another_sandbox() {
    let leaf = mint(&minter(), "api.example.test");
    let answer = verify(
        minter().ca().cert_der(),
        leaf.chain(),
        "api.example.test",
        noon(),
    );
    // Both CAs bear the same name, so the signature is what tells them apart.
    assert!(answer.is_err(), "{answer:?}");
}

#[test]
fn a_leaf_is_valid_from_a_day_before_to_a_day_after() {
    let minter = minter();
    let leaf = mint(&minter, "api.example.test");
    let at = |when| {
        verify(
            minter.ca().cert_der(),
            leaf.chain(),
            "api.example.test",
            when,
        )
    };
    assert_eq!(at(noon() - DAY), Ok(()));
    assert_eq!(at(noon() + DAY), Ok(()));
    assert!(at(noon() - DAY - HOUR).is_err());
    assert!(at(noon() + DAY + HOUR).is_err());
    assert_eq!(leaf.not_after(), noon() + DAY);
}

#[test]
fn a_sandbox_that_lives_for_months_still_gets_good_leaves() {
    let minter = minter();
    let later = noon() + DAY * 200;
    let leaf = minter
        .mint(&"api.example.test".parse().unwrap(), later)
        .unwrap();
    verify(
        minter.ca().cert_der(),
        leaf.chain(),
        "api.example.test",
        later,
    )
    .unwrap();
}

#[test]
fn a_leaf_is_no_authority() {
    let minter = minter();
    let leaf = mint(&minter, "api.example.test");
    let key = pem_key(leaf.key().secret_pkcs8_der());
    let certificate = pem_certificate(&leaf.chain()[0]);
    assert!(matches!(
        SandboxCa::from_pem(&certificate, &key, noon()),
        Err(msb_ca::Error::NotACa(_))
    ));
}

#[test]
fn serial_numbers_are_positive_and_of_128_bits() {
    let minter = minter();
    let mut seen = std::collections::HashSet::new();
    for _ in 0..100 {
        let leaf = mint(&minter, "api.example.test");
        let certificate = EndEntityCert::try_from(&leaf.chain()[0]).unwrap();
        let serial = certificate.serial().to_vec();
        assert_eq!(serial.len(), 16);
        assert!(serial[0] & 0x80 == 0);
        assert!(seen.insert(serial));
    }
}

/// What `openssl` says, or `None` where it is not installed.
fn openssl(arguments: &[&str]) -> Option<(bool, String)> {
    match Command::new("openssl").args(arguments).output() {
        Ok(output) => Some((
            output.status.success(),
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
        )),
        Err(error) => {
            eprintln!("skipped: the openssl command does not run here: {error}");
            None
        }
    }
}

#[test]
fn openssl_verifies_leaves_strictly() {
    let now = SystemTime::now();
    let minter = LeafMinter::new(SandboxCa::generate("worker", now).unwrap()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let ca_file = directory.path().join("ca.pem");
    std::fs::write(&ca_file, minter.ca().cert_pem()).unwrap();
    let ca_file = ca_file.to_str().unwrap();

    for host in ["api.example.test", NAME_65, "192.0.2.7", "[2001:db8::7]"] {
        let host: Host = host.parse().unwrap();
        let leaf = minter.mint(&host, now).unwrap();
        let leaf_file = directory.path().join("leaf.pem");
        std::fs::write(&leaf_file, pem_certificate(&leaf.chain()[0])).unwrap();
        let leaf_file = leaf_file.to_str().unwrap();
        let (option, name) = match &host {
            Host::Name(name) => ("-verify_hostname", name.to_string()),
            Host::Ip(address) => ("-verify_ip", IpAddr::to_string(address)),
        };
        let arguments = [
            "verify",
            "-x509_strict",
            "-purpose",
            "sslserver",
            "-CAfile",
            ca_file,
            option,
            &name,
            leaf_file,
        ];
        let Some((accepted, said)) = openssl(&arguments) else {
            return;
        };
        assert!(accepted, "{name}: {said}");
        let (rejected, said) = openssl(&[
            "verify",
            "-CAfile",
            ca_file,
            "-verify_hostname",
            "other.test",
            leaf_file,
        ])
        .unwrap();
        assert!(!rejected, "{name} passed for other.test: {said}");
    }
}

#[test]
fn openssl_reads_the_extensions_the_specification_names() {
    let minter = minter();
    let directory = tempfile::tempdir().unwrap();
    let describe = |pem: &str| {
        let file = directory.path().join("certificate.pem");
        std::fs::write(&file, pem).unwrap();
        openssl(&["x509", "-noout", "-text", "-in", file.to_str().unwrap()]).map(|(_, said)| said)
    };
    let Some(ca) = describe(&minter.ca().cert_pem()) else {
        return;
    };
    for expected in [
        "CA:TRUE, pathlen:0",
        "Basic Constraints: critical",
        "Key Usage: critical",
        "Certificate Sign, CRL Sign",
        "Subject Key Identifier",
        "CN = msb sandbox worker",
        "prime256v1",
    ] {
        assert!(ca.contains(expected), "{expected} not in {ca}");
    }
    let leaf = describe(&pem_certificate(
        &mint(&minter, "api.example.test").chain()[0],
    ))
    .unwrap();
    for expected in [
        "CA:FALSE",
        "Key Usage: critical",
        "Digital Signature",
        "TLS Web Server Authentication",
        "DNS:api.example.test",
        "Subject Key Identifier",
        "Authority Key Identifier",
        "CN = api.example.test",
    ] {
        assert!(leaf.contains(expected), "{expected} not in {leaf}");
    }
    let long = describe(&pem_certificate(&mint(&minter, NAME_65).chain()[0])).unwrap();
    assert!(
        long.contains("Subject Alternative Name: critical"),
        "{long}"
    );
}

fn pem_certificate(der: &CertificateDer<'_>) -> String {
    pem("CERTIFICATE", der)
}

fn pem_key(der: &[u8]) -> String {
    pem("PRIVATE KEY", der)
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::prelude::{BASE64_STANDARD, Engine as _};
    let body = BASE64_STANDARD.encode(der);
    let lines: Vec<_> = body
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        lines.join("\n")
    )
}
