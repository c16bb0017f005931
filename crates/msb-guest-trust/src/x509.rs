//! The parts of a certificate by which stores file it (RFC 5280, 4.1).

use der::asn1::AnyRef;
use der::{Decode, SliceReader, Tag, Tagged};

/// Parts of one certificate.
pub(crate) struct Parts<'a> {
    /// An INTEGER.
    pub(crate) serial: AnyRef<'a>,
    /// A SEQUENCE, as the subject is.
    pub(crate) issuer: AnyRef<'a>,
    pub(crate) subject: AnyRef<'a>,
    behind_subject: SliceReader<'a>,
}

impl<'a> Parts<'a> {
    /// Reads as far as the subject.
    ///
    /// # Errors
    /// The bytes are not one certificate, as far as the subject.
    pub(crate) fn of(certificate: &'a [u8]) -> der::Result<Self> {
        let whole = AnyRef::from_der(certificate)?;
        whole.tag().assert_eq(Tag::Sequence)?;
        let mut fields = SliceReader::new(whole.value())?;
        let signed = field(&mut fields, Tag::Sequence)?;

        let mut fields = SliceReader::new(signed.value())?;
        let version_or_serial = AnyRef::decode(&mut fields)?;
        let serial = if version_or_serial.tag().is_context_specific() {
            AnyRef::decode(&mut fields)?
        } else {
            version_or_serial
        };
        serial.tag().assert_eq(Tag::Integer)?;
        let _algorithm = field(&mut fields, Tag::Sequence)?;
        let issuer = field(&mut fields, Tag::Sequence)?;
        let _validity = field(&mut fields, Tag::Sequence)?;
        let subject = field(&mut fields, Tag::Sequence)?;
        Ok(Self {
            serial,
            issuer,
            subject,
            behind_subject: fields,
        })
    }

    /// The public key: what is in its BIT STRING.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn key(&self) -> der::Result<&'a [u8]> {
        let info = field(&mut self.behind_subject.clone(), Tag::Sequence)?;
        let mut fields = SliceReader::new(info.value())?;
        let _algorithm = field(&mut fields, Tag::Sequence)?;
        let bits = field(&mut fields, Tag::BitString)?;
        match bits.value() {
            [0, key @ ..] => Ok(key),
            _ => Err(Tag::BitString.value_error().into()),
        }
    }
}

fn field<'a>(fields: &mut SliceReader<'a>, tag: Tag) -> der::Result<AnyRef<'a>> {
    let field = AnyRef::decode(fields)?;
    field.tag().assert_eq(tag)?;
    Ok(field)
}
