//! Whom to trust as a server, and what it means when one cannot be trusted.

mod per_host;
mod unverified;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use msb_name::{Host, HostPattern};
use msb_policy::UpstreamTrust;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::sign::SingleCertAndKey;
use rustls::{CertificateError, ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};

use self::per_host::{PerHost, Rule, Setting, Settings};
use self::unverified::Unverified;
use crate::Error;

/// How servers are verified: against the host's roots, Mozilla's if the host has none, and any
/// added ones; and what is different for some of them.
#[derive(Clone, Debug)]
pub struct UpstreamTls {
    /// For servers that no pattern covers.
    default: Handshake,
    per_host: Arc<PerHost<Handshake>>,
}

/// How to shake hands with some servers. They share the store of sessions, and no others do: one
/// that was agreed on under other rules must not be resumed.
#[derive(Clone, Debug)]
struct Handshake {
    /// Offers no protocol.
    base: Arc<ClientConfig>,
    verifies: bool,
}

/// Collects what [`UpstreamTls`] is to trust.
#[derive(Clone, Debug, Default)]
pub struct UpstreamTlsBuilder {
    without_system_roots: bool,
    files: Vec<PathBuf>,
    texts: Vec<String>,
    rules: Vec<Rule>,
}

impl UpstreamTlsBuilder {
    /// Trusts the certificates in a PEM file as well, for every host.
    #[must_use]
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.files.push(path.into());
        self
    }

    /// Trusts the certificates in a PEM text as well, for every host.
    #[must_use]
    pub fn ca_pem(mut self, text: impl Into<String>) -> Self {
        self.texts.push(text.into());
        self
    }

    /// Trusts only what is added here, not the host's roots.
    #[must_use]
    pub fn without_system_roots(mut self) -> Self {
        self.without_system_roots = true;
        self
    }

    /// Trusts the certificates in a PEM file as well, for the servers that `pattern` covers.
    #[must_use]
    pub fn ca_file_for(self, pattern: HostPattern, path: impl Into<PathBuf>) -> Self {
        self.rule(pattern, Setting::CaFile(path.into()))
    }

    /// Does not verify the servers that `pattern` covers: whoever is on the way there can read and
    /// change everything. They get no secret that does not
    /// [allow it](msb_secrets::SecretBuilder::allow_unverified_upstream_dangerous).
    #[must_use]
    pub fn danger_no_verification_for(self, pattern: HostPattern) -> Self {
        self.rule(pattern, Setting::NoVerification)
    }

    /// Presents a certificate to the servers that `pattern` covers, if they ask for one; both files
    /// are PEM. Where several patterns cover a server, the narrowest counts.
    #[must_use]
    pub fn client_certificate_for(
        self,
        pattern: HostPattern,
        chain: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Self {
        let (chain, key) = (chain.into(), key.into());
        self.rule(pattern, Setting::ClientCertificate { chain, key })
    }

    fn rule(mut self, pattern: HostPattern, setting: Setting) -> Self {
        self.rules.push(Rule { pattern, setting });
        self
    }

    /// Reads the files and the host's roots.
    ///
    /// # Errors
    ///
    /// A file that cannot be read or used, or two client certificates for one pattern.
    pub fn build(self) -> Result<UpstreamTls, Error> {
        let mut roots = RootCertStore::empty();
        if !self.without_system_roots {
            // Single certificates that cannot be read are left out: a host's store often has some.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
            }
        }
        for path in &self.files {
            add_file(&mut roots, path)?;
        }
        for text in &self.texts {
            add_pem(&mut roots, text.as_bytes(), "the given PEM text")?;
        }
        let provider = crate::crypto::provider();
        let mut per_host = PerHost::default();
        for (pattern, settings) in per_host::settings(&self.rules)? {
            per_host.insert(pattern, Handshake::new(&roots, &settings, &provider)?);
        }
        Ok(UpstreamTls {
            default: Handshake::new(&roots, &Settings::default(), &provider)?,
            per_host: Arc::new(per_host),
        })
    }
}

impl UpstreamTls {
    /// Starts with the host's roots.
    #[must_use]
    pub fn builder() -> UpstreamTlsBuilder {
        UpstreamTlsBuilder::default()
    }

    /// The configuration for a handshake with `host`, and what its success will establish.
    pub(crate) fn client(
        &self,
        host: &Host,
        offered: Vec<Vec<u8>>,
    ) -> (Arc<ClientConfig>, UpstreamTrust) {
        let handshake = self.per_host.find(host).unwrap_or(&self.default);
        let trust = if handshake.verifies {
            UpstreamTrust::Verified(host.clone())
        } else {
            UpstreamTrust::VerificationOff
        };
        if offered.is_empty() {
            return (Arc::clone(&handshake.base), trust);
        }
        // A clone shares the session store, which is what makes resumption work.
        let mut config = ClientConfig::clone(&handshake.base);
        config.alpn_protocols = offered;
        (Arc::new(config), trust)
    }
}

impl Handshake {
    fn new(
        roots: &RootCertStore,
        settings: &Settings<'_>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, Error> {
        let mut roots = roots.clone();
        for path in &settings.ca_files {
            add_file(&mut roots, path)?;
        }
        let verifier: Arc<dyn ServerCertVerifier> = if settings.no_verification {
            Arc::new(Unverified(provider.signature_verification_algorithms))
        } else if roots.is_empty() {
            return Err(Error::BadCaCertificates {
                origin: "the configuration".to_owned(),
                reason: "no root certificate is left to trust".to_owned(),
            });
        } else {
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
                .build()
                .map_err(|error| Error::Tls(rustls::Error::General(error.to_string())))?
        };
        let builder = ClientConfig::builder_with_provider(Arc::clone(provider))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let base = match settings.client_certificate {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let certified = per_host::read_client_certificate(chain, key, provider)?;
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
            }
        };
        Ok(Self {
            base: Arc::new(base),
            verifies: !settings.no_verification,
        })
    }
}

fn add_file(roots: &mut RootCertStore, path: &Path) -> Result<(), Error> {
    let text = std::fs::read(path).map_err(|source| Error::UnreadableCaFile {
        path: path.to_owned(),
        source,
    })?;
    add_pem(roots, &text, &path.display().to_string())
}

fn add_pem(roots: &mut RootCertStore, text: &[u8], origin: &str) -> Result<(), Error> {
    let unusable = |reason: String| Error::BadCaCertificates {
        origin: origin.to_owned(),
        reason,
    };
    let certificates = CertificateDer::pem_slice_iter(text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| unusable(error.to_string()))?;
    if certificates.is_empty() {
        return Err(unusable("no PEM section `CERTIFICATE` found".to_owned()));
    }
    for certificate in certificates {
        roots
            .add(certificate)
            .map_err(|error| unusable(error.to_string()))?;
    }
    Ok(())
}

/// The name to verify, which is also the server name sent, unless it is an address.
pub(crate) fn server_name(host: &Host) -> Result<ServerName<'static>, String> {
    match host {
        Host::Name(name) => {
            ServerName::try_from(name.as_str().to_owned()).map_err(|error| error.to_string())
        }
        Host::Ip(address) => Ok(ServerName::from(*address)),
    }
}

/// Whether the server ended the handshake because it speaks none of the protocols offered.
pub(crate) fn refused_protocols(error: &std::io::Error) -> bool {
    let tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let alert = rustls::AlertDescription::NoApplicationProtocol;
    matches!(tls, Some(rustls::Error::AlertReceived(received)) if *received == alert)
}

/// Why the handshake with `host` failed, in one line for a person.
pub(crate) fn describe_failure(host: &Host, error: &std::io::Error) -> String {
    let tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let reason = match tls {
        Some(rustls::Error::InvalidCertificate(fault)) => return describe_certificate(host, fault),
        Some(rustls::Error::AlertReceived(alert)) => {
            format!("{host} ended the TLS handshake with the alert {alert:?}")
        }
        Some(rustls::Error::InvalidMessage(_)) => format!("{host} does not speak TLS here"),
        Some(other) => format!("the TLS handshake with {host} failed: {other}"),
        None if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            format!("{host} closed the connection during the TLS handshake")
        }
        None => format!("the connection to {host} failed during the TLS handshake: {error}"),
    };
    crate::event::one_line(&reason)
}

fn describe_certificate(host: &Host, fault: &CertificateError) -> String {
    let reason = match fault {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("the certificate of {host} has expired")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!("the certificate of {host} is not valid yet")
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("the certificate is not for {host}")
        }
        CertificateError::UnknownIssuer => {
            format!("the certificate of {host} is signed by an unknown authority")
        }
        CertificateError::BadSignature => {
            format!(
                "the certificate of {host} is not signed by the authority it names, or by too weak a key"
            )
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            format!("the certificate of {host} is not for servers")
        }
        CertificateError::UnsupportedSignatureAlgorithmContext { .. } => {
            format!("the certificate of {host} is signed in a way that is too weak, or not known")
        }
        // The library keeps its own kinds to itself, but for their names.
        CertificateError::Other(other) => match other.to_string().as_str() {
            "NameConstraintViolation" => {
                format!("the certificate of {host} has names that its authority may not certify")
            }
            "EndEntityUsedAsCa" => {
                format!(
                    "the certificate of {host} is signed by a certificate that is no authority's"
                )
            }
            other => format!("the certificate of {host} is not acceptable: {other}"),
        },
        other => format!("the certificate of {host} is not acceptable: {other}"),
    };
    crate::event::one_line(&reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_refused(builder: UpstreamTlsBuilder, expected: &str) {
        let error = builder.build().unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn ca_text_without_a_certificate_is_a_build_error() {
        check_refused(UpstreamTls::builder().ca_pem(""), "no PEM section");
        check_refused(
            UpstreamTls::builder()
                .ca_pem("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
            "cannot be used",
        );
        check_refused(
            UpstreamTls::builder().ca_file("/nonexistent/root.pem"),
            "/nonexistent/root.pem",
        );
        check_refused(
            UpstreamTls::builder().without_system_roots(),
            "no root certificate",
        );
    }

    #[test]
    fn files_for_some_hosts_that_cannot_be_used_are_build_errors() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let root = msb_testkit::TestRoot::new();
        let [(chain, key), (_, other)] = [1, 2].map(|_| root.client_pem("worker"));
        let [chain, key, other] = [("chain", &chain), ("key", &key), ("other", &other)]
            .map(|(name, text)| write(name, text));
        let (empty, missing) = (write("empty", ""), dir.path().join("missing"));
        let pattern = || "*.a.test".parse::<HostPattern>().unwrap();
        let with = |chain: &Path, key: &Path| {
            UpstreamTls::builder().client_certificate_for(pattern(), chain, key)
        };
        with(&chain, &key).build().unwrap();
        check_refused(with(&missing, &key), "missing");
        check_refused(with(&chain, &missing), "missing");
        check_refused(with(&empty, &key), "no PEM section");
        check_refused(with(&chain, &empty), "no PEM section");
        check_refused(with(&chain, &chain), "unencrypted key");
        check_refused(with(&chain, &other), "is not that of the certificate");
        let twice = with(&chain, &key).client_certificate_for(pattern(), &chain, &key);
        check_refused(twice, "two client certificates");
        check_refused(
            UpstreamTls::builder().ca_file_for(pattern(), &empty),
            "no PEM section",
        );
        check_refused(
            UpstreamTls::builder().ca_file_for(pattern(), &missing),
            "missing",
        );
    }

    #[test]
    fn a_host_without_roots_still_trusts_somebody() {
        // Whether the machine has a native store or not, there is something to verify with.
        UpstreamTls::builder().build().unwrap();
    }
}
