//! What can go wrong with a certificate authority or a leaf.

use std::time::SystemTime;

/// Why a CA could not be made or taken, or a leaf not signed.
///
/// No variant carries key material.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The CA certificate text holds no certificate, or one that does not parse. Typically the
    /// wrong file; give a PEM file that starts with `-----BEGIN CERTIFICATE-----`.
    #[error("the CA certificate cannot be read: {0}")]
    UnreadableCertificate(String),
    /// The CA key text holds no private key of a supported kind (PKCS#8, SEC1 or PKCS#1; RSA,
    /// ECDSA or Ed25519), or it is encrypted. The cause is left out so that no part of a key is
    /// ever printed.
    #[error(
        "the CA key cannot be read: expected an unencrypted PEM private key (RSA, ECDSA or Ed25519)"
    )]
    UnreadableKey,
    /// The CA certificate is for another key. Give the key that the certificate was made with.
    #[error("the CA key does not belong to the CA certificate")]
    KeyMismatch,
    /// The certificate must not sign others: give a CA certificate (CA:TRUE, and keyCertSign where
    /// it has a key usage). RFC 5280 sections 4.2.1.3 and 4.2.1.9.
    #[error("the certificate is not a certificate authority: {0}")]
    NotACa(&'static str),
    /// The CA's validity ended. Renew it.
    #[error("the CA certificate has expired (not valid after {not_after_unix_s} s Unix time)")]
    Expired {
        /// Seconds since 1970-01-01T00:00:00Z, negative before.
        not_after_unix_s: i64,
    },
    /// The CA's validity has not begun. Check this machine's clock.
    #[error(
        "the CA certificate is not valid yet (not valid before {not_before_unix_s} s Unix time)"
    )]
    NotYetValid {
        /// Seconds since 1970-01-01T00:00:00Z, negative before.
        not_before_unix_s: i64,
    },
    /// The CA's subject name or its algorithm cannot be reproduced exactly as the issuer of a leaf, so that
    /// clients would not find the CA. Use a CA with an ordinary UTF-8 or printable subject.
    #[error("leaves signed by this CA would not verify: {0}")]
    UnsuitableCa(String),
    /// The time given lies outside the years an X.509 certificate can express.
    #[error("the time {0:?} cannot be written into a certificate")]
    TimeOutOfRange(SystemTime),
    /// The cryptographic library failed: no randomness, or out of memory. Nothing a caller can mend.
    #[error("the cryptographic library failed to {0}")]
    Crypto(&'static str),
}
