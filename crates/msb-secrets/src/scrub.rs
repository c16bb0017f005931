//! Taking values out of what servers send back, so that a guest cannot read them in an echo.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;
use zeroize::Zeroizing;

use crate::content::Style;
use crate::engine::{Cursor, Engine, Escape, Found, Hay, Key, Search, Stream};
use crate::judge::{Note, NoteKind, Notes};
use crate::request::FieldKind;
use crate::set::{Entry, Inner};
use crate::{BodyKind, Form, LengthChange, Location, Pieces};

/// Shorter values are left: they stand in every other text by chance.
pub const SHORTEST_SCRUBBED: usize = 4;

/// What values are looked for in responses, and whose they are.
pub(crate) struct Values {
    engine: Engine,
    /// By needle, the index of its secret.
    secrets: Vec<usize>,
}

impl Values {
    pub(crate) fn new(secrets: &[Entry]) -> Self {
        let mut needles: Vec<(Key, usize)> = Vec::new();
        for (index, secret) in secrets.iter().enumerate() {
            let Some(key) = secret.value.as_ref().map(|value| value.key()) else {
                continue;
            };
            let value = str::from_utf8(key).expect("values are made from text");
            if !secret.scrub || value.len() < SHORTEST_SCRUBBED {
                continue;
            }
            for needle in spellings(value) {
                let needle = if **needle == **key {
                    key.clone()
                } else {
                    Key::from(needle)
                };
                if !needles.iter().any(|(other, _)| *other == needle) {
                    needles.push((needle, index));
                }
            }
        }
        Self {
            engine: Engine::for_values(needles.iter().map(|(needle, _)| needle.clone())),
            secrets: needles.iter().map(|(_, secret)| *secret).collect(),
        }
    }
}

/// The value, and what JSON may make of it (RFC 8259, section 7); the engine knows of bytes, and undoes one escape by
/// itself. So a value is found twice escaped as well, as in a JSON body that another one quotes.
fn spellings(value: &str) -> impl Iterator<Item = Zeroizing<Vec<u8>>> {
    let unicode = if value.is_ascii() {
        &[None][..]
    } else {
        &[None, Some(false), Some(true)]
    };
    let has_escapes = value
        .bytes()
        .any(|byte| byte < b' ' || matches!(byte, b'"' | b'\\'));
    let quoted = if has_escapes {
        &[false, true][..]
    } else {
        &[false]
    };
    quoted.iter().flat_map(move |&quoted| {
        unicode
            .iter()
            .map(move |&upper| spelled(value, quoted, upper))
    })
}

/// `value` with escapes for what JSON strings cannot hold as it is, if `quoted`; with `\u` for what is not ASCII, its
/// digits in upper or lower case, if `upper` says which.
fn spelled(value: &str, quoted: bool, upper: Option<bool>) -> Zeroizing<Vec<u8>> {
    let mut text = Zeroizing::new(Vec::with_capacity(6 * value.len()));
    for character in value.chars() {
        let short = match character {
            '"' | '\\' => Some(character),
            '\n' => Some('n'),
            '\r' => Some('r'),
            '\t' => Some('t'),
            _ => None,
        };
        match (short.filter(|_| quoted), upper) {
            (Some(short), _) => text.extend([b'\\', u8::try_from(short).unwrap_or_default()]),
            (None, Some(upper)) if !character.is_ascii() => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    let unit = if upper {
                        format!("\\u{unit:04X}")
                    } else {
                        format!("\\u{unit:04x}")
                    };
                    text.extend_from_slice(unit.as_bytes());
                }
            }
            _ => text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    text
}

/// Takes values out of one response.
///
/// Every value of the set is looked for, not only those that went into the request: it is found raw, percent-encoded,
/// with JSON escapes and in base64 at any alignment, inside words too. Use it for the responses of a connection once a
/// secret was written to it ([`RequestRewriter::wrote_secret`](crate::RequestRewriter::wrote_secret)), or always.
#[derive(Debug)]
pub struct ResponseScrubber {
    work: Work,
}

impl ResponseScrubber {
    pub(crate) fn new(set: Arc<Inner>) -> Self {
        Self {
            work: Work {
                set,
                notes: Notes::default(),
            },
        }
    }

    /// Takes values out of a header value; `None` means that it stays as it is. Framing headers always do.
    pub fn header_value(&mut self, name: &str, value: &[u8]) -> Option<Bytes> {
        self.field(name, value, || Location::response_header(name))
    }

    /// Takes values out of a trailer value; as [`header_value`](Self::header_value).
    pub fn trailer_value(&mut self, name: &str, value: &[u8]) -> Option<Bytes> {
        self.field(name, value, || Location::response_trailer(name))
    }

    /// What takes values out of the body, decoded of any content coding.
    #[must_use]
    pub fn body(&self, kind: BodyKind) -> BodyScrubber {
        BodyScrubber {
            work: Work {
                set: Arc::clone(&self.work.set),
                notes: Notes::default(),
            },
            kind,
            stream: Stream::default(),
        }
    }

    /// Takes the notes made so far; the body's are its own.
    pub fn take_notes(&mut self) -> Vec<Note> {
        self.work.notes.take()
    }

    fn field(
        &mut self,
        name: &str,
        value: &[u8],
        location: impl Fn() -> Location,
    ) -> Option<Bytes> {
        if FieldKind::of(name) == FieldKind::Framing {
            return None;
        }
        let set = Arc::clone(&self.work.set);
        let (hay, mut cursor) = (Hay::whole(value), Cursor::default());
        let (mut output, mut copied) = (Vec::new(), 0);
        while let Search::Found(found) = set.values.engine.find(&hay, copied, &mut cursor) {
            output.extend_from_slice(&value[copied..found.start]);
            output.extend_from_slice(&self.work.placeholder(&found, BodyKind::Text));
            self.work.note(&found, location());
            copied = found.end;
        }
        if copied == 0 {
            return None;
        }
        output.extend_from_slice(&value[copied..]);
        Some(output.into())
    }
}

/// Takes values out of a response's body as it streams by.
///
/// In text ([`BodyKind::is_text`]) a value becomes its secret's placeholder, escaped as the value was; anywhere else it is
/// covered by as many `*`. Streams like a [`StreamRewriter`](crate::StreamRewriter): the same output however the input is
/// cut, unchanged bytes without a copy, little kept back.
#[derive(Debug)]
pub struct BodyScrubber {
    work: Work,
    kind: BodyKind,
    stream: Stream,
}

impl BodyScrubber {
    /// Takes a chunk; answers the bytes to hand on, possibly none.
    pub fn push(&mut self, chunk: Bytes) -> Pieces {
        self.step(Some(chunk))
    }

    /// Ends the stream; answers what was kept back.
    pub fn finish(&mut self) -> Pieces {
        self.step(None)
    }

    /// Answers what was kept back, because nothing follows for the time being: a value that goes on after it is not found.
    /// For protocols whose sides take turns, and wait for the whole of what the other has sent.
    pub fn pause(&mut self) -> Pieces {
        self.step(None)
    }

    /// Whether something is kept back.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.stream.held_len() > 0
    }

    /// How the length of the body may change; for a [`LengthPlan`](crate::LengthPlan).
    #[must_use]
    pub fn length_change(&self) -> LengthChange {
        if self.kind.is_text() && !self.work.set.values.secrets.is_empty() {
            LengthChange::Possible
        } else {
            LengthChange::Never
        }
    }

    /// Takes the notes made so far.
    pub fn take_notes(&mut self) -> Vec<Note> {
        self.work.notes.take()
    }

    fn step(&mut self, chunk: Option<Bytes>) -> Pieces {
        let Self { work, kind, stream } = self;
        let set = Arc::clone(&work.set);
        let mut out = SmallVec::new();
        let mut cover = |found: &Found| {
            work.note(found, Location::ResponseBody);
            let cover = if kind.is_text() {
                Bytes::from(work.placeholder(found, *kind))
            } else {
                mask(found.end - found.start)
            };
            Ok::<_, std::convert::Infallible>(Some(cover))
        };
        let Ok(()) = match chunk {
            Some(chunk) => stream.push(&set.values.engine, chunk, &mut out, &mut cover),
            None => stream.finish(&set.values.engine, &mut out, &mut cover),
        };
        Pieces::new(out)
    }
}

fn mask(len: usize) -> Bytes {
    static STARS: [u8; 1024] = [b'*'; 1024];
    STARS
        .get(..len)
        .map_or_else(|| vec![b'*'; len].into(), Bytes::from_static)
}

struct Work {
    set: Arc<Inner>,
    notes: Notes,
}

impl Work {
    fn secret(&self, found: &Found) -> &Entry {
        &self.set.secrets[self.set.values.secrets[found.needle]]
    }

    /// What stands for the value: the placeholder, escaped as the value was.
    fn placeholder(&self, found: &Found, kind: BodyKind) -> Vec<u8> {
        let style = match (found.form, kind) {
            (Form::Percent | Form::PercentTwice, _) => Style::Percent,
            (Form::Json, _) | (_, BodyKind::Json) => Style::Json,
            _ => Style::Raw,
        };
        let placeholder = style.write(self.secret(found).placeholder.as_bytes());
        let in_json = found.form == Form::Json || kind == BodyKind::Json;
        // What began an escape before it has gone out and would take the placeholder's first characters for its own.
        let rest: &[u8] = match found.escape {
            Escape::Letter if in_json => b"\\",
            Escape::Digits(missing) if in_json => &b"0000"[..missing],
            _ => b"",
        };
        [rest, &placeholder].concat()
    }

    fn note(&mut self, found: &Found, location: Location) {
        let env = Arc::clone(&self.secret(found).env);
        self.notes
            .add(NoteKind::Scrubbed, env, location, found.form);
    }
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Work")
            .field("notes", &self.notes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
