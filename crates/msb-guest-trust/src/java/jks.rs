//! JKS, the format of `sun.security.provider.JavaKeyStore`.
//!
//! ```text
//! u32 0xfeedfeed | u32 version, 1 or 2 | u32 count | count entries | SHA-1 of password, "Mighty Aphrodite" and all before
//! entry: u32 tag | text alias | u64 milliseconds since 1970 | tag 1: key and chain | tag 2: certificate
//! key: u32 length | bytes        chain: u32 count | certificates
//! certificate: text "X.509" (version 2 only) | u32 length | DER        text: u16 length | bytes
//! ```

use sha1::{Digest, Sha1};

use super::{OTHER_PASSWORD, PASSWORD, is_our_alias};
use crate::certificate::CaCertificate;
use crate::error::Reason;

const HEADER_BYTES: usize = 12;
const DIGEST_BYTES: usize = 20;
const PRIVATE_KEY: u32 = 1;
const TRUSTED: u32 = 2;

const DAMAGED: Reason = "it is a damaged JKS key store";

struct Entry<'a> {
    bytes: &'a [u8],
    /// Of a trusted certificate.
    trusted: Option<(&'a [u8], &'a [u8])>,
}

pub(super) fn with_entries(store: &[u8], cas: &[CaCertificate]) -> Result<Vec<u8>, Reason> {
    let (body, found) = store.split_last_chunk::<DIGEST_BYTES>().ok_or(DAMAGED)?;
    if digest(body) != *found {
        return Err(OTHER_PASSWORD);
    }
    let mut reader = Reader { rest: body };
    let magic = reader.u32()?;
    let version = reader.u32()?;
    if !matches!(version, 1 | 2) {
        return Err("it is a JKS key store of an unknown version");
    }
    let count = reader.u32()?;
    let mut kept = Vec::new();
    for _ in 0..count {
        let entry = reader.entry(version)?;
        let ours = entry
            .trusted
            .and_then(|(alias, _)| std::str::from_utf8(alias).ok())
            .is_some_and(is_our_alias);
        if !ours {
            kept.push(entry);
        }
    }
    if !reader.rest.is_empty() {
        return Err(DAMAGED);
    }
    let has = |ca: &CaCertificate| {
        let mut trusted = kept.iter().filter_map(|entry| entry.trusted);
        trusted.any(|(_, der)| der == ca.der())
    };
    let added: Vec<_> = cas.iter().filter(|ca| !has(ca)).collect();
    let count = u32::try_from(kept.len() + added.len()).map_err(|_| DAMAGED)?;
    let mut edited = Vec::with_capacity(store.len() + HEADER_BYTES);
    for number in [magic, version, count] {
        edited.extend(number.to_be_bytes());
    }
    for entry in &kept {
        edited.extend_from_slice(entry.bytes);
    }
    for ca in added {
        emit(&mut edited, version, ca)?;
    }
    edited.extend(digest(&edited));
    Ok(edited)
}

/// An entry without a date, so that equal authorities make equal stores.
fn emit(store: &mut Vec<u8>, version: u32, ca: &CaCertificate) -> Result<(), Reason> {
    let text = |store: &mut Vec<u8>, text: &str| {
        let len = u16::try_from(text.len()).map_err(|_| DAMAGED)?;
        store.extend(len.to_be_bytes());
        store.extend_from_slice(text.as_bytes());
        Ok::<_, Reason>(())
    };
    store.extend(TRUSTED.to_be_bytes());
    text(store, &ca.entry_name())?;
    store.extend(0_u64.to_be_bytes());
    if version == 2 {
        text(store, "X.509")?;
    }
    let len = u32::try_from(ca.der().len()).map_err(|_| DAMAGED)?;
    store.extend(len.to_be_bytes());
    store.extend_from_slice(ca.der());
    Ok(())
}

fn digest(body: &[u8]) -> [u8; DIGEST_BYTES] {
    let mut hash = Sha1::new();
    for unit in PASSWORD.encode_utf16() {
        hash.update(unit.to_be_bytes());
    }
    hash.update(b"Mighty Aphrodite");
    hash.update(body);
    hash.finalize().into()
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn bytes(&mut self, len: usize) -> Result<&'a [u8], Reason> {
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(DAMAGED)?;
        self.rest = rest;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, Reason> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(DAMAGED)?;
        self.rest = rest;
        Ok(u32::from_be_bytes(*bytes))
    }

    fn text(&mut self) -> Result<&'a [u8], Reason> {
        let (len, rest) = self.rest.split_first_chunk().ok_or(DAMAGED)?;
        self.rest = rest;
        self.bytes(usize::from(u16::from_be_bytes(*len)))
    }

    fn block(&mut self) -> Result<&'a [u8], Reason> {
        let len = usize::try_from(self.u32()?).map_err(|_| DAMAGED)?;
        self.bytes(len)
    }

    fn certificate(&mut self, version: u32) -> Result<&'a [u8], Reason> {
        if version == 2 {
            self.text()?;
        }
        self.block()
    }

    fn entry(&mut self, version: u32) -> Result<Entry<'a>, Reason> {
        let start = self.rest;
        let tag = self.u32()?;
        let alias = self.text()?;
        self.bytes(8)?;
        let trusted = match tag {
            TRUSTED => Some((alias, self.certificate(version)?)),
            PRIVATE_KEY => {
                self.block()?;
                for _ in 0..self.u32()? {
                    self.certificate(version)?;
                }
                None
            }
            _ => return Err("it is a JKS key store with an unknown kind of entry"),
        };
        Ok(Entry {
            bytes: &start[..start.len() - self.rest.len()],
            trusted,
        })
    }
}
