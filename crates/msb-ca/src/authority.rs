//! The certificate authority of one sandbox: generated, or given by the user.

use std::fmt;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, SignatureAlgorithm, SigningKey,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroize;

use crate::Error;
use crate::time::{SKEW, random_serial, set_validity, unix_s};

/// How long a generated CA is valid: longer than any sandbox lives.
const CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// The longest common name X.509 allows, in characters (`ub-common-name`, RFC 5280 appendix A.1).
pub(crate) const MAX_COMMON_NAME: usize = 64;

/// A certificate authority that signs the leaves of one sandbox.
///
/// The private key cannot be read back out, and is wiped when this is dropped.
pub struct SandboxCa {
    /// `chain[0]` is the CA's own certificate; what follows leads on to its root.
    chain: Vec<CertificateDer<'static>>,
    self_issued: bool,
    not_before: SystemTime,
    not_after: SystemTime,
    issuer: Issuer<'static, CaKey>,
}

impl SandboxCa {
    /// Makes a new CA for the sandbox called `sandbox`, valid from 24 h before `now`, for ten years.
    ///
    /// ECDSA P-256, CA:TRUE with a path length of 0, keyCertSign and cRLSign, a random 128-bit
    /// serial number. The common name is `msb sandbox <name>`, cut to the 64 characters X.509 allows.
    ///
    /// # Errors
    ///
    /// [`Error::TimeOutOfRange`] for a `now` before 1970 or after 9989, [`Error::Crypto`] without randomness.
    pub fn generate(sandbox: &str, now: SystemTime) -> Result<Self, Error> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
            .map_err(|_| Error::Crypto("generate the CA key"))?;
        let not_before = now.checked_sub(SKEW).ok_or(Error::TimeOutOfRange(now))?;
        let not_after = now
            .checked_add(CA_LIFETIME)
            .ok_or(Error::TimeOutOfRange(now))?;

        let mut params = CertificateParams::default();
        set_validity(&mut params, not_before, not_after)?;
        params.serial_number = Some(random_serial()?);
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, common_name(sandbox));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params
            .self_signed(&key)
            .map_err(|_| Error::Crypto("sign the CA certificate"))?;
        Self::assemble(vec![certificate.into()], CaKey(key), now)
    }

    /// Takes a CA from PEM text: the CA's certificate first, then any that lead on to its root.
    ///
    /// # Errors
    ///
    /// Unreadable text, a key of another certificate, a certificate that is no CA, or one that is
    /// not valid at `now`; see [`Error`].
    pub fn from_pem(certificate: &str, key: &str, now: SystemTime) -> Result<Self, Error> {
        let chain = CertificateDer::pem_slice_iter(certificate.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| Error::UnreadableCertificate(error.to_string()))?;
        if chain.is_empty() {
            return Err(Error::UnreadableCertificate(
                "no PEM section `CERTIFICATE` found".to_owned(),
            ));
        }
        let key = KeyPair::from_pem(key).map_err(|_| Error::UnreadableKey)?;
        Self::assemble(chain, CaKey(key), now)
    }

    fn assemble(
        chain: Vec<CertificateDer<'static>>,
        key: CaKey,
        now: SystemTime,
    ) -> Result<Self, Error> {
        let (_, certificate) = X509Certificate::from_der(&chain[0])
            .map_err(|error| Error::UnreadableCertificate(error.to_string()))?;
        check_authority(&certificate)?;
        if certificate.public_key().raw != key.subject_public_key_info() {
            return Err(Error::KeyMismatch);
        }
        let not_before_unix_s = certificate.validity().not_before.timestamp();
        let not_after_unix_s = certificate.validity().not_after.timestamp();
        let now_unix_s = i64::try_from(unix_s(now)?).map_err(|_| Error::TimeOutOfRange(now))?;
        if now_unix_s > not_after_unix_s {
            return Err(Error::Expired { not_after_unix_s });
        }
        if now_unix_s < not_before_unix_s {
            return Err(Error::NotYetValid { not_before_unix_s });
        }
        let self_issued = certificate.tbs_certificate.subject.as_raw()
            == certificate.tbs_certificate.issuer.as_raw();
        let issuer = Issuer::from_ca_cert_der(&chain[0], key)
            .map_err(|error| Error::UnsuitableCa(error.to_string()))?;
        let ca = Self {
            self_issued,
            not_before: from_unix_s(not_before_unix_s),
            not_after: from_unix_s(not_after_unix_s),
            issuer,
            chain,
        };
        ca.check_issuer_name()?;
        Ok(ca)
    }

    /// A leaf names its issuer byte for byte as the CA's subject is written, or clients do not
    /// find the CA (RFC 5280 section 7.1): the re-encoded name is compared once, here.
    fn check_issuer_name(&self) -> Result<(), Error> {
        let mut probe = CertificateParams::default();
        probe.serial_number = Some(random_serial()?);
        let probe = probe
            .signed_by(self.issuer.key(), &self.issuer)
            .map_err(|error| Error::UnsuitableCa(error.to_string()))?;
        let unreadable = |error: x509_parser::nom::Err<_>| Error::UnsuitableCa(format!("{error}"));
        let (_, own) = X509Certificate::from_der(&self.chain[0]).map_err(unreadable)?;
        let (_, leaf) = X509Certificate::from_der(probe.der()).map_err(unreadable)?;
        if own.tbs_certificate.subject.as_raw() == leaf.tbs_certificate.issuer.as_raw() {
            Ok(())
        } else {
            Err(Error::UnsuitableCa(
                "its subject name cannot be repeated byte for byte".to_owned(),
            ))
        }
    }

    /// The CA certificate, as what a guest is made to trust.
    pub fn cert_der(&self) -> &CertificateDer<'static> {
        &self.chain[0]
    }

    /// The CA certificate as one PEM section, ending in a line feed.
    pub fn cert_pem(&self) -> String {
        crate::leaf::pem(&self.chain[0])
    }

    /// When the CA stops being valid.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// When the CA began to be valid.
    pub(crate) fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// What follows a leaf in the chain a server sends: nothing for a root, since the client must
    /// have it anyway; the CA and its parents when it is an intermediate.
    pub(crate) fn chain_tail(&self) -> &[CertificateDer<'static>] {
        if self.self_issued { &[] } else { &self.chain }
    }

    pub(crate) fn issuer(&self) -> &Issuer<'static, CaKey> {
        &self.issuer
    }
}

impl fmt::Debug for SandboxCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            chain,
            self_issued,
            not_before,
            not_after,
            issuer: _,
        } = self;
        f.debug_struct("SandboxCa")
            .field("certificates", &chain.len())
            .field("self_issued", self_issued)
            .field("not_before", not_before)
            .field("not_after", not_after)
            .field("key", &"[hidden]")
            .finish()
    }
}

/// The CA's private key, wiped when dropped. (The library's own copy is cleansed by aws-lc as it frees it.)
pub(crate) struct CaKey(KeyPair);

impl Drop for CaKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl PublicKeyData for CaKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl SigningKey for CaKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message)
    }
}

fn check_authority(certificate: &X509Certificate<'_>) -> Result<(), Error> {
    let malformed = |_| Error::NotACa("its extensions are malformed");
    let constraints = certificate.basic_constraints().map_err(malformed)?;
    if !constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err(Error::NotACa("basic constraints do not say CA:TRUE"));
    }
    let usage = certificate.key_usage().map_err(malformed)?;
    if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err(Error::NotACa("its key usage lacks keyCertSign"));
    }
    Ok(())
}

fn common_name(sandbox: &str) -> String {
    let printable = sandbox.chars().filter(|char| !char.is_control());
    "msb sandbox "
        .chars()
        .chain(printable)
        .take(MAX_COMMON_NAME)
        .collect()
}

fn from_unix_s(seconds: i64) -> SystemTime {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 {
        SystemTime::UNIX_EPOCH - distance
    } else {
        SystemTime::UNIX_EPOCH + distance
    }
}
