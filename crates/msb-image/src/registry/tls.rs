//! TLS with registries: whom to believe, and what is wrong with a certificate.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::client::settings;
use super::error::PullError;

/// TLS as the rest of msb speaks it, with this machine's authorities and those in `files`. Without any only where none is
/// needed.
pub(super) fn config(
    files: &[PathBuf],
    is_needed: bool,
) -> Result<rustls::ClientConfig, PullError> {
    let mut roots = rustls::RootCertStore::empty();
    let own = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(own.certs);
    if roots.is_empty() {
        let set = ["SSL_CERT_FILE", "SSL_CERT_DIR"].map(|name| (name, std::env::var_os(name)));
        if let Some((name, Some(value))) = set.iter().find(|(_, value)| value.is_some()) {
            let value = value.display();
            let why = own.errors.first().map(|error| format!(": {error}"));
            return Err(settings(format!(
                "{name} names no authorities that can be used ({value}{})",
                why.unwrap_or_default()
            )));
        }
    }
    for file in files {
        for certificate in certificates(file)? {
            roots.add(certificate).map_err(|error| {
                settings(format!("{} holds no authority: {error}", file.display()))
            })?;
        }
    }
    if roots.is_empty() && is_needed {
        return Err(settings(
            "this machine trusts no authority: install the package ca-certificates, or give those of the registry with \
             --registry-ca FILE"
                .into(),
        ));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| settings(format!("TLS cannot be set up: {error}")))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, PullError> {
    let unusable = |problem: &dyn std::fmt::Display| {
        settings(format!(
            "the authorities in {} cannot be used: {problem}",
            file.display()
        ))
    };
    let certificates = CertificateDer::pem_file_iter(file)
        .map_err(|error| unusable(&error))?
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| unusable(&error))?;
    match certificates.is_empty() {
        true => Err(unusable(&"the file has no certificate in PEM form")),
        false => Ok(certificates),
    }
}

/// What is wrong with the other side's certificate, if that is why the request failed.
pub(super) fn certificate_fault(error: &reqwest::Error) -> Option<rustls::Error> {
    let mut cause = std::error::Error::source(error);
    while let Some(at) = cause {
        let inner = at
            .downcast_ref::<std::io::Error>()
            .and_then(|error| error.get_ref());
        let fault = match inner {
            Some(inner) => inner.downcast_ref::<rustls::Error>(),
            None => at.downcast_ref::<rustls::Error>(),
        };
        if let Some(fault @ rustls::Error::InvalidCertificate(_)) = fault {
            return Some(fault.clone());
        }
        cause = match inner {
            Some(inner) => Some(inner),
            None => at.source(),
        };
    }
    None
}
