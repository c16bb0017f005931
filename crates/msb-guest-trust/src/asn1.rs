//! Fields of DER, read one after another and written by hand, for formats that are edited rather than made anew.

use der::asn1::{AnyRef, ObjectIdentifier};
use der::{Decode, Encode, Header, Length, Reader as _, SliceReader, Tag, TagNumber, Tagged};

use crate::error::Reason;

/// Bytes that are not in DER, or not of the structure they should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Damaged;

impl From<Damaged> for Reason {
    fn from(_: Damaged) -> Self {
        "it is damaged, or not in DER"
    }
}

/// `[0]`, constructed.
pub(crate) const EXPLICIT: Tag = Tag::ContextSpecific {
    constructed: true,
    number: TagNumber(0),
};

/// The fields of a sequence or set, one after another.
pub(crate) struct Fields<'a>(SliceReader<'a>);

impl<'a> Fields<'a> {
    pub(crate) fn of(value: &'a [u8]) -> Result<Self, Damaged> {
        SliceReader::new(value).map(Self).map_err(|_| Damaged)
    }

    /// The next field, or nothing at the end.
    pub(crate) fn optional(&mut self) -> Result<Option<AnyRef<'a>>, Damaged> {
        if self.0.is_finished() {
            return Ok(None);
        }
        AnyRef::decode(&mut self.0).map(Some).map_err(|_| Damaged)
    }

    /// The value of the next field, which has this tag.
    pub(crate) fn value(&mut self, tag: Tag) -> Result<&'a [u8], Damaged> {
        match self.optional()? {
            Some(field) if field.tag() == tag => Ok(field.value()),
            _ => Err(Damaged),
        }
    }

    /// The next field with its header, if it has this tag.
    pub(crate) fn whole(&mut self, tag: Tag) -> Result<Vec<u8>, Damaged> {
        let value = self.value(tag)?;
        tlv(tag, value)
    }
}

/// The value of bytes that are one field and nothing more.
pub(crate) fn one(bytes: &[u8], tag: Tag) -> Result<&[u8], Damaged> {
    let mut fields = Fields::of(bytes)?;
    let value = fields.value(tag)?;
    match fields.optional()? {
        None => Ok(value),
        Some(_) => Err(Damaged),
    }
}

/// One field of this tag and value.
pub(crate) fn tlv(tag: Tag, value: &[u8]) -> Result<Vec<u8>, Damaged> {
    let len = Length::try_from(value.len()).map_err(|_| Damaged)?;
    let mut encoded = Header::new(tag, len).to_der().map_err(|_| Damaged)?;
    encoded.extend_from_slice(value);
    Ok(encoded)
}

pub(crate) fn oid(text: &'static str) -> ObjectIdentifier {
    ObjectIdentifier::new_unwrap(text)
}

/// An object identifier with its header.
pub(crate) fn encoded(identifier: &'static str) -> Result<Vec<u8>, Damaged> {
    oid(identifier).to_der().map_err(|_| Damaged)
}
