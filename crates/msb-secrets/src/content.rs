//! What a body is made of, and how a value is written into it.

use zeroize::Zeroizing;

use crate::Form;
use crate::engine::{Escape, Found};

/// What a body is made of, as its `Content-Type` says. Decides how values are escaped in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BodyKind {
    /// JSON, also as lines of it: values are written as parts of JSON strings.
    Json,
    /// `application/x-www-form-urlencoded`: values are percent-encoded.
    Form,
    /// `multipart/*`: values are written as they are.
    Multipart,
    /// Other text: values are written as they are.
    Text,
    /// Anything else, and what has no type: values are written as they are.
    Other,
}

impl BodyKind {
    /// The kind for the value of a `Content-Type` header (RFC 9110, section 8.3); parameters do not count.
    ///
    /// Whatever is not known, or is not a media type at all, is [`Other`](Self::Other).
    #[must_use]
    pub fn of_content_type(value: &[u8]) -> Self {
        let essence = value.split(|byte| *byte == b';').next().unwrap_or_default();
        let essence = essence.trim_ascii().to_ascii_lowercase();
        let Some(slash) = essence.iter().position(|byte| *byte == b'/') else {
            return Self::Other;
        };
        let (family, subtype) = (&essence[..slash], &essence[slash + 1..]);
        match (family, subtype) {
            (b"application", b"x-www-form-urlencoded") => Self::Form,
            (b"application" | b"text", b"json" | b"x-json") => Self::Json,
            (
                b"application",
                b"x-ndjson" | b"ndjson" | b"jsonl" | b"json-seq" | b"jsonlines" | b"x-jsonlines",
            ) => Self::Json,
            (_, subtype) if subtype.ends_with(b"+json") => Self::Json,
            (b"multipart", _) => Self::Multipart,
            (b"text", _) => Self::Text,
            (
                b"application",
                b"xml" | b"javascript" | b"ecmascript" | b"graphql" | b"yaml" | b"x-yaml" | b"toml"
                | b"sql" | b"x-sh",
            ) => Self::Text,
            (_, subtype) if subtype.ends_with(b"+xml") || subtype.ends_with(b"+yaml") => Self::Text,
            _ => Self::Other,
        }
    }

    /// Whether a reader would take the body for text, so that its length may change.
    #[must_use]
    pub fn is_text(self) -> bool {
        matches!(self, Self::Json | Self::Form | Self::Text)
    }

    pub(crate) fn style(self) -> Style {
        match self {
            Self::Json => Style::Json,
            Self::Form => Style::Percent,
            Self::Multipart | Self::Text | Self::Other => Style::Raw,
        }
    }
}

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Raw,
    Json,
    Percent,
}

impl Style {
    /// Whether what was found stands for `placeholder` to a reader of this style.
    pub(crate) fn reads(self, found: &Found, placeholder: &str) -> bool {
        match (self, found.form) {
            (Self::Json, Form::Json) => found.escape != Escape::Letter,
            // Written as it is, what JSON would escape is something else to its readers.
            (Self::Json, Form::Raw) => {
                let plain = |byte| self.written_len(byte) == 1;
                found.escape != Escape::Letter && placeholder.bytes().all(plain)
            }
            (Self::Raw | Self::Percent, Form::Raw) | (Self::Percent, Form::Percent) => true,
            _ => false,
        }
    }

    /// The text as it is written. In one allocation: a growing one would leave copies behind.
    pub(crate) fn write(self, text: &[u8]) -> Zeroizing<Vec<u8>> {
        const HEX: &[u8; 16] = b"0123456789ABCDEF";
        let len = text.iter().map(|byte| self.written_len(*byte)).sum();
        let mut written = Zeroizing::new(Vec::with_capacity(len));
        for byte in text {
            let (high, low) = (HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]);
            match (self, self.written_len(*byte)) {
                (_, 1) => written.push(*byte),
                (Self::Percent, _) => written.extend([b'%', high, low]),
                (_, 2) => written.extend([b'\\', *byte]),
                _ => written.extend([b'\\', b'u', b'0', b'0', high, low]),
            }
        }
        written
    }

    /// RFC 8259, section 7, and RFC 3986, section 2.3.
    fn written_len(self, byte: u8) -> usize {
        match (self, byte) {
            (Self::Raw, _) => 1,
            (Self::Json, b'"' | b'\\') => 2,
            (Self::Json, 0..0x20) => 6,
            (Self::Json, _) => 1,
            (Self::Percent, b'-' | b'.' | b'_' | b'~') => 1,
            (Self::Percent, byte) if byte.is_ascii_alphanumeric() => 1,
            (Self::Percent, _) => 3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(content_type: &str, expected: BodyKind) {
        assert_eq!(
            BodyKind::of_content_type(content_type.as_bytes()),
            expected,
            "{content_type}"
        );
    }

    #[test]
    fn kinds_are_read_from_the_content_type() {
        check("application/json", BodyKind::Json);
        check(" Application/JSON ; charset=utf-8", BodyKind::Json);
        check("application/vnd.api+json", BodyKind::Json);
        check("application/x-ndjson", BodyKind::Json);
        check("application/x-www-form-urlencoded", BodyKind::Form);
        check("multipart/form-data; boundary=x", BodyKind::Multipart);
        check("text/event-stream", BodyKind::Text);
        check("image/svg+xml", BodyKind::Text);
        check("application/xml", BodyKind::Text);
        check("application/vnd.oai.openapi+yaml", BodyKind::Text);
        for other in [
            "",
            "json",
            "application/octet-stream",
            "application/grpc",
            "x/",
            "/json",
            "image/png; +json",
        ] {
            check(other, BodyKind::Other);
        }
    }

    #[test]
    fn text_kinds_are_those_whose_length_may_change() {
        assert!(
            [BodyKind::Json, BodyKind::Form, BodyKind::Text]
                .into_iter()
                .all(BodyKind::is_text)
        );
        assert!(
            ![BodyKind::Multipart, BodyKind::Other]
                .into_iter()
                .any(BodyKind::is_text)
        );
    }

    /// An obvious decoder for what `Style::write` writes.
    fn decode_percent(text: &[u8]) -> Vec<u8> {
        let (mut decoded, mut rest) = (Vec::new(), text);
        while let Some((byte, after)) = rest.split_first() {
            if *byte == b'%' {
                let hex = std::str::from_utf8(&after[..2]).unwrap();
                decoded.push(u8::from_str_radix(hex, 16).unwrap());
                rest = &after[2..];
            } else {
                decoded.push(*byte);
                rest = after;
            }
        }
        decoded
    }

    proptest! {
        #[test]
        fn json_strings_read_back(text in any::<String>()) {
            let written = Style::Json.write(text.as_bytes());
            let quoted = format!("\"{}\"", std::str::from_utf8(&written).unwrap());
            prop_assert_eq!(serde_json::from_str::<String>(&quoted).unwrap(), text);
            prop_assert_eq!(written.capacity(), written.len());
        }

        #[test]
        fn percent_encoding_reads_back_and_is_unreserved(text in proptest::collection::vec(any::<u8>(), 0..40)) {
            let written = Style::Percent.write(&text);
            prop_assert_eq!(decode_percent(&written), text);
            prop_assert!(written.iter().all(|b| b.is_ascii_alphanumeric() || b"-._~%".contains(b)));
        }

        #[test]
        fn raw_is_as_it_is(text in proptest::collection::vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(&**Style::Raw.write(&text), &text[..]);
        }
    }
}
