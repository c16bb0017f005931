//! A CA given by the user: what is taken, and the error each unfit one gets.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, SystemTime};

use msb_ca::{Error, LeafMinter, SandboxCa};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn noon() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn authority() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "Example Ltd");
    params
        .distinguished_name
        .push(DnType::CommonName, "Example inspection CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

/// A self-signed certificate as PEM, with its key.
fn self_signed(params: &CertificateParams) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

#[track_caller]
fn check_refused(certificate: &str, key: &str, expected: &str) {
    let error = SandboxCa::from_pem(certificate, key, noon()).unwrap_err();
    let said = error.to_string();
    assert!(said.contains(expected), "{said:?} lacks {expected:?}");
    assert!(!said.contains("PRIVATE KEY"), "{said:?}");
}

#[test]
fn a_sound_ca_is_taken_and_signs() {
    let (certificate, key) = self_signed(&authority());
    let ca = SandboxCa::from_pem(&certificate, &key, noon()).unwrap();
    let minter = LeafMinter::new(ca).unwrap();
    let leaf = minter
        .mint(&"api.example.test".parse().unwrap(), noon())
        .unwrap();
    assert_eq!(leaf.chain().len(), 1, "a root is not sent");
    let anchor = webpki::anchor_from_trusted_cert(minter.ca().cert_der()).unwrap();
    webpki::EndEntityCert::try_from(&leaf.chain()[0])
        .unwrap()
        .verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &[anchor],
            &[],
            rustls_pki_types::UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000)),
            webpki::KeyUsage::server_auth(),
            None,
            None,
        )
        .unwrap();
}

#[test]
fn an_intermediate_is_sent_along_with_the_leaf() {
    let root_key = KeyPair::generate().unwrap();
    let root = Issuer::new(authority(), root_key);
    let mut params = authority();
    params
        .distinguished_name
        .push(DnType::CommonName, "Example department CA");
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &root).unwrap();
    let ca = SandboxCa::from_pem(&certificate.pem(), &key.serialize_pem(), noon()).unwrap();
    let minter = LeafMinter::new(ca).unwrap();
    let leaf = minter
        .mint(&"api.example.test".parse().unwrap(), noon())
        .unwrap();
    assert_eq!(leaf.chain()[1], *certificate.der());
}

#[test]
fn unfit_authorities_are_refused_by_name() {
    let (certificate, key) = self_signed(&authority());
    let (_, other_key) = self_signed(&authority());
    check_refused(&certificate, &other_key, "does not belong");
    check_refused("", &key, "no PEM section");
    check_refused("not a certificate", &key, "no PEM section");
    check_refused(&certificate, "", "key cannot be read");
    check_refused(&certificate, &certificate, "key cannot be read");
    let half = &certificate[..certificate.len() / 2];
    check_refused(half, &key, "cannot be read");

    let mut leaf = authority();
    leaf.is_ca = IsCa::ExplicitNoCa;
    let (certificate, key) = self_signed(&leaf);
    check_refused(&certificate, &key, "not a certificate authority");

    let mut encryption_only = authority();
    encryption_only.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let (certificate, key) = self_signed(&encryption_only);
    check_refused(&certificate, &key, "keyCertSign");

    let mut expired = authority();
    expired.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let (certificate, key) = self_signed(&expired);
    check_refused(&certificate, &key, "has expired");

    let mut future = authority();
    future.not_before = rcgen::date_time_ymd(2100, 1, 1);
    let (certificate, key) = self_signed(&future);
    check_refused(&certificate, &key, "not valid yet");
}

#[test]
fn a_leaf_never_outlives_its_ca() {
    let mut short = authority();
    short.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(1_800_003_600);
    let (certificate, key) = self_signed(&short);
    let ca = SandboxCa::from_pem(&certificate, &key, noon()).unwrap();
    let minter = LeafMinter::new(ca).unwrap();
    let host = "api.example.test".parse().unwrap();
    let leaf = minter.mint(&host, noon()).unwrap();
    assert_eq!(leaf.not_after(), noon() + Duration::from_secs(3600));
    assert!(matches!(
        minter.mint(&host, noon() + DAY),
        Err(Error::Expired { .. })
    ));
}
