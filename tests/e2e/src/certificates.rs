//! Certificates that a client in the guest saw, judged by a verifier that did not make them.

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, KeyUsage, anchor_from_trusted_cert};

/// The certificates of a PEM text, in order; other lines are passed over.
#[must_use]
pub fn certificates(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .filter_map(Result::ok)
        .collect()
}

/// Whether the first certificate of `chain` is one for `name`, valid now and signed by `root` itself.
///
/// # Errors
/// What is not so, in one line.
pub fn is_signed_by(
    chain: &[CertificateDer<'_>],
    root: &CertificateDer<'_>,
    name: &str,
) -> Result<(), String> {
    let leaf = chain.first().ok_or("there is no certificate")?;
    let anchor = anchor_from_trusted_cert(root).map_err(|error| format!("the root: {error}"))?;
    let leaf = EndEntityCert::try_from(leaf).map_err(|error| format!("the leaf: {error}"))?;
    leaf.verify_for_usage(
        ALL_VERIFICATION_ALGS,
        &[anchor],
        &[],
        UnixTime::now(),
        KeyUsage::server_auth(),
        None,
        None,
    )
    .map_err(|error| error.to_string())?;
    let name = ServerName::try_from(name).map_err(|error| error.to_string())?;
    leaf.verify_is_valid_for_subject_name(&name)
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use msb_testkit::{CertificateKind, TestRoot};

    use super::*;

    #[test]
    fn only_the_right_root_and_name_pass() {
        let root = TestRoot::new();
        let (chain, _) = root.issue(&["api.example.test"], CertificateKind::Good);
        let (expired, _) = root.issue(&["api.example.test"], CertificateKind::Expired);
        let other = TestRoot::new();
        for (chain, root, name, expected) in [
            (&chain, &root, "api.example.test", true),
            (&chain, &root, "other.example.test", false),
            (&chain, &other, "api.example.test", false),
            (&expired, &root, "api.example.test", false),
        ] {
            let verdict = is_signed_by(chain, &root.der(), name);
            assert_eq!(verdict.is_ok(), expected, "{name}: {verdict:?}");
        }
    }

    #[test]
    fn certificates_are_found_between_other_lines() {
        let root = TestRoot::new();
        let text = format!("Issuer: x\n{}\nnothing\n{}", root.pem(), root.pem());
        assert_eq!(certificates(&text), [root.der(), root.der()]);
        assert!(certificates("hello").is_empty());
    }
}
