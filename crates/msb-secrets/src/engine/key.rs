//! What is searched for, in one place.

use std::cmp::Ordering;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use zeroize::Zeroizing;

/// A needle. It may be a value, so clones share the one copy that there is, which is wiped with the last of them.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Key(Arc<Zeroizing<Box<[u8]>>>);

impl Deref for Key {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        (**self).cmp(&**other)
    }
}

impl From<&[u8]> for Key {
    fn from(bytes: &[u8]) -> Self {
        Self(Arc::new(Zeroizing::new(bytes.into())))
    }
}

/// Takes the bytes over; they are not copied if nothing is reserved behind them.
impl From<Zeroizing<Vec<u8>>> for Key {
    fn from(mut bytes: Zeroizing<Vec<u8>>) -> Self {
        if bytes.capacity() > bytes.len() {
            // Shrinking may move them and leave what was there.
            return Self::from(&**bytes);
        }
        Self(Arc::new(Zeroizing::new(
            std::mem::take(&mut *bytes).into_boxed_slice(),
        )))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} bytes]", self.len())
    }
}
