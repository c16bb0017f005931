//! The roots that the host trusts, for guests that are to trust them too. Certificates are all that is read of its store.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;

/// What the agent takes in one message is 4 MiB. Mozilla's roots are a tenth of this.
const MAX_BYTES: usize = 2 << 20;

/// The host's roots.
#[derive(Debug, Default)]
pub(crate) struct HostRoots {
    /// Each one certificate in PEM.
    pub(crate) pem: Vec<String>,
    /// What could not be read or handed over, one line each.
    pub(crate) warnings: Vec<String>,
}

/// Reads the host's store, where the upstream side of interception finds it too: `SSL_CERT_FILE`, `SSL_CERT_DIR`, or
/// what the system has.
pub(crate) fn read() -> HostRoots {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = select(&found.certs, MAX_BYTES);
    if let Some(error) = found.errors.first() {
        let more = match found.errors.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        roots
            .warnings
            .push(format!("the host's roots: {error}{more}"));
    }
    if roots.pem.is_empty() {
        let nothing = "the host trusts no roots that the guest could be given".to_owned();
        roots.warnings.push(nothing);
    }
    roots
}

/// Those that are certificates of authorities, each once, as far as they fit into a message.
fn select(certificates: &[CertificateDer<'_>], max_bytes: usize) -> HostRoots {
    let mut roots = HostRoots::default();
    let mut seen = std::collections::HashSet::new();
    let (mut bytes, mut unreadable, mut left_out) = (0, 0_usize, 0_usize);
    for der in certificates {
        if !seen.insert(der.as_ref()) {
            continue;
        }
        if RootCertStore::empty()
            .add(der.clone().into_owned())
            .is_err()
        {
            unreadable += 1;
            continue;
        }
        let pem = pem(der);
        if bytes + pem.len() > max_bytes {
            left_out += 1;
            continue;
        }
        bytes += pem.len();
        roots.pem.push(pem);
    }
    if unreadable > 0 {
        let text = format!("{unreadable} of the host's roots cannot be read and were left out");
        roots.warnings.push(text);
    }
    if left_out > 0 {
        roots.warnings.push(format!(
            "{left_out} of the host's roots were left out: together they are over {max_bytes} bytes"
        ));
    }
    roots
}

fn pem(der: &[u8]) -> String {
    let digits = STANDARD.encode(der);
    let mut text = String::with_capacity(digits.len() + digits.len() / 64 + 64);
    text.push_str("-----BEGIN CERTIFICATE-----");
    for (index, digit) in digits.chars().enumerate() {
        if index % 64 == 0 {
            text.push('\n');
        }
        text.push(digit);
    }
    text.push_str("\n-----END CERTIFICATE-----\n");
    text
}

#[cfg(test)]
mod tests {
    use msb_testkit::TestRoot;
    use rustls::pki_types::pem::PemObject as _;

    use super::*;

    #[test]
    fn each_root_is_handed_over_once_and_nothing_else_is() {
        let (one, two) = (TestRoot::new(), TestRoot::new());
        let not_one = CertificateDer::from(b"\x30\x03\x02\x01\x01".to_vec());
        let roots = select(&[one.der(), two.der(), not_one, one.der()], MAX_BYTES);
        let back: Vec<_> = roots
            .pem
            .iter()
            .map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
            .collect();
        assert_eq!(back, [one.der(), two.der()]);
        assert_eq!(
            roots.warnings,
            ["1 of the host's roots cannot be read and were left out"]
        );
    }

    #[test]
    fn more_than_a_message_holds_is_left_out_and_said() {
        let roots = [TestRoot::new().der(), TestRoot::new().der()];
        let max_bytes = pem(&roots[0]).len() + 10;
        let selected = select(&roots, max_bytes);
        assert_eq!(selected.pem, [pem(&roots[0])]);
        assert_eq!(
            selected.warnings,
            [format!(
                "1 of the host's roots were left out: together they are over {max_bytes} bytes"
            )]
        );
    }
}
