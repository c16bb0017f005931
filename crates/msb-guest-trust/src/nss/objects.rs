//! Objects of PKCS#11 as rows of `nssPublic`: an authority's certificate, and what it is trusted for.
//!
//! A column `a<type in hexadecimal>` holds an attribute as a blob; numbers are four bytes, big-endian.

use std::fmt::Write as _;

use der::Encode;
use rusqlite::params_from_iter;
use rusqlite::types::ValueRef;
use sha1::{Digest, Sha1};

use super::database::{Database, Id, Trouble};
use crate::asn1::Damaged;
use crate::certificate::{CaCertificate, is_entry_name};
use crate::places::FILE_PREFIX;
use crate::x509::Parts;

/// The type of an attribute.
pub(super) type Attribute = u32;

const CLASS: Attribute = 0x0;
const TOKEN: Attribute = 0x1;
const PRIVATE: Attribute = 0x2;
const LABEL: Attribute = 0x3;
const VALUE: Attribute = 0x11;
const CERTIFICATE_TYPE: Attribute = 0x80;
const ISSUER: Attribute = 0x81;
const SERIAL_NUMBER: Attribute = 0x82;
const SUBJECT: Attribute = 0x101;
const KEY_ID: Attribute = 0x102;
const MODIFIABLE: Attribute = 0x170;
/// The first of those that NSS added to PKCS#11.
const NSS: Attribute = 0xce53_4350;
const TRUST_SERVER_AUTH: Attribute = NSS + 0x2008;
const TRUST_CLIENT_AUTH: Attribute = NSS + 0x2009;
const TRUST_CODE_SIGNING: Attribute = NSS + 0x200a;
const TRUST_EMAIL_PROTECTION: Attribute = NSS + 0x200b;
const TRUST_STEP_UP_APPROVED: Attribute = NSS + 0x2010;
const CERT_SHA1_HASH: Attribute = NSS + 0x2064;

/// What NSS has signed of what is written here.
const SIGNED: &[Attribute] = &[
    TRUST_SERVER_AUTH,
    TRUST_CLIENT_AUTH,
    TRUST_CODE_SIGNING,
    TRUST_EMAIL_PROTECTION,
    TRUST_STEP_UP_APPROVED,
    CERT_SHA1_HASH,
];

/// All that is written here, in the order of the columns.
const COLUMNS: &[Attribute] = &[
    CLASS,
    TOKEN,
    PRIVATE,
    LABEL,
    VALUE,
    CERTIFICATE_TYPE,
    ISSUER,
    SERIAL_NUMBER,
    SUBJECT,
    KEY_ID,
    MODIFIABLE,
    TRUST_SERVER_AUTH,
    TRUST_CLIENT_AUTH,
    TRUST_CODE_SIGNING,
    TRUST_EMAIL_PROTECTION,
    TRUST_STEP_UP_APPROVED,
    CERT_SHA1_HASH,
];

const CERTIFICATE: u32 = 1;
const TRUST: u32 = NSS + 3;
const X509: u32 = 0;
const TRUSTED_DELEGATOR: u32 = NSS + 2;
const MUST_VERIFY: u32 = NSS + 3;
/// It may sign, but is not trusted to.
const VALID_DELEGATOR: u32 = NSS + 0xb;

const TRUE: &[u8] = &[1];
const FALSE: &[u8] = &[0];

/// What the highest two bits of a handle say is not part of an object's number.
const ID_MASK: Id = 0x3fff_ffff;
/// More are taken in a row only in a database that somebody made for that.
const MAX_TRIES: usize = 1000;

/// What is in a row, in the order of [`COLUMNS`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Object(Vec<(Attribute, Vec<u8>)>);

impl Object {
    fn new(mut attributes: Vec<(Attribute, Vec<u8>)>) -> Self {
        attributes.sort_by_key(|(attribute, _)| COLUMNS.iter().position(|of| of == attribute));
        Self(attributes)
    }

    /// The attributes that NSS takes only with a signature.
    pub(super) fn signed(&self) -> impl Iterator<Item = (Attribute, &[u8])> {
        let all = self.0.iter();
        all.filter(|(attribute, _)| SIGNED.contains(attribute))
            .map(|(attribute, value)| (*attribute, value.as_slice()))
    }

    fn value(&self, attribute: Attribute) -> &[u8] {
        let found = self.0.iter().find(|(of, _)| *of == attribute);
        found.map_or(&[], |(_, value)| value)
    }
}

/// What is to be in the database for an authority, each with the number to begin with where one is looked for.
pub(super) fn of(ca: &CaCertificate) -> Result<[(Id, Object); 2], Damaged> {
    let parts = Parts::of(ca.der()).map_err(|_| Damaged)?;
    let key = parts.key().map_err(|_| Damaged)?;
    let [issuer, serial, subject] =
        [parts.issuer, parts.serial, parts.subject].map(|part| part.to_der());
    let (Ok(issuer), Ok(serial), Ok(subject)) = (issuer, serial, subject) else {
        return Err(Damaged);
    };
    let number = |value: u32| value.to_be_bytes().to_vec();
    let common = |class: u32| {
        vec![
            (CLASS, number(class)),
            (TOKEN, TRUE.to_vec()),
            (PRIVATE, FALSE.to_vec()),
            (LABEL, ca.entry_name().into_bytes()),
            (ISSUER, issuer.clone()),
            (SERIAL_NUMBER, serial.clone()),
            (MODIFIABLE, TRUE.to_vec()),
        ]
    };
    let mut certificate = common(CERTIFICATE);
    certificate.extend([
        (VALUE, ca.der().to_vec()),
        (CERTIFICATE_TYPE, number(X509)),
        (SUBJECT, subject),
        (KEY_ID, Sha1::digest(key).to_vec()),
    ]);
    // The MD5 of the certificate, which NSS writes too, is read by nothing.
    let mut trust = common(TRUST);
    trust.extend([
        (TRUST_SERVER_AUTH, number(TRUSTED_DELEGATOR)),
        (TRUST_CLIENT_AUTH, number(VALID_DELEGATOR)),
        (TRUST_CODE_SIGNING, number(MUST_VERIFY)),
        (TRUST_EMAIL_PROTECTION, number(MUST_VERIFY)),
        (TRUST_STEP_UP_APPROVED, FALSE.to_vec()),
        (CERT_SHA1_HASH, Sha1::digest(ca.der()).to_vec()),
    ]);
    let [first, second, third, fourth, ..] = *ca.fingerprint_bytes();
    let id = Id::from_be_bytes([first, second, third, fourth]);
    Ok([
        (id, Object::new(certificate)),
        (id.wrapping_add(1), Object::new(trust)),
    ])
}

/// What was put there at a former boot, with its number.
pub(super) fn ours(database: &Database) -> Result<Vec<(Id, Object)>, Trouble> {
    let sql = format!(
        "SELECT id{} FROM nssPublic WHERE a{LABEL:x} >= ?1 AND a{LABEL:x} < ?2 ORDER BY id",
        names(COLUMNS)
    );
    let from = FILE_PREFIX.as_bytes();
    let to = [from, &[u8::MAX]].concat();
    let rows = database.select(&sql, [from, &to], |row| {
        let mut attributes = Vec::new();
        for (index, attribute) in COLUMNS.iter().enumerate() {
            if let ValueRef::Blob(value) = row.get_ref(index + 1)? {
                attributes.push((*attribute, value.to_vec()));
            }
        }
        let id: i64 = row.get(0)?;
        Ok((id, Object::new(attributes)))
    })?;
    let ours = rows.into_iter().filter_map(|(id, object)| {
        let label = std::str::from_utf8(object.value(LABEL)).ok()?;
        is_entry_name(label).then_some((Id::try_from(id).ok()?, object))
    });
    Ok(ours.collect())
}

/// Whether somebody else has put there what is known by the same issuer and number.
pub(super) fn has_of_others(database: &Database, object: &Object) -> Result<bool, Trouble> {
    let sql = format!(
        "SELECT a{LABEL:x} FROM nssPublic WHERE a{ISSUER:x} = ?1 AND a{SERIAL_NUMBER:x} = ?2 AND a{CLASS:x} = ?3"
    );
    let same = [ISSUER, SERIAL_NUMBER, CLASS].map(|attribute| object.value(attribute));
    let labels = database.select(&sql, same, |row| {
        let label = row.get_ref(0)?.as_blob_or_null();
        Ok(label.ok().flatten().map(<[u8]>::to_vec))
    })?;
    let is_ours = |label: &Option<Vec<u8>>| {
        let label = label.as_deref().map(std::str::from_utf8);
        matches!(label, Some(Ok(label)) if is_entry_name(label))
    };
    Ok(!labels.iter().all(is_ours))
}

pub(super) fn remove(database: &mut Database, id: Id) -> Result<(), Trouble> {
    database.execute("DELETE FROM nssPublic WHERE id = ?1", [id])
}

/// Puts the object where no other is, and returns its number.
pub(super) fn insert(database: &mut Database, first: Id, object: &Object) -> Result<Id, Trouble> {
    let id = free_id(database, first)?;
    let attributes: Vec<_> = object.0.iter().map(|(of, _)| *of).collect();
    let places: String = attributes.iter().map(|_| ", ?").collect();
    let sql = format!(
        "INSERT INTO nssPublic (id{}) VALUES ({id}{places})",
        names(&attributes)
    );
    let values = object.0.iter().map(|(_, value)| value);
    database.execute(&sql, params_from_iter(values))?;
    Ok(id)
}

fn free_id(database: &Database, first: Id) -> Result<Id, Trouble> {
    let ids = (0..).map(|step| first.wrapping_add(step) & ID_MASK);
    for id in ids.filter(|id| *id != 0).take(MAX_TRIES) {
        if !database.has("SELECT 1 FROM nssPublic WHERE id = ?1", [id])? {
            return Ok(id);
        }
    }
    Err(Trouble::Reason("it has no room for another object"))
}

fn names(attributes: &[Attribute]) -> String {
    let mut names = String::new();
    for attribute in attributes {
        let _ = write!(names, ", a{attribute:x}");
    }
    names
}
