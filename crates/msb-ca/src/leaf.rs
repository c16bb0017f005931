//! Server certificates for the names a guest asks for, signed by the sandbox's CA.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use msb_name::Host;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use zeroize::{Zeroize, Zeroizing};

use crate::authority::MAX_COMMON_NAME;
use crate::time::{SKEW, random_serial, set_validity};
use crate::{Error, SandboxCa};

/// How long a leaf is valid after it was minted (SPEC T2).
const LEAF_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// A leaf is minted anew when less than this is left of its validity, so that a handshake begun
/// with it, and a guest whose clock runs ahead, still find it valid.
const RENEW_BEFORE: Duration = Duration::from_secs(2 * 60 * 60);

/// Signs leaves. All of them share one key pair, so that a mint costs one signature.
pub struct LeafMinter {
    ca: SandboxCa,
    key: LeafKey,
    key_der: Arc<Zeroizing<Vec<u8>>>,
}

impl LeafMinter {
    /// Makes the leaf key (ECDSA P-256) of a sandbox whose CA is `ca`.
    ///
    /// # Errors
    ///
    /// [`Error::Crypto`] without randomness.
    pub fn new(ca: SandboxCa) -> Result<Self, Error> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
            .map_err(|_| Error::Crypto("generate the leaf key"))?;
        let key_der = Arc::new(Zeroizing::new(key.serialized_der().to_vec()));
        Ok(Self {
            ca,
            key: LeafKey(key),
            key_der,
        })
    }

    /// The CA that signs.
    pub fn ca(&self) -> &SandboxCa {
        &self.ca
    }

    /// The leaf key as PKCS#8, wiped when the last leaf and the minter are gone.
    pub fn key(&self) -> PrivatePkcs8KeyDer<'_> {
        PrivatePkcs8KeyDer::from(self.key_der.as_slice())
    }

    /// Signs a certificate for `host`, valid from 24 h before `now` to 24 h after it, and never
    /// beyond the CA's own validity.
    ///
    /// # Errors
    ///
    /// [`Error::Expired`] once the CA has expired, [`Error::TimeOutOfRange`] for a `now` a
    /// certificate cannot express, [`Error::Crypto`] when signing failed.
    pub fn mint(&self, host: &Host, now: SystemTime) -> Result<Leaf, Error> {
        let not_before = now
            .checked_sub(SKEW)
            .ok_or(Error::TimeOutOfRange(now))?
            .max(self.ca.not_before());
        let not_after = now
            .checked_add(LEAF_LIFETIME)
            .ok_or(Error::TimeOutOfRange(now))?
            .min(self.ca.not_after());
        if not_after <= now {
            let not_after_unix_s = self
                .ca
                .not_after()
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |since| {
                    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
                });
            return Err(Error::Expired { not_after_unix_s });
        }

        let mut params = leaf_params(host)?;
        set_validity(&mut params, not_before, not_after)?;
        params.serial_number = Some(random_serial()?);
        let certificate = params
            .signed_by(&self.key.0, self.ca.issuer())
            .map_err(|_| Error::Crypto("sign a leaf"))?;
        let mut chain = vec![certificate.into()];
        chain.extend_from_slice(self.ca.chain_tail());
        Ok(Leaf {
            chain,
            key_der: Arc::clone(&self.key_der),
            not_after,
        })
    }
}

impl fmt::Debug for LeafMinter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            ca,
            key: _,
            key_der: _,
        } = self;
        f.debug_struct("LeafMinter")
            .field("ca", ca)
            .field("key", &"[hidden]")
            .finish()
    }
}

/// A server certificate with its chain and key.
#[derive(Clone)]
pub struct Leaf {
    chain: Vec<CertificateDer<'static>>,
    key_der: Arc<Zeroizing<Vec<u8>>>,
    not_after: SystemTime,
}

impl Leaf {
    /// What a server sends: the leaf first, then whatever leads to a root; a root itself is left out.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The private key as PKCS#8; the same for every leaf of a sandbox.
    pub fn key(&self) -> PrivatePkcs8KeyDer<'_> {
        PrivatePkcs8KeyDer::from(self.key_der.as_slice())
    }

    /// The last moment at which the leaf is valid.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Whether the leaf should not be handed out any more at `now`, because it is about to expire.
    pub fn is_due(&self, now: SystemTime) -> bool {
        now.checked_add(RENEW_BEFORE)
            .is_none_or(|soon| soon >= self.not_after)
    }
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            chain,
            key_der: _,
            not_after,
        } = self;
        f.debug_struct("Leaf")
            .field("certificates", &chain.len())
            .field("key", &"[hidden]")
            .field("not_after", not_after)
            .finish()
    }
}

/// The leaf key, wiped when dropped.
struct LeafKey(KeyPair);

impl Drop for LeafKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

fn leaf_params(host: &Host) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let name = match host {
        Host::Name(name) => {
            let dns_name = name
                .as_ref()
                .try_into()
                .map_err(|_| Error::Crypto("write a host name that is not ASCII"))?;
            params.subject_alt_names = vec![SanType::DnsName(dns_name)];
            name.to_string()
        }
        Host::Ip(address) => {
            params.subject_alt_names = vec![SanType::IpAddress(*address)];
            address.to_string()
        }
    };
    if name.len() <= MAX_COMMON_NAME {
        params.distinguished_name.push(DnType::CommonName, name);
    }
    // Written as an empty BasicConstraints, together with the subject key identifier.
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// One PEM section (RFC 7468 section 5).
pub(crate) fn pem(certificate: &CertificateDer<'_>) -> String {
    let body = BASE64_STANDARD.encode(certificate);
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for (index, char) in body.chars().enumerate() {
        if index > 0 && index % 64 == 0 {
            text.push('\n');
        }
        text.push(char);
    }
    text.push_str("\n-----END CERTIFICATE-----\n");
    text
}
