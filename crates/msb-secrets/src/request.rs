//! Rewriting one request: its header values, trailers, target and body.

use std::fmt;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use smallvec::SmallVec;
use zeroize::Zeroizing;

use crate::content::Style;
use crate::engine::{Cursor, Hay, Search};
use crate::judge::Judge;
use crate::set::Entry;
use crate::{BodyKind, Form, Location, Note, StreamRewriter, Violation};

/// Rewrites one request on an intercepted connection.
///
/// Feed it every header and trailer value, the target and the body before any of them goes upstream: the first
/// violation means that nothing of the request may. The order of the calls does not matter.
#[derive(Debug)]
pub struct RequestRewriter {
    judge: Judge,
}

impl RequestRewriter {
    pub(crate) fn new(judge: Judge) -> Self {
        Self { judge }
    }

    /// Rewrites a header value; `None` means that it stays as it is.
    ///
    /// `name` is compared without regard to case. Values are bytes, as on the wire, and need not be UTF-8. Framing and
    /// identity headers (`Host`, `Content-Length`, `Connection`, pseudo-headers and the like) are searched but never
    /// rewritten.
    ///
    /// # Errors
    /// A placeholder of a secret that may not go to this host.
    pub fn header_value(
        &mut self,
        name: &str,
        value: &[u8],
    ) -> Result<Option<Rewritten>, Violation> {
        self.field(name, value, || Location::header(name))
    }

    /// Rewrites a trailer value; as [`header_value`](Self::header_value).
    ///
    /// # Errors
    /// As there.
    pub fn trailer_value(
        &mut self,
        name: &str,
        value: &[u8],
    ) -> Result<Option<Rewritten>, Violation> {
        self.field(name, value, || Location::trailer(name))
    }

    /// Searches the request target: path and query, or any other form of it. Nothing is written into it.
    ///
    /// # Errors
    /// As [`header_value`](Self::header_value).
    pub fn target(&mut self, path_and_query: &str) -> Result<(), Violation> {
        self.rewrite_in_target(path_and_query, |_| false)
            .map(|_| ())
    }

    /// Rewrites the request target: path and query, or any other form of it; `None` means that it stays as it is.
    ///
    /// In the query, raw and percent-encoded placeholders of secrets that are injected there are replaced by the
    /// percent-encoded value. The path is searched and never rewritten.
    ///
    /// # Errors
    /// As [`header_value`](Self::header_value).
    pub fn rewrite_target(&mut self, path_and_query: &str) -> Result<Option<Rewritten>, Violation> {
        self.rewrite_in_target(path_and_query, |secret| secret.scopes.query)
            .map(|rewritten| rewritten.map(Rewritten::new))
    }

    /// What searches the body of this request. Nothing is written into it.
    #[must_use]
    pub fn body(&self) -> StreamRewriter {
        StreamRewriter::new(self.judge.another(), Location::Body, None)
    }

    /// What rewrites the body of this request, decoded of any content coding.
    ///
    /// Placeholders of secrets that are injected in bodies are replaced by the value, escaped for the kind: where they
    /// stand raw, with escapes in JSON, and percent-encoded in forms.
    #[must_use]
    pub fn rewrite_body(&self, kind: BodyKind) -> StreamRewriter {
        StreamRewriter::new(self.judge.another(), Location::Body, Some(kind.style()))
    }

    /// Whether a value was written into the head or the trailers; the body's rewriter answers for itself.
    #[must_use]
    pub fn wrote_secret(&self) -> bool {
        self.judge.wrote()
    }

    /// Takes the notes made so far; the body's are its own.
    pub fn take_notes(&mut self) -> Vec<Note> {
        self.judge.take_notes()
    }

    fn field(
        &mut self,
        name: &str,
        value: &[u8],
        location: impl Fn() -> Location,
    ) -> Result<Option<Rewritten>, Violation> {
        let kind = FieldKind::of(name);
        let injects = |secret: &Entry, _: usize| kind.injects(secret);
        if kind == FieldKind::Credentials
            && let Some(basic) = Basic::parse(value)
        {
            let place = Place {
                reported: Some(Form::Basic),
                style: Style::Raw,
                location: |_| location(),
                injects,
            };
            if let Some(decoded) = self.rewrite(&basic.decoded, place)? {
                return Ok(Some(Rewritten::new(basic.encode(&decoded))));
            }
        }
        let place = Place {
            reported: None,
            style: Style::Raw,
            location: |_| location(),
            injects,
        };
        Ok(self.rewrite(value, place)?.map(Rewritten::new))
    }

    fn rewrite_in_target(
        &mut self,
        target: &str,
        injects: impl Fn(&Entry) -> bool,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, Violation> {
        let query_at = target.find('?').unwrap_or(target.len());
        let place = Place {
            reported: None,
            style: Style::Percent,
            location: |at| {
                if at > query_at {
                    Location::Query
                } else {
                    Location::Path
                }
            },
            injects: |secret: &Entry, at| at > query_at && injects(secret),
        };
        self.rewrite(target.as_bytes(), place)
    }

    fn rewrite<L: Fn(usize) -> Location, I: Fn(&Entry, usize) -> bool>(
        &mut self,
        input: &[u8],
        place: Place<L, I>,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, Violation> {
        let Judge { set, docket } = &mut self.judge;
        let hay = Hay::whole(input);
        let mut edits: SmallVec<[Edit; 1]> = SmallVec::new();
        let (mut from, mut cursor) = (0, Cursor::default());
        while let Search::Found(found) = set.engine.find(&hay, from, &mut cursor) {
            let grant = docket.judge(
                set,
                &found,
                place.reported.unwrap_or(found.form),
                || (place.location)(found.start),
                |secret| {
                    place.style.reads(&found, &secret.placeholder)
                        && (place.injects)(secret, found.start)
                },
            )?;
            let written = grant.map(|grant| place.style.write(set.value(&grant)));
            edits.extend(written.map(|written| (found.start, found.end, written)));
            from = found.end;
        }
        if edits.is_empty() {
            return Ok(None);
        }
        let (added, removed) = edits.iter().fold((0, 0), |(added, removed), edit| {
            (added + edit.2.len(), removed + edit.1 - edit.0)
        });
        // One allocation of the right size: a growing one would leave copies of values behind.
        let mut output = Zeroizing::new(Vec::with_capacity(input.len() - removed + added));
        let mut copied = 0;
        for (start, end, written) in &edits {
            output.extend_from_slice(&input[copied..*start]);
            output.extend_from_slice(written);
            copied = *end;
        }
        output.extend_from_slice(&input[copied..]);
        Ok(Some(output))
    }
}

/// From where to where what is written.
type Edit = (usize, usize, Zeroizing<Vec<u8>>);

/// Where bytes stand and what may be written there.
struct Place<L, I> {
    /// Stands in reports for the form that was found.
    reported: Option<Form>,
    style: Style,
    /// By position in the input.
    location: L,
    /// Whether a secret is injected at a position.
    injects: I,
}

/// A value with secrets written into it. `Debug` does not show it; its memory is wiped when the last copy is dropped.
pub struct Rewritten(Zeroizing<Vec<u8>>);

impl Rewritten {
    pub(crate) fn new(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }

    /// The bytes, wiped when the last clone of them is dropped.
    ///
    /// `Bytes` and header values show their content in `Debug`: mark a header value made of this as sensitive.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        Bytes::from_owner(Owner(self.0))
    }
}

impl fmt::Debug for Rewritten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rewritten([redacted])")
    }
}

struct Owner(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// What a header is to the rewriter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldKind {
    /// Decides where the request goes or ends: never rewritten.
    Framing,
    /// `Authorization` and `Proxy-Authorization`.
    Credentials,
    Other,
}

impl FieldKind {
    /// RFC 9110, section 7.6.1, and RFC 9113, section 8.3 (pseudo-headers).
    const FRAMING: [&str; 10] = [
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];

    pub(crate) fn of(name: &str) -> Self {
        let is = |other: &&str| name.eq_ignore_ascii_case(other);
        if name.starts_with(':') || Self::FRAMING.iter().any(is) {
            Self::Framing
        } else if ["authorization", "proxy-authorization"].iter().any(is) {
            Self::Credentials
        } else {
            Self::Other
        }
    }

    fn injects(self, secret: &Entry) -> bool {
        match self {
            Self::Framing => false,
            Self::Credentials => secret.scopes.headers || secret.scopes.basic_auth,
            Self::Other => secret.scopes.headers,
        }
    }
}

/// Basic credentials (RFC 7617), taken apart so that they can be put together in the same style.
struct Basic<'a> {
    /// The scheme and the spaces after it.
    scheme: &'a [u8],
    url_safe: bool,
    padded: bool,
    decoded: Vec<u8>,
}

impl<'a> Basic<'a> {
    fn parse(value: &'a [u8]) -> Option<Self> {
        let scheme_len = "basic".len();
        if value.len() <= scheme_len || !value[..scheme_len].eq_ignore_ascii_case(b"basic") {
            return None;
        }
        let spaces = value[scheme_len..]
            .iter()
            .take_while(|b| matches!(b, b' ' | b'\t'))
            .count();
        let (scheme, text) = value.split_at(scheme_len + spaces);
        let text = text.trim_ascii_end();
        if spaces == 0 || text.is_empty() {
            return None;
        }
        let url_safe = text.iter().any(|b| matches!(b, b'-' | b'_'));
        let padded = text.ends_with(b"=") || text.len().is_multiple_of(4);
        let decoded = codec(url_safe, padded).decode(text).ok()?;
        Some(Self {
            scheme,
            url_safe,
            padded,
            decoded,
        })
    }

    fn encode(&self, credentials: &[u8]) -> Zeroizing<Vec<u8>> {
        let codec = codec(self.url_safe, self.padded);
        let len = base64::encoded_len(credentials.len(), self.padded).unwrap_or_default();
        let mut output = Zeroizing::new(Vec::with_capacity(self.scheme.len() + len));
        output.extend_from_slice(self.scheme);
        output.resize(self.scheme.len() + len, 0);
        let written = codec.encode_slice(credentials, &mut output[self.scheme.len()..]);
        written.expect("the buffer has the encoded length");
        output
    }
}

fn codec(url_safe: bool, padded: bool) -> GeneralPurpose {
    let config = GeneralPurposeConfig::new()
        .with_encode_padding(padded)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    let alphabet = if url_safe {
        &alphabet::URL_SAFE
    } else {
        &alphabet::STANDARD
    };
    GeneralPurpose::new(alphabet, config)
}

#[cfg(test)]
mod tests;
