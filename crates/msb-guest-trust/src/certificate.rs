//! One authority to be trusted: a certificate with what the trust stores want to know of it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::places::FILE_PREFIX;
use crate::subject_hash;
use crate::x509::Parts;

/// The certificate of an authority. It is read far enough to be filed; whether it is valid is its maker's business.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaCertificate {
    der: Vec<u8>,
    fingerprint: [u8; 32],
    subject_hash: Option<u32>,
}

impl CaCertificate {
    /// Takes one certificate in DER.
    ///
    /// # Errors
    /// [`Error::Der`] if the bytes are anything else, or more than one certificate.
    pub fn from_der(der: &[u8]) -> Result<Self, Error> {
        let parts = Parts::of(der).map_err(|error| Error::Der {
            reason: error.to_string(),
        })?;
        Ok(Self {
            subject_hash: subject_hash::hash(parts.subject.value()),
            fingerprint: Sha256::digest(der).into(),
            der: der.to_vec(),
        })
    }

    /// Takes every certificate of a PEM text, in order. Other sections and text between them are passed over.
    ///
    /// # Errors
    /// [`Error::NoCertificate`] if there is none, [`Error::Pem`] or [`Error::Der`] if one is damaged.
    pub fn from_pem(pem: &[u8]) -> Result<Vec<Self>, Error> {
        let mut found = Vec::new();
        for (index, section) in CertificateDer::pem_slice_iter(pem).enumerate() {
            let der = section.map_err(|error| Error::Pem {
                number: index + 1,
                reason: error.to_string(),
            })?;
            found.push(Self::from_der(&der)?);
        }
        if found.is_empty() {
            return Err(Error::NoCertificate {
                len_bytes: pem.len(),
            });
        }
        Ok(found)
    }

    /// The certificate in DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The SHA-256 of the DER, as 64 lower-case hexadecimal digits.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        hexadecimal(&self.fingerprint)
    }

    /// What `openssl x509 -subject_hash` prints, as a number. `None` if a string in the subject is not valid in its
    /// own encoding; OpenSSL does not read such a certificate at all.
    #[must_use]
    pub fn subject_hash(&self) -> Option<u32> {
        self.subject_hash
    }

    /// The certificate as one PEM section with lines of 64 characters, each ended by `\n`.
    #[must_use]
    pub fn pem(&self) -> String {
        pem(&self.der, "\n")
    }

    pub(crate) fn fingerprint_bytes(&self) -> &[u8; 32] {
        &self.fingerprint
    }

    /// What it is called among others: unlike any other authority, and short enough for a file name.
    pub(crate) fn entry_name(&self) -> String {
        format!("{FILE_PREFIX}{}", hexadecimal(&self.fingerprint[..8]))
    }
}

/// Whether an entry of this name was made here, for whichever authority.
pub(crate) fn is_entry_name(name: &str) -> bool {
    name.strip_prefix(FILE_PREFIX)
        .is_some_and(|rest| rest.len() == 16 && rest.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

pub(crate) fn pem(der: &[u8], line_end: &str) -> String {
    let body = STANDARD.encode(der);
    let mut text = String::with_capacity(body.len() + body.len() / 32 + 60);
    text.push_str("-----BEGIN CERTIFICATE-----");
    for (index, character) in body.chars().enumerate() {
        if index % 64 == 0 {
            text.push_str(line_end);
        }
        text.push(character);
    }
    text.push_str(line_end);
    text.push_str("-----END CERTIFICATE-----");
    text.push_str(line_end);
    text
}

pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn der() -> Vec<u8> {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::default()
            .self_signed(&key)
            .unwrap();
        certificate.der().to_vec()
    }

    #[test]
    fn pem_reads_back_in_any_company() {
        let (one, two) = (der(), der());
        let cas = [&one, &two].map(|der| CaCertificate::from_der(der).unwrap());
        let text = format!(
            "\u{feff}notes\n{}-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n{}",
            cas[0].pem(),
            cas[1].pem().replace('\n', "\r\n")
        );
        assert_eq!(CaCertificate::from_pem(text.as_bytes()).unwrap(), cas);
        assert!(cas[0].pem().lines().all(|line| line.len() <= 64));
    }

    #[test]
    fn what_is_no_certificate_is_refused_with_a_reason() {
        #[track_caller]
        fn check(pem: &str, expected: &str) {
            let error = CaCertificate::from_pem(pem.as_bytes())
                .unwrap_err()
                .to_string();
            assert!(error.starts_with(expected), "{error}");
        }
        let pem = CaCertificate::from_der(&der()).unwrap().pem();
        check("", "no PEM certificate found in 0 bytes");
        check(
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            "no PEM certificate",
        );
        check(
            &pem.replace("-----END", "*"),
            "PEM certificate number 1 is damaged",
        );
        check(
            &format!("{pem}{}", pem.replace("MII", "M!I")),
            "PEM certificate number 2 is damaged",
        );
        check(
            &super::pem(b"\x30\x03\x02\x01\x01", "\n"),
            "not an X.509 certificate",
        );
    }

    #[test]
    fn every_cut_of_a_certificate_is_refused() {
        let der = der();
        for len in 0..der.len() {
            assert_ne!(CaCertificate::from_der(&der[..len]).err(), None, "{len}");
        }
        let longer = [der.as_slice(), b"\0"].concat();
        assert_ne!(CaCertificate::from_der(&longer).err(), None);
    }
}
