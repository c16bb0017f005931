//! Rewriting one request: its header values and trailers; searching its target and body.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use msb_policy::InjectGrant;
use smallvec::SmallVec;
use zeroize::Zeroizing;

use crate::engine::{Cursor, Hay, Search};
use crate::judge::Judge;
use crate::set::Entry;
use crate::{Form, Location, Note, StreamRewriter, Violation};

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
        let target = path_and_query.as_bytes();
        let query_at = path_and_query.find('?').unwrap_or(target.len());
        let location = |at| {
            if at > query_at {
                Location::Query
            } else {
                Location::Path
            }
        };
        self.rewrite(target, None, location, |_| false).map(|_| ())
    }

    /// What searches the body of this request.
    #[must_use]
    pub fn body(&self) -> StreamRewriter {
        StreamRewriter::new(self.judge.another(), Location::Body)
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
        if kind == FieldKind::Credentials
            && let Some(basic) = Basic::parse(value)
        {
            let decoded = self.rewrite(
                &basic.decoded,
                Some(Form::Basic),
                |_| location(),
                |secret| kind.injects(secret),
            )?;
            if let Some(decoded) = decoded {
                return Ok(Some(Rewritten::new(basic.encode(&decoded))));
            }
        }
        let rewritten = self.rewrite(value, None, |_| location(), |secret| kind.injects(secret))?;
        Ok(rewritten.map(Rewritten::new))
    }

    /// Replaces the raw placeholders that `injects` says so of. `reported` stands in reports for the form found.
    fn rewrite(
        &mut self,
        input: &[u8],
        reported: Option<Form>,
        location: impl Fn(usize) -> Location,
        injects: impl Fn(&Entry) -> bool,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, Violation> {
        let set = Arc::clone(&self.judge.set);
        let hay = Hay::whole(input);
        let mut edits: SmallVec<[(usize, usize, InjectGrant); 2]> = SmallVec::new();
        let (mut from, mut cursor) = (0, Cursor::default());
        while let Search::Found(found) = set.engine.find(&hay, from, &mut cursor) {
            let (form, raw) = (reported.unwrap_or(found.form), found.form == Form::Raw);
            let grant = self
                .judge
                .judge(&found, form, &location(found.start), |secret| {
                    raw && injects(secret)
                })?;
            edits.extend(grant.map(|grant| (found.start, found.end, grant)));
            from = found.end;
        }
        if edits.is_empty() {
            return Ok(None);
        }
        let mut parts: SmallVec<[&[u8]; 5]> = SmallVec::new();
        let mut copied = 0;
        for (start, end, grant) in &edits {
            parts.extend([&input[copied..*start], set.value(grant)]);
            copied = *end;
        }
        parts.push(&input[copied..]);
        // One allocation of the right size: a growing one would leave copies of values behind.
        let mut output = Zeroizing::new(Vec::with_capacity(
            parts.iter().map(|part| part.len()).sum(),
        ));
        for part in parts {
            output.extend_from_slice(part);
        }
        Ok(Some(output))
    }
}

/// A value with secrets written into it. `Debug` does not show it; its memory is wiped when the last copy is dropped.
pub struct Rewritten(Zeroizing<Vec<u8>>);

impl Rewritten {
    fn new(bytes: Zeroizing<Vec<u8>>) -> Self {
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
enum FieldKind {
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

    fn of(name: &str) -> Self {
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
            Self::Credentials => secret.headers || secret.basic_auth,
            Self::Other => secret.headers,
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
