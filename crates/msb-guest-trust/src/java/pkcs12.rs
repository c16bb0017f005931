//! PKCS#12 (RFC 7292), as far as trusted certificates need it.
//!
//! A store is a list of parts, each encrypted or not, and a MAC over all of them if there is a password. Java reads any
//! mixture. Ours is a part of its own that is not encrypted: so nothing has to be decrypted to add it, and programs that
//! open the store without a password, as Java's own TLS does, see it in any case.

use der::{Encode, Tag};
use hmac::digest::block_api::EagerHash;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::Sha256;

use super::{OTHER_PASSWORD, PASSWORD, is_our_alias};
use crate::asn1::{Damaged, EXPLICIT, Fields, encoded, oid, one, tlv};
use crate::certificate::CaCertificate;
use crate::error::Reason;
use crate::subject_hash::two_byte_characters;

const DATA: &str = "1.2.840.113549.1.7.1";
const CERTIFICATE_BAG: &str = "1.2.840.113549.1.12.10.1.3";
const X509_CERTIFICATE: &str = "1.2.840.113549.1.9.22.1";
const FRIENDLY_NAME: &str = "1.2.840.113549.1.9.20";
/// Oracle's attribute that makes a certificate a trusted one to Java, and its value: any extended key usage.
const TRUSTED_KEY_USAGE: &str = "2.16.840.1.113894.746875.1.1";
const ANY_USAGE: &str = "2.5.29.37.0";
const SHA1: &str = "1.3.14.3.2.26";
const SHA256: &str = "2.16.840.1.101.3.4.2.1";

/// Java has used up to 100,000. More would hold up the boot.
const MAX_ITERATIONS: u32 = 200_000;
/// Of SHA-1 and SHA-256.
const BLOCK_BYTES: usize = 64;

pub(super) fn with_entries(store: &[u8], cas: &[CaCertificate]) -> Result<Vec<u8>, Reason> {
    let mut fields = Fields::of(one(store, Tag::Sequence)?)?;
    let version = fields.value(Tag::Integer)?;
    if version != [3] {
        return Err(Damaged.into());
    }
    let mut content = Fields::of(fields.value(Tag::Sequence)?)?;
    if content.value(Tag::ObjectIdentifier)? != oid(DATA).as_bytes() {
        return Err("it is a PKCS#12 key store that is signed");
    }
    let parts = one(content.value(EXPLICIT)?, Tag::OctetString)?;
    let mac = match fields.optional()? {
        Some(mac) => Some(MacData::parse(mac.value())?),
        None => None,
    };
    if let Some(mac) = &mac
        && mac.of(parts)? != mac.digest
    {
        return Err(OTHER_PASSWORD);
    }
    let edited = edit_parts(one(parts, Tag::Sequence)?, cas)?;
    let edited = tlv(Tag::Sequence, &edited)?;
    let octets = tlv(EXPLICIT, &tlv(Tag::OctetString, &edited)?)?;
    let mut body = tlv(Tag::Integer, version)?;
    body.extend(tlv(Tag::Sequence, &[encoded(DATA)?, octets].concat())?);
    if let Some(mac) = mac {
        body.extend(mac.emit(&mac.of(&edited)?)?);
    }
    Ok(tlv(Tag::Sequence, &body)?)
}

/// The parts without our bags, and behind them one with a bag for each authority that the others do not show.
fn edit_parts(parts: &[u8], cas: &[CaCertificate]) -> Result<Vec<u8>, Reason> {
    let mut edited = Vec::new();
    let mut there = Vec::new();
    let mut parts = Fields::of(parts)?;
    while let Some(part) = parts.optional()? {
        let whole = part.to_der().map_err(|_| Damaged)?;
        let mut fields = Fields::of(part.value())?;
        if fields.value(Tag::ObjectIdentifier)? != oid(DATA).as_bytes() {
            edited.extend(whole);
            continue;
        }
        let bags = one(
            one(fields.value(EXPLICIT)?, Tag::OctetString)?,
            Tag::Sequence,
        )?;
        let mut bags = Fields::of(bags)?;
        let (mut kept, mut dropped) = (Vec::new(), false);
        while let Some(bag) = bags.optional()? {
            let found = Bag::parse(bag.value())?;
            if found.name.as_deref().is_some_and(is_our_alias) {
                dropped = true;
                continue;
            }
            there.extend(found.trusted);
            kept.extend(bag.to_der().map_err(|_| Damaged)?);
        }
        match (dropped, kept.is_empty()) {
            (false, _) => edited.extend(whole),
            (true, true) => {}
            (true, false) => edited.extend(part_of(&kept)?),
        }
    }
    let mut bags = Vec::new();
    for ca in cas.iter().filter(|ca| !there.contains(&ca.der())) {
        bags.extend(bag_of(ca)?);
    }
    if !bags.is_empty() {
        edited.extend(part_of(&bags)?);
    }
    Ok(edited)
}

/// A part that is not encrypted.
fn part_of(bags: &[u8]) -> Result<Vec<u8>, Damaged> {
    let octets = tlv(Tag::OctetString, &tlv(Tag::Sequence, bags)?)?;
    let data = [encoded(DATA)?, tlv(EXPLICIT, &octets)?].concat();
    tlv(Tag::Sequence, &data)
}

fn bag_of(ca: &CaCertificate) -> Result<Vec<u8>, Damaged> {
    let certificate = tlv(EXPLICIT, &tlv(Tag::OctetString, ca.der())?)?;
    let certificate = [encoded(X509_CERTIFICATE)?, certificate].concat();
    let value = tlv(EXPLICIT, &tlv(Tag::Sequence, &certificate)?)?;
    let name: Vec<u8> = ca
        .entry_name()
        .encode_utf16()
        .flat_map(u16::to_be_bytes)
        .collect();
    let attribute = |kind: &'static str, value: Vec<u8>| {
        let set = tlv(Tag::Set, &value)?;
        tlv(Tag::Sequence, &[encoded(kind)?, set].concat())
    };
    let mut attributes = [
        attribute(FRIENDLY_NAME, tlv(Tag::BmpString, &name)?)?,
        attribute(TRUSTED_KEY_USAGE, encoded(ANY_USAGE)?)?,
    ];
    // As DER asks of a set.
    attributes.sort();
    let attributes = tlv(Tag::Set, &attributes.concat())?;
    let bag = [encoded(CERTIFICATE_BAG)?, value, attributes].concat();
    tlv(Tag::Sequence, &bag)
}

/// What a bag of a part that is not encrypted says.
#[derive(Default)]
struct Bag<'a> {
    /// Of a certificate.
    name: Option<String>,
    /// The certificate, if Java takes it for a trusted one.
    trusted: Option<&'a [u8]>,
}

impl<'a> Bag<'a> {
    fn parse(bag: &'a [u8]) -> Result<Self, Damaged> {
        let mut fields = Fields::of(bag)?;
        let mut found = Self::default();
        if fields.value(Tag::ObjectIdentifier)? != oid(CERTIFICATE_BAG).as_bytes() {
            return Ok(found);
        }
        let mut certificate = Fields::of(one(fields.value(EXPLICIT)?, Tag::Sequence)?)?;
        let kind = certificate.value(Tag::ObjectIdentifier)?;
        let value = certificate.value(EXPLICIT)?;
        let Some(attributes) = fields.optional()? else {
            return Ok(found);
        };
        let mut attributes = Fields::of(attributes.value())?;
        while let Some(attribute) = attributes.optional()? {
            let mut attribute = Fields::of(attribute.value())?;
            let name = attribute.value(Tag::ObjectIdentifier)?;
            let value_set = attribute.value(Tag::Set)?;
            if name == oid(FRIENDLY_NAME).as_bytes() {
                found.name = two_byte_characters(one(value_set, Tag::BmpString)?);
            } else if name == oid(TRUSTED_KEY_USAGE).as_bytes()
                && kind == oid(X509_CERTIFICATE).as_bytes()
            {
                found.trusted = Some(one(value, Tag::OctetString)?);
            }
        }
        Ok(found)
    }
}

struct MacData<'a> {
    /// The identifier of the hash and its parameters, as they are.
    algorithm: &'a [u8],
    digest: &'a [u8],
    salt: &'a [u8],
    iterations: u32,
    /// As it is written; nothing if it is left out.
    written_iterations: Vec<u8>,
}

impl<'a> MacData<'a> {
    fn parse(mac: &'a [u8]) -> Result<Self, Reason> {
        let mut fields = Fields::of(mac)?;
        let mut digest = Fields::of(fields.value(Tag::Sequence)?)?;
        let algorithm = digest.value(Tag::Sequence)?;
        let digest = digest.value(Tag::OctetString)?;
        let salt = fields.value(Tag::OctetString)?;
        let written = fields.optional()?;
        let iterations = match &written {
            None => 1,
            Some(number) => number.decode_as::<u32>().map_err(|_| Damaged)?,
        };
        if !(1..=MAX_ITERATIONS).contains(&iterations) {
            return Err("it is a PKCS#12 key store with too many iterations");
        }
        Ok(Self {
            algorithm,
            digest,
            salt,
            iterations,
            written_iterations: match written {
                None => Vec::new(),
                Some(number) => number.to_der().map_err(|_| Damaged)?,
            },
        })
    }

    fn of(&self, parts: &[u8]) -> Result<Vec<u8>, Reason> {
        let hash = Fields::of(self.algorithm)?.value(Tag::ObjectIdentifier)?;
        if hash == oid(SHA1).as_bytes() {
            Ok(mac::<Sha1>(self.salt, self.iterations, parts))
        } else if hash == oid(SHA256).as_bytes() {
            Ok(mac::<Sha256>(self.salt, self.iterations, parts))
        } else {
            Err("it is a PKCS#12 key store with an unknown MAC")
        }
    }

    fn emit(&self, digest: &[u8]) -> Result<Vec<u8>, Damaged> {
        let algorithm = tlv(Tag::Sequence, self.algorithm)?;
        let digest = tlv(Tag::OctetString, digest)?;
        let info = tlv(Tag::Sequence, &[algorithm, digest].concat())?;
        let salt = tlv(Tag::OctetString, self.salt)?;
        let whole = [info, salt, self.written_iterations.clone()].concat();
        tlv(Tag::Sequence, &whole)
    }
}

/// HMAC with a key out of the password (RFC 7292, B.2, with the purpose 3). The key is as long as one hash.
fn mac<H: EagerHash>(salt: &[u8], iterations: u32, parts: &[u8]) -> Vec<u8> {
    const PURPOSE: u8 = 3;
    let password: Vec<u8> = PASSWORD
        .encode_utf16()
        .chain([0])
        .flat_map(u16::to_be_bytes)
        .collect();
    let repeated = |bytes: &[u8]| {
        let len = bytes.len().div_ceil(BLOCK_BYTES) * BLOCK_BYTES;
        bytes.iter().copied().cycle().take(len).collect::<Vec<_>>()
    };
    let mut key = H::new()
        .chain_update([PURPOSE; BLOCK_BYTES])
        .chain_update(repeated(salt))
        .chain_update(repeated(&password))
        .finalize();
    for _ in 1..iterations {
        key = H::digest(&key);
    }
    let mac = <Hmac<H> as KeyInit>::new_from_slice(&key);
    let mut mac = mac.expect("HMAC takes keys of any length");
    mac.update(parts);
    mac.finalize().into_bytes().to_vec()
}
