//! Key stores of Java: which entries are ours, and what a store becomes. Pure: bytes in, bytes out.
//!
//! A store is edited and not made anew, so entries of others keep their bytes, their order and whatever else they say,
//! and taking ours out leaves what was there before.

mod jks;
mod pkcs12;

use crate::certificate::{CaCertificate, is_entry_name};
use crate::error::Reason;

/// What every Java is delivered with, and what everyone leaves as it is: the store holds nothing secret.
const PASSWORD: &str = "changeit";

const OTHER_PASSWORD: Reason = "its password is not `changeit`";

/// The store with the entries of former boots taken out and one for each authority that it then lacks.
///
/// # Errors
/// It is of another kind, damaged, or has another password.
pub(crate) fn with_entries(store: &[u8], cas: &[CaCertificate]) -> Result<Vec<u8>, Reason> {
    match store {
        [0xfe, 0xed, 0xfe, 0xed, ..] => jks::with_entries(store, cas),
        [0x30, ..] => pkcs12::with_entries(store, cas),
        _ => Err("it is neither a JKS nor a PKCS#12 key store"),
    }
}

/// Whether an entry of this name was made here, or by Debian's hook out of an anchor that was.
fn is_our_alias(alias: &str) -> bool {
    let name = alias.strip_prefix("debian:").unwrap_or(alias);
    is_entry_name(name.strip_suffix(".pem").unwrap_or(name))
}

#[cfg(test)]
mod tests;
