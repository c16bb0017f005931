//! Why a proxy could not be built. Faults of a running connection are [`Event`](crate::Event)s.

use std::path::PathBuf;

use msb_name::HostPattern;

/// A configuration that cannot work. A sandbox must not start with it (SPEC T14).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The sandbox's CA could not make its leaf key.
    #[error("the sandbox's certificate authority cannot be used")]
    Ca(#[from] msb_ca::Error),
    /// The TLS library refused its own configuration.
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
    /// An upstream CA file could not be read. Check the path and its permissions.
    #[error("cannot read the upstream CA file {}", path.display())]
    UnreadableCaFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// An upstream CA file holds no usable certificate. Give a PEM file with `BEGIN CERTIFICATE`
    /// sections.
    #[error("the upstream CA certificates in {origin} cannot be used: {reason}")]
    BadCaCertificates {
        /// The file, or `the given PEM text`.
        origin: String,
        /// What is wrong.
        reason: String,
    },
    /// A client certificate or its key could not be read. Check the path and its permissions.
    #[error("cannot read the client certificate or key {}", path.display())]
    UnreadableClientCertificate {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A client certificate and its key cannot be used together. Give the chain and the unencrypted
    /// key as PEM.
    #[error("the client certificate or key {} cannot be used: {reason}", path.display())]
    BadClientCertificate {
        /// The file.
        path: PathBuf,
        /// What is wrong, without any part of the key.
        reason: String,
    },
    /// A server could be shown either.
    #[error("there are two client certificates for {pattern}")]
    TwoClientCertificates {
        /// The pattern.
        pattern: String,
    },
    /// Rules name a host whose requests could not be read.
    #[error(
        "HTTP rules name hosts that the bypass {bypass} covers, whose requests could not be read: drop the bypass, or the rules"
    )]
    GovernedBypass {
        /// The pattern.
        bypass: HostPattern,
    },
    /// A limit that nothing could pass.
    #[error("the limit {name} is too small: at least {least} is needed")]
    LimitTooSmall {
        /// The field of [`Limits`](crate::Limits).
        name: &'static str,
        /// The smallest value that works.
        least: usize,
    },
}
