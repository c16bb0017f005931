//! `key4.db`: whether the store's password is empty, and what is signed with it.
//!
//! The key is `hash(salt of the store || password)`. What is encrypted or signed with it is a sequence of an algorithm of
//! PKCS#5 and a text; with an empty password, a single iteration.

use aes::Aes256;
use aes::cipher::{Array, BlockCipherDecrypt};
use der::Tag;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha384};

use super::OTHER_PASSWORD;
use super::database::{Database, Id, Trouble};
use super::objects::Attribute;
use crate::asn1::{Damaged, Fields, encoded, oid, one, tlv};

const PBES2: &str = "1.2.840.113549.1.5.13";
const PBMAC1: &str = "1.2.840.113549.1.5.14";
const PBKDF2: &str = "1.2.840.113549.1.5.12";
const HMAC_SHA256: &str = "1.2.840.113549.2.9";
const AES256_CBC: &str = "2.16.840.1.101.3.4.1.42";

/// What NSS encrypts with a password, to know it again.
const CHECK: &[u8] = b"password-check";
const BLOCK_BYTES: usize = 16;
const KEY_BYTES: u8 = 32;
const SHA384_BYTES: usize = 48;

/// What is known of the store's password.
#[derive(Debug)]
enum Password {
    /// It has none yet, so nothing is signed.
    Missing,
    /// It is empty, which gives this key.
    Empty(Vec<u8>),
    Unknown,
}

/// A store's `key4.db`, if it has one.
#[derive(Debug)]
pub(super) struct Keys {
    database: Option<Database>,
    password: Password,
}

impl Keys {
    pub(super) fn open(content: Option<&[u8]>) -> Result<Self, Trouble> {
        let Some(content) = content else {
            return Ok(Self {
                database: None,
                password: Password::Missing,
            });
        };
        let database = Database::open(content, &["metaData", "nssPrivate"])?;
        let sql = "SELECT item1, item2 FROM metaData WHERE id = 'password'";
        let blob = |row: &rusqlite::Row<'_>, index| {
            let value = row.get_ref(index)?.as_blob_or_null()?;
            Ok::<_, rusqlite::Error>(value.unwrap_or_default().to_vec())
        };
        let found = database.select(sql, [], |row| Ok((blob(row, 0)?, blob(row, 1)?)))?;
        let password = match found.first() {
            None => Password::Missing,
            Some((salt, check)) => {
                let key = key_of_empty_password(salt);
                if encrypts_check(&key, check)? {
                    Password::Empty(key)
                } else {
                    Password::Unknown
                }
            }
        };
        Ok(Self {
            database: Some(database),
            password,
        })
    }

    /// Signs an attribute of a certificate's object, unless it is.
    pub(super) fn sign(
        &mut self,
        id: Id,
        attribute: Attribute,
        value: &[u8],
    ) -> Result<(), Trouble> {
        let (Some(database), Password::Empty(key)) = (&mut self.database, &self.password) else {
            return match self.password {
                Password::Unknown => Err(Trouble::Reason(OTHER_PASSWORD)),
                _ => Ok(()),
            };
        };
        let name = signature_name(id, attribute);
        let signature = signature(key, id, attribute, value)?;
        let same = "SELECT 1 FROM metaData WHERE id = ?1 AND item1 = ?2";
        if database.has(same, (&name, &signature))? {
            return Ok(());
        }
        let sql = "INSERT OR REPLACE INTO metaData (id, item1) VALUES (?1, ?2)";
        database.execute(sql, (&name, &signature))
    }

    /// Takes out what was signed of an object.
    pub(super) fn remove(&mut self, id: Id) -> Result<(), Trouble> {
        let Some(database) = &mut self.database else {
            return Ok(());
        };
        let (from, to) = (signature_name(id, 0), signature_name(id, Attribute::MAX));
        database.execute(
            "DELETE FROM metaData WHERE id BETWEEN ?1 AND ?2",
            (from, to),
        )
    }

    /// The file's content if it is another than before.
    pub(super) fn changed(self) -> Result<Option<Vec<u8>>, Trouble> {
        match self.database {
            Some(database) => database.changed(),
            None => Ok(None),
        }
    }
}

fn signature_name(id: Id, attribute: Attribute) -> String {
    format!("sig_cert_{id:08x}_{attribute:08x}")
}

/// NSS hashes with what the salt is as long as.
fn key_of_empty_password(salt: &[u8]) -> Vec<u8> {
    if salt.len() == SHA384_BYTES {
        Sha384::digest(salt).to_vec()
    } else {
        Sha1::digest(salt).to_vec()
    }
}

/// Whether this key decrypts what NSS has put there to know a password again.
fn encrypts_check(key: &[u8], encrypted: &[u8]) -> Result<bool, Damaged> {
    let mut fields = Fields::of(one(encrypted, Tag::Sequence)?)?;
    let mut algorithm = Fields::of(fields.value(Tag::Sequence)?)?;
    let text = fields.value(Tag::OctetString)?;
    if algorithm.value(Tag::ObjectIdentifier)? != oid(PBES2).as_bytes() {
        return Ok(false);
    }
    let mut parameters = Fields::of(algorithm.value(Tag::Sequence)?)?;
    let mut derivation = Fields::of(parameters.value(Tag::Sequence)?)?;
    let mut encryption = Fields::of(parameters.value(Tag::Sequence)?)?;
    let is_pbkdf2 = derivation.value(Tag::ObjectIdentifier)? == oid(PBKDF2).as_bytes();
    let mut derivation = Fields::of(derivation.value(Tag::Sequence)?)?;
    let salt = derivation.value(Tag::OctetString)?;
    let iterates_once = derivation.value(Tag::Integer)? == [1];
    let is_aes = encryption.value(Tag::ObjectIdentifier)? == oid(AES256_CBC).as_bytes();
    // NSS takes the vector with the header of its field: 14 bytes behind two.
    let vector = encryption.whole(Tag::OctetString)?;
    let (Ok(text), Ok(vector)) = (
        <[u8; BLOCK_BYTES]>::try_from(text),
        <[u8; BLOCK_BYTES]>::try_from(vector),
    ) else {
        return Ok(false);
    };
    if !(is_pbkdf2 && iterates_once && is_aes) {
        return Ok(false);
    }
    let mut block = Array::from(text);
    Aes256::new(&Array::from(derived(key, salt))).decrypt_block(&mut block);
    let padding = BLOCK_BYTES - CHECK.len();
    let plain: Vec<u8> = block
        .iter()
        .zip(vector)
        .map(|(one, two)| one ^ two)
        .collect();
    Ok(plain.starts_with(CHECK)
        && plain[CHECK.len()..]
            .iter()
            .all(|byte| usize::from(*byte) == padding))
}

/// PBKDF2 with HMAC-SHA256, a single iteration and as many bytes as one hash (RFC 8018, 5.2).
fn derived(key: &[u8], salt: &[u8]) -> [u8; KEY_BYTES as usize] {
    hmac(key, &[salt, &1_u32.to_be_bytes()])
}

fn signature(key: &[u8], id: Id, attribute: Attribute, value: &[u8]) -> Result<Vec<u8>, Damaged> {
    let (id, attribute) = (id.to_be_bytes(), attribute.to_be_bytes());
    // Nothing secret hangs on it with an empty password, and so a further boot finds what it would write.
    let salt = hmac(key, &[b"msb", &id, &attribute, value]);
    let mac = hmac(&derived(key, &salt), &[&id, &attribute, value]);

    let hash = tlv(Tag::Sequence, &encoded(HMAC_SHA256)?)?;
    let derivation = [
        tlv(Tag::OctetString, &salt)?,
        tlv(Tag::Integer, &[1])?,
        tlv(Tag::Integer, &[KEY_BYTES])?,
        hash.clone(),
    ];
    let derivation = [encoded(PBKDF2)?, tlv(Tag::Sequence, &derivation.concat())?];
    let parameters = [tlv(Tag::Sequence, &derivation.concat())?, hash];
    let algorithm = [encoded(PBMAC1)?, tlv(Tag::Sequence, &parameters.concat())?];
    let whole = [
        tlv(Tag::Sequence, &algorithm.concat())?,
        tlv(Tag::OctetString, &mac)?,
    ];
    tlv(Tag::Sequence, &whole.concat())
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; KEY_BYTES as usize] {
    let mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key);
    let mut mac = mac.expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}
