//! The real value of a secret, readable only with a grant.

use std::fmt;

use msb_policy::{InjectGrant, SecretId};
use zeroize::Zeroizing;

use crate::engine::Key;

/// A real value. It is wiped when dropped, cannot be formatted, serialised, compared or cloned, and is read with
/// [`expose`](Self::expose) only, which asks for the policy's grant.
#[expect(
    missing_debug_implementations,
    reason = "formatting a value must not compile"
)]
pub struct SecretValue {
    id: SecretId,
    bytes: Key,
}

impl SecretValue {
    pub(crate) fn new(id: SecretId, mut text: Zeroizing<String>) -> Self {
        let bytes = Zeroizing::new(std::mem::take(&mut *text).into_bytes());
        Self {
            id,
            bytes: bytes.into(),
        }
    }

    /// For this crate's own search for it, which shows it to nobody.
    pub(crate) fn key(&self) -> &Key {
        &self.bytes
    }

    /// The value's bytes, if the grant is for this secret.
    #[must_use]
    pub fn expose(&self, grant: &InjectGrant) -> Option<&[u8]> {
        (grant.secret() == self.id).then_some(&*self.bytes)
    }
}

/// A value that the builder holds before there is a secret; `Debug` shows that there is one and no more.
#[derive(Default)]
pub(crate) struct PendingValue(pub(crate) Option<Zeroizing<String>>);

impl fmt::Debug for PendingValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() {
            "[redacted]"
        } else {
            "None"
        })
    }
}
