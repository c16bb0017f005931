//! The hash of a certificate's subject by which OpenSSL finds it in a directory, as `openssl x509 -subject_hash`.
//!
//! It is the first four bytes, little-endian, of the SHA-1 of the subject in a canonical encoding of OpenSSL's own
//! (`x509_name_canon` in `crypto/x509/x_name.c`): every string is made UTF-8, ASCII letters become lower case, spaces
//! are trimmed and runs of them made one, and the outer SEQUENCE header is left out.

use der::asn1::AnyRef;
use der::{Decode, Encode, Reader, SliceReader, Tag, Tagged};
use sha1::{Digest, Sha1};

use crate::asn1::tlv;

/// The hash of a subject, the value of its SEQUENCE. `None` if a string in it is not valid in its own encoding.
pub(crate) fn hash(subject: &[u8]) -> Option<u32> {
    let digest = Sha1::digest(canonical(subject)?);
    Some(u32::from_le_bytes([
        digest[0], digest[1], digest[2], digest[3],
    ]))
}

fn canonical(subject: &[u8]) -> Option<Vec<u8>> {
    let mut encoded = Vec::new();
    let mut names = SliceReader::new(subject).ok()?;
    while !names.is_finished() {
        let set = AnyRef::decode(&mut names).ok()?;
        let mut attributes = Vec::new();
        let mut members = SliceReader::new(set.value()).ok()?;
        while !members.is_finished() {
            let attribute = AnyRef::decode(&mut members).ok()?;
            attributes.push(canonical_attribute(attribute)?);
        }
        // Making strings canonical can change the order that DER asks of a set.
        attributes.sort();
        encoded.extend(tlv(Tag::Set, &attributes.concat()).ok()?);
    }
    Some(encoded)
}

fn canonical_attribute(attribute: AnyRef<'_>) -> Option<Vec<u8>> {
    let mut fields = SliceReader::new(attribute.value()).ok()?;
    let kind = AnyRef::decode(&mut fields).ok()?;
    let value = AnyRef::decode(&mut fields).ok()?;
    let mut content = kind.to_der().ok()?;
    match text(value)? {
        Text::String(string) => content.extend(tlv(Tag::Utf8String, &fold(&string)).ok()?),
        Text::Other => content.extend(value.to_der().ok()?),
    }
    tlv(Tag::Sequence, &content).ok()
}

enum Text {
    String(String),
    Other,
}

/// Reads the string types of OpenSSL's `ASN1_MASK_CANON`. It takes the one-byte types as Latin-1, whatever they say.
/// UniversalString is missing: the reader does not know it, and no authority uses it.
fn text(value: AnyRef<'_>) -> Option<Text> {
    let bytes = value.value();
    let string = match value.tag() {
        Tag::Utf8String => String::from_utf8(bytes.to_vec()).ok()?,
        Tag::PrintableString | Tag::TeletexString | Tag::Ia5String | Tag::VisibleString => {
            bytes.iter().copied().map(char::from).collect()
        }
        Tag::BmpString => two_byte_characters(bytes)?,
        _ => return Some(Text::Other),
    };
    Some(Text::String(string))
}

pub(crate) fn two_byte_characters(bytes: &[u8]) -> Option<String> {
    let (units, rest) = bytes.as_chunks();
    if !rest.is_empty() {
        return None;
    }
    units
        .iter()
        .map(|unit| char::from_u32(u16::from_be_bytes(*unit).into()))
        .collect()
}

fn fold(string: &str) -> Vec<u8> {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r');
    string
        .as_bytes()
        .split(is_space)
        .filter(|word| !word.is_empty())
        .map(<[u8]>::to_ascii_lowercase)
        .collect::<Vec<_>>()
        .join(&b' ')
}
