//! A test root and the server certificates it signs, good and bad.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, NameConstraints,
};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What is right or wrong about a server certificate. For a wrong name, give other names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CertificateKind {
    /// Signed by the root, valid now.
    Good,
    /// Signed by the root, ended yesterday.
    Expired,
    /// Signed by the root, begins tomorrow.
    NotYetValid,
    /// Signed by another root.
    UnknownIssuer,
    /// Signed by another root that bears the same name.
    ForgedIssuer,
    /// Signed by itself.
    SelfSigned,
    /// Signed by an authority that the root allows other names only.
    OutsideConstraints,
    /// Signed with a server's certificate, which the root signed.
    IssuedByServer,
    /// For clients, as its extended key usage says.
    ForClients,
    /// Naming its host in the common name alone.
    CommonNameOnly,
}

/// A root certificate authority that only a test was given.
#[derive(Debug)]
pub struct TestRoot {
    certificate: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl TestRoot {
    /// Makes a new root, valid for a month around now.
    #[must_use]
    #[expect(
        clippy::new_without_default,
        reason = "each root is another one, which a default would hide"
    )]
    pub fn new() -> Self {
        Self::named("msb test root")
    }

    /// As [`new`](Self::new), with a name of its own.
    #[must_use]
    pub fn named(common_name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = params(&[], common_name, -15, 15);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).unwrap();
        Self {
            certificate,
            issuer: Issuer::new(params, key),
        }
    }

    /// The root certificate as PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// The root certificate.
    #[must_use]
    pub fn der(&self) -> CertificateDer<'static> {
        self.certificate.der().clone()
    }

    /// A server configuration with a certificate of `kind` for `names` (host names or addresses),
    /// offering `http/1.1`.
    #[must_use]
    pub fn server(&self, names: &[&str], kind: CertificateKind) -> Arc<ServerConfig> {
        let (chain, key) = self.issue(names, kind);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    }

    /// A certificate chain of `kind` for `names`, and its key.
    #[must_use]
    pub fn issue(
        &self,
        names: &[&str],
        kind: CertificateKind,
    ) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let (from_day, to_day) = match kind {
            CertificateKind::Expired => (-10, -1),
            CertificateKind::NotYetValid => (1, 10),
            _ => (-10, 10),
        };
        let (names, common_name) = match (kind, names) {
            (CertificateKind::CommonNameOnly, [name, ..]) => (&[][..], *name),
            _ => (names, "msb test origin"),
        };
        let mut params = params(names, common_name, from_day, to_day);
        params.extended_key_usages = vec![match kind {
            CertificateKind::ForClients => ExtendedKeyUsagePurpose::ClientAuth,
            _ => ExtendedKeyUsagePurpose::ServerAuth,
        }];
        params.use_authority_key_identifier_extension = true;
        let mut chain = Vec::new();
        let certificate = match kind {
            CertificateKind::SelfSigned => params.self_signed(&key),
            CertificateKind::ForgedIssuer => params.signed_by(&key, &Self::new().issuer),
            CertificateKind::UnknownIssuer => {
                params.signed_by(&key, &Self::named("another root").issuer)
            }
            CertificateKind::OutsideConstraints | CertificateKind::IssuedByServer => {
                let (between, issuer) = self.between(kind);
                chain.push(between);
                params.signed_by(&key, &issuer)
            }
            _ => params.signed_by(&key, &self.issuer),
        };
        chain.insert(0, certificate.unwrap().into());
        (chain, PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }

    /// What stands between the root and a certificate of `kind`.
    fn between(
        &self,
        kind: CertificateKind,
    ) -> (CertificateDer<'static>, Issuer<'static, KeyPair>) {
        let key = KeyPair::generate().unwrap();
        let mut params = params(&["between.test"], "msb test issuer", -10, 10);
        if kind == CertificateKind::OutsideConstraints {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
            params.name_constraints = Some(NameConstraints {
                permitted_subtrees: vec![GeneralSubtree::DnsName("inside.test".to_owned())],
                excluded_subtrees: Vec::new(),
            });
        } else {
            params.is_ca = IsCa::ExplicitNoCa;
        }
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.into(), Issuer::new(params, key))
    }

    /// As [`server`](Self::server) with a good certificate, for clients that present a certificate
    /// of this root.
    #[must_use]
    pub fn server_for_known_clients(&self, names: &[&str]) -> Arc<ServerConfig> {
        let (chain, key) = self.issue(names, CertificateKind::Good);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.der()).unwrap();
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    }

    /// A client's certificate, signed by the root, and its key, as PEM.
    #[must_use]
    pub fn client_pem(&self, common_name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = params(&[], common_name, -10, 10);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

fn params(names: &[&str], common_name: &str, from_day: i32, to_day: i32) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    let day = |day: i32| {
        let distance = DAY * day.unsigned_abs();
        let since = if day < 0 {
            now - distance
        } else {
            now + distance
        };
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(since.as_secs())
    };
    params.not_before = day(from_day);
    params.not_after = day(to_day);
    params
}
