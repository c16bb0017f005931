//! Whom to trust as a server, and what it means when one cannot be trusted.

use std::path::PathBuf;
use std::sync::Arc;

use msb_name::Host;
use msb_policy::UpstreamTrust;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::{CertificateError, ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};

use crate::Error;

/// The one protocol offered in this slice.
pub(crate) const HTTP_1_1: &[u8] = b"http/1.1";

/// How servers are verified: against the host's roots, Mozilla's if the host has none, and any
/// added ones.
#[derive(Clone, Debug)]
pub struct UpstreamTls {
    /// Offers `http/1.1`.
    http: Arc<ClientConfig>,
    /// Offers nothing, for guests that offer nothing.
    no_alpn: Arc<ClientConfig>,
}

/// Collects what [`UpstreamTls`] is to trust.
#[derive(Clone, Debug, Default)]
pub struct UpstreamTlsBuilder {
    without_system_roots: bool,
    files: Vec<PathBuf>,
    texts: Vec<String>,
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

    /// Reads the files and the host's roots.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, or text without a usable certificate in it.
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
            let text = std::fs::read(path).map_err(|source| Error::UnreadableCaFile {
                path: path.clone(),
                source,
            })?;
            add_pem(&mut roots, &text, &path.display().to_string())?;
        }
        for text in &self.texts {
            add_pem(&mut roots, text.as_bytes(), "the given PEM text")?;
        }
        UpstreamTls::new(roots)
    }
}

impl UpstreamTls {
    /// Starts with the host's roots.
    #[must_use]
    pub fn builder() -> UpstreamTlsBuilder {
        UpstreamTlsBuilder::default()
    }

    fn new(roots: RootCertStore) -> Result<Self, Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = if roots.is_empty() {
            return Err(Error::BadCaCertificates {
                origin: "the configuration".to_owned(),
                reason: "no root certificate is left to trust".to_owned(),
            });
        } else {
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()
                .map_err(|error| Error::Tls(rustls::Error::General(error.to_string())))?
        };
        let no_alpn = client_config(provider, verifier)?;
        // A clone shares the session store, which is what makes resumption work across both.
        let mut http = no_alpn.clone();
        http.alpn_protocols = vec![HTTP_1_1.to_vec()];
        Ok(Self {
            http: Arc::new(http),
            no_alpn: Arc::new(no_alpn),
        })
    }

    /// The configuration for a handshake with `host`, and what its success will establish.
    pub(crate) fn client(
        &self,
        host: &Host,
        offer_http: bool,
    ) -> (Arc<ClientConfig>, UpstreamTrust) {
        let config = if offer_http {
            &self.http
        } else {
            &self.no_alpn
        };
        (Arc::clone(config), UpstreamTrust::Verified(host.clone()))
    }
}

fn client_config(
    provider: Arc<CryptoProvider>,
    verifier: Arc<dyn ServerCertVerifier>,
) -> Result<ClientConfig, Error> {
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth())
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
            format!("the certificate of {host} is not signed by the authority it names")
        }
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
    fn a_host_without_roots_still_trusts_somebody() {
        // Whether the machine has a native store or not, there is something to verify with.
        UpstreamTls::builder().build().unwrap();
    }
}
