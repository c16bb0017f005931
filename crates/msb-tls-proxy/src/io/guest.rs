//! The guest's side of a connection: its ClientHello, and the handshake that answers it.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use msb_ca::{LeafCache, LeafMinter, SandboxCa};
use msb_name::Host;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert, ServerSessionMemoryCache};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{AlertDescription, ServerConfig};
use rustls_pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::crypto::provider;
use crate::session::hello::{Hello, HelloFault, HelloReader};
use crate::{Error, HelloFailure};

/// Sessions that TLS 1.2 clients without ticket support may resume.
const SESSIONS: usize = 1024;

/// Server configurations for the guest's handshakes, one leaf per host.
pub(crate) struct GuestTls {
    leaves: LeafCache,
    key: Arc<dyn SigningKey>,
    /// Session store and ticketer are shared by all clones; a session resumes only for the server
    /// name it was made for, which the TLS library sees to.
    base: ServerConfig,
}

impl GuestTls {
    pub(crate) fn new(ca: SandboxCa) -> Result<Self, Error> {
        let minter = LeafMinter::new(ca)?;
        let key = PrivateKeyDer::from(minter.key().clone_key());
        let key = aws_lc_rs::sign::any_ecdsa_type(&key)?;
        let mut base = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(NoCertificate));
        base.session_storage = ServerSessionMemoryCache::new(SESSIONS);
        base.ignore_client_order = true;
        base.ticketer = aws_lc_rs::Ticketer::new()?;
        Ok(Self {
            leaves: LeafCache::new(minter),
            key,
            base,
        })
    }

    pub(crate) fn ca(&self) -> &SandboxCa {
        self.leaves.minter().ca()
    }

    /// The configuration that answers for `host`, agreeing to `alpn` alone if there is one.
    pub(crate) fn server(
        &self,
        host: &Host,
        alpn: Option<&[u8]>,
    ) -> Result<Arc<ServerConfig>, msb_ca::Error> {
        let leaf = self.leaves.leaf(host, SystemTime::now())?;
        let certified = CertifiedKey::new(leaf.chain().to_vec(), Arc::clone(&self.key));
        let mut config = self.base.clone();
        config.cert_resolver = Arc::new(OneCertificate(Arc::new(certified)));
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Arc::new(config))
    }
}

#[derive(Debug)]
struct NoCertificate;

impl ResolvesServerCert for NoCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
    }
}

#[derive(Debug)]
struct OneCertificate(Arc<CertifiedKey>);

impl ResolvesServerCert for OneCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// Reads the guest's ClientHello. With an error may come bytes (an alert) to send before the end.
pub(crate) async fn read_hello(
    guest: &mut (impl AsyncRead + Unpin),
    limit: usize,
) -> Result<Hello, (HelloFailure, Option<Vec<u8>>)> {
    let mut reader = HelloReader::new(limit);
    let mut buffer = vec![0; 4096];
    loop {
        let read = guest.read(&mut buffer).await.unwrap_or(0);
        if read == 0 {
            return Err((HelloFailure::Closed, None));
        }
        match reader.push(&buffer[..read]) {
            Ok(None) => {}
            Ok(Some(hello)) => return Ok(hello),
            Err(HelloFault::NotTls) => return Err((HelloFailure::NotTls, None)),
            Err(HelloFault::TooLarge) => return Err((HelloFailure::TooLarge, None)),
            Err(HelloFault::Malformed { reason, alert }) => {
                let failure = HelloFailure::Malformed(crate::event::one_line(&reason));
                return Err((failure, alert.map(crate::session::hello::Alert::into_bytes)));
            }
        }
    }
}

/// Whether a handshake failed because the guest was gone, without a word about why.
pub(crate) fn hung_up(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    let kinds = [
        BrokenPipe,
        ConnectionAborted,
        ConnectionReset,
        UnexpectedEof,
    ];
    kinds.contains(&error.kind())
}

/// Whether a failed handshake says that the guest does not accept our certificate (SPEC T12).
pub(crate) fn rejected_leaf(error: &io::Error) -> bool {
    let tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(
        tls,
        Some(rustls::Error::AlertReceived(
            AlertDescription::UnknownCA
                | AlertDescription::BadCertificate
                | AlertDescription::CertificateUnknown
        ))
    )
}
