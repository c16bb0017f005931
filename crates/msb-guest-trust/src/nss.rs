//! Databases of NSS, which Firefox, Thunderbird and Chromium read: what they become. Pure: bytes in, bytes out.
//!
//! A store is two files of SQLite in one directory. `cert9.db` has a row for each object: a certificate, and another that
//! says what it is trusted for. `key4.db` has, besides keys, an HMAC over each attribute of the latter, keyed by the
//! store's password. NSS checks it as soon as it knows the password, which it always does if that is empty, so whoever
//! does not know the password cannot make anything trusted.
//!
//! Rows of others keep their bytes. What is written is what NSS's own `certutil -A -t C,,` writes.

mod database;
mod keys;
mod objects;

use database::{Database, Id, Trouble};
use keys::Keys;
use objects::Object;

use crate::certificate::CaCertificate;
use crate::error::Reason;

const OTHER_PASSWORD: Reason = "its password is not empty";

/// What becomes of the two files. `None` if one stays as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Edited {
    pub(crate) certificates: Option<Vec<u8>>,
    pub(crate) keys: Option<Vec<u8>>,
}

/// The store with objects of former boots taken out, and those for each authority that it then lacks.
///
/// Doing it again changes nothing.
///
/// # Errors
/// It is damaged, has a password, or is not as NSS makes it.
pub(crate) fn with_authorities(
    certificates: &[u8],
    keys: Option<&[u8]>,
    cas: &[CaCertificate],
) -> Result<Edited, Reason> {
    edit(certificates, keys, cas).map_err(Reason::from)
}

fn edit(
    certificates: &[u8],
    keys: Option<&[u8]>,
    cas: &[CaCertificate],
) -> Result<Edited, Trouble> {
    let mut certificates = Database::open(certificates, &["nssPublic"])?;
    let mut keys = Keys::open(keys)?;
    let mut wanted: Vec<(Id, Object)> = Vec::new();
    for ca in cas {
        for (first, object) in objects::of(ca)? {
            let known = wanted.iter().any(|(_, known)| *known == object);
            // What others say of an authority counts.
            if !known && !objects::has_of_others(&certificates, &object)? {
                wanted.push((first, object));
            }
        }
    }
    let mut kept: Vec<(Id, Object)> = Vec::new();
    for (id, object) in objects::ours(&certificates)? {
        let again = kept.iter().any(|(_, kept)| *kept == object);
        if !again && wanted.iter().any(|(_, wanted)| *wanted == object) {
            kept.push((id, object));
        } else {
            objects::remove(&mut certificates, id)?;
            keys.remove(id)?;
        }
    }
    for (first, object) in &wanted {
        let id = match kept.iter().find(|(_, kept)| kept == object) {
            Some((id, _)) => *id,
            None => objects::insert(&mut certificates, *first, object)?,
        };
        for (attribute, value) in object.signed() {
            keys.sign(id, attribute, value)?;
        }
    }
    Ok(Edited {
        certificates: certificates.changed()?,
        keys: keys.changed()?,
    })
}
