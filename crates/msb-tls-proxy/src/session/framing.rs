//! Request framing, checked before any parser acts on it: bytes in, "pass them on" or "ambiguous" out.
//!
//! The HTTP library that follows is liberal: it drops a Content-Length beside a Transfer-Encoding,
//! folds equal Content-Lengths into one, takes a bare LF for a line's end. What two parsers may read
//! differently is how requests are smuggled past an inspection (RFC 9112 section 11.2), so here
//! everything is refused that is not framed in exactly one way. It changes nothing and decides nothing else.
//!
//! ```text
//!           head whole            length 0
//!  Head ──────────────┬──────────────────────────────► Head
//!   ▲                 ├─ Content-Length n ─► Body(n) ──► Head
//!   │                 └─ chunked ─► Size ─► Data ─► DataEnd ─► Size
//!   │                                └ 0 ─► Trailers ──► Head
//!   └─ longer than the limit ─► TooLong   (the library answers 431)
//! ```

/// A stream of requests, followed from head to head.
#[derive(Debug)]
pub(crate) struct RequestFraming {
    max_head: usize,
    state: State,
    /// What has arrived of a head, a chunk size line or a trailer section.
    partial: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    Body {
        left: u64,
    },
    Size,
    Data {
        left: u64,
    },
    /// The CRLF after a chunk's data, of which `left` bytes are missing.
    DataEnd {
        left: u64,
    },
    Trailers,
    TooLong,
}

/// Why bytes must not be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ambiguous {
    /// How many of the bytes just given come before the fault and may be passed on.
    pub(crate) pass: usize,
    /// What is wrong.
    pub(crate) reason: &'static str,
}

/// A chunk size line may carry extensions (RFC 9112 section 7.1.1), but not at this length.
const MAX_SIZE_LINE: usize = 256;

impl RequestFraming {
    /// Follows requests whose heads are at most `max_head` bytes long. A longer one is passed on
    /// unchecked, for the caller's parser to refuse at the same limit.
    pub(crate) fn new(max_head: usize) -> Self {
        Self {
            max_head,
            state: State::Head,
            partial: Vec::new(),
        }
    }

    /// Looks at the bytes that arrived next. After an error nothing more may be passed on.
    pub(crate) fn inspect(&mut self, bytes: &[u8]) -> Result<(), Ambiguous> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let used = self
                .advance(rest)
                .map_err(|reason| Ambiguous { pass: at, reason })?;
            at += used;
        }
        Ok(())
    }

    /// Takes at least one byte of `rest`; says how many.
    fn advance(&mut self, rest: &[u8]) -> Result<usize, &'static str> {
        match self.state {
            State::TooLong => Ok(rest.len()),
            State::Body { left } => {
                let used = take(left, rest);
                self.state = match left - used as u64 {
                    0 => State::Head,
                    left => State::Body { left },
                };
                Ok(used)
            }
            State::Data { left } => {
                let used = take(left, rest);
                self.state = match left - used as u64 {
                    0 => State::DataEnd { left: 2 },
                    left => State::Data { left },
                };
                Ok(used)
            }
            State::DataEnd { left } => {
                if rest[0] != if left == 2 { b'\r' } else { b'\n' } {
                    return Err("a chunk is longer than its size says");
                }
                self.state = match left {
                    2 => State::DataEnd { left: 1 },
                    _ => State::Size,
                };
                Ok(1)
            }
            State::Size => self.until(rest, b"\r\n", MAX_SIZE_LINE, |line| {
                Ok(match chunk_size(line)? {
                    0 => State::Trailers,
                    left => State::Data { left },
                })
            }),
            State::Trailers => self.trailers(rest),
            State::Head => self.head(rest),
        }
    }

    fn head(&mut self, rest: &[u8]) -> Result<usize, &'static str> {
        // Empty lines before a request line are ignored (RFC 9112 section 2.2).
        if self.partial.is_empty() && rest[0] == b'\r' {
            self.partial.push(b'\r');
            return Ok(1);
        }
        if self.partial == b"\r" {
            self.partial.clear();
            return match rest[0] {
                b'\n' => Ok(1),
                _ => Err("a carriage return without a line feed"),
            };
        }
        let max_head = self.max_head;
        self.until(rest, b"\r\n\r\n", max_head, |head| {
            Ok(match body_framing(head)? {
                Framing::Length(0) => State::Head,
                Framing::Length(left) => State::Body { left },
                Framing::Chunked => State::Size,
            })
        })
    }

    fn trailers(&mut self, rest: &[u8]) -> Result<usize, &'static str> {
        let lead = |partial: &[u8], index: usize| match partial.get(index) {
            Some(&byte) => Some(byte),
            None => rest.get(index - partial.len()).copied(),
        };
        // No trailers: the section is just the empty line.
        match (lead(&self.partial, 0), lead(&self.partial, 1)) {
            (Some(b'\r'), Some(b'\n')) => {
                let used = 2 - self.partial.len();
                self.partial.clear();
                self.state = State::Head;
                Ok(used)
            }
            (Some(b'\r'), None) => {
                self.partial.push(b'\r');
                Ok(1)
            }
            (Some(b'\r'), Some(_)) => Err("a carriage return without a line feed"),
            _ => {
                let max_head = self.max_head;
                self.until(rest, b"\r\n\r\n", max_head, |section| {
                    for line in lines(section)? {
                        let (name, _) = field(line)?;
                        if is_framing(name) {
                            return Err("a framing field in the trailers");
                        }
                    }
                    Ok(State::Head)
                })
            }
        }
    }

    /// Collects up to and including `end`, hands what stands before it to `parse`, and enters the
    /// state that says.
    fn until(
        &mut self,
        rest: &[u8],
        end: &[u8],
        limit: usize,
        parse: impl FnOnce(&[u8]) -> Result<State, &'static str>,
    ) -> Result<usize, &'static str> {
        if self.partial.is_empty()
            && let Some(found) = find(rest, end).filter(|&found| found + end.len() <= limit)
        {
            self.state = parse(&rest[..found])?;
            return Ok(found + end.len());
        }
        let before = self.partial.len();
        let room = (limit + 1).saturating_sub(before);
        self.partial
            .extend_from_slice(&rest[..rest.len().min(room)]);
        let search_from = before.saturating_sub(end.len() - 1);
        if let Some(found) = find(&self.partial[search_from..], end)
            .map(|found| search_from + found)
            .filter(|&found| found + end.len() <= limit)
        {
            self.state = parse(&self.partial[..found])?;
            self.partial.clear();
            return Ok(found + end.len() - before);
        }
        if self.state == State::Head && has_bare_line_feed(&self.partial, before) {
            // Who is liberal takes two of them for the end of the head, of which nothing else has been checked yet.
            return Err(ODD_LINE);
        }
        if self.partial.len() > limit {
            if self.state != State::Head {
                return Err("a chunk size line or a trailer section is too long");
            }
            self.partial = Vec::new();
            self.state = State::TooLong;
        }
        Ok(rest.len())
    }
}

enum Framing {
    Length(u64),
    Chunked,
}

/// How the body after `head` is framed (RFC 9112 section 6.3), if that can be said in one way only.
fn body_framing(head: &[u8]) -> Result<Framing, &'static str> {
    let mut lines = lines(head)?;
    let version_11 = request_line(lines.next().ok_or("no request line")?)?;
    let (mut length, mut chunked, mut hosts) = (None, false, 0);
    for line in lines {
        let (name, value) = field(line)?;
        if name.eq_ignore_ascii_case(b"content-length") {
            if length.replace(content_length(value)?).is_some() {
                return Err("more than one Content-Length");
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err("a Transfer-Encoding other than exactly `chunked`");
            }
            chunked = true;
        } else if name.eq_ignore_ascii_case(b"host") {
            hosts += 1;
        } else if is_framing(name) {
            return Err("a field name that some servers read as a framing field");
        }
    }
    match (length, chunked) {
        _ if hosts > 1 => Err("more than one Host"),
        _ if hosts == 0 && version_11 => Err("no Host"),
        (Some(_), true) => Err("both Content-Length and Transfer-Encoding"),
        (None, true) if !version_11 => Err("Transfer-Encoding in HTTP/1.0"),
        (None, true) => Ok(Framing::Chunked),
        (length, false) => Ok(Framing::Length(length.unwrap_or(0))),
    }
}

/// The lines of a head or trailer section, which is without its last line break and the empty line.
fn lines(section: &[u8]) -> Result<impl Iterator<Item = &[u8]>, &'static str> {
    for (index, &byte) in section.iter().enumerate() {
        let faulty = match byte {
            b'\r' => section.get(index + 1) != Some(&b'\n'),
            b'\n' => index == 0 || section[index - 1] != b'\r',
            b'\t' => false,
            _ => byte < b' ' || byte == 0x7f,
        };
        if faulty {
            return Err(ODD_LINE);
        }
    }
    Ok(section
        .split(|&byte| byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line)))
}

const ODD_LINE: &str = "a control character, or a line that does not end in CR LF";

/// Whether there is a line feed, at or after `from`, without its carriage return.
fn has_bare_line_feed(bytes: &[u8], from: usize) -> bool {
    memchr::memchr_iter(b'\n', &bytes[from..]).any(|at| !bytes[..from + at].ends_with(b"\r"))
}

/// `method SP target SP version` (RFC 9112 section 3); true for HTTP/1.1.
fn request_line(line: &[u8]) -> Result<bool, &'static str> {
    let mut parts = line.split(|&byte| byte == b' ');
    let (method, target, version) = (parts.next(), parts.next(), parts.next());
    if parts.next().is_some()
        || !method.is_some_and(is_token)
        || target.is_none_or(|target| target.is_empty() || target.contains(&b'\t'))
    {
        return Err("a request line other than `method target version`");
    }
    let version_11 = match version {
        Some(b"HTTP/1.1") => true,
        Some(b"HTTP/1.0") => false,
        _ => return Err("a version other than HTTP/1.0 and HTTP/1.1"),
    };
    if !target.is_some_and(|target| is_target(method.unwrap_or_default(), target)) {
        return Err("a request line whose target has none of the four forms");
    }
    Ok(version_11)
}

/// Whether `target` is in a form that requests with `method` may have (RFC 9112 section 3.2). A fragment is in none:
/// some parsers drop it, and some of them the path with it.
fn is_target(method: &[u8], target: &[u8]) -> bool {
    let is_absolute = || {
        let scheme = find(target, b"://").map(|end| &target[..end]);
        scheme.is_some_and(|scheme| {
            scheme.first().is_some_and(u8::is_ascii_alphabetic)
                && scheme
                    .iter()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte))
        })
    };
    let in_form = match method {
        b"CONNECT" => true,
        b"OPTIONS" if target == b"*" => true,
        _ => target.first() == Some(&b'/') || is_absolute(),
    };
    in_form && !target.contains(&b'#')
}

/// Name and value of a field line, the value without white space around it (RFC 9112 section 5).
fn field(line: &[u8]) -> Result<(&[u8], &[u8]), &'static str> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err("a folded header line");
    }
    let colon = line
        .iter()
        .position(|&byte| byte == b':')
        .ok_or("a header line without a colon")?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if !is_token(name) {
        return Err("a field name that is no token");
    }
    Ok((name, value.trim_ascii()))
}

fn content_length(value: &[u8]) -> Result<u64, &'static str> {
    let fault = "a Content-Length that is not one plain number";
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(fault);
    }
    std::str::from_utf8(value)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or(fault)
}

/// The size in `chunk-size [ chunk-ext ]` (RFC 9112 section 7.1).
fn chunk_size(line: &[u8]) -> Result<u64, &'static str> {
    let fault = "a chunk size that is not one plain hexadecimal number";
    let digits = line
        .iter()
        .position(|byte| !byte.is_ascii_hexdigit())
        .unwrap_or(line.len());
    if !matches!(line.get(digits), None | Some(b';')) || digits == 0 || digits > 16 {
        return Err(fault);
    }
    if line.iter().any(|&byte| byte < b' ' || byte == 0x7f) {
        return Err("a control character in a chunk size line");
    }
    std::str::from_utf8(&line[..digits])
        .ok()
        .and_then(|text| u64::from_str_radix(text, 16).ok())
        .ok_or(fault)
}

/// Fields that frame a message, and names that servers which turn `-` into `_` (CGI) read as them.
fn is_framing(name: &[u8]) -> bool {
    const FRAMING: [&[u8]; 3] = [b"content-length", b"transfer-encoding", b"host"];
    FRAMING.iter().any(|framing| {
        framing.len() == name.len()
            && framing.iter().zip(name).all(|(&expected, &byte)| {
                byte.to_ascii_lowercase() == expected || byte == b'_' && expected == b'-'
            })
    })
}

/// RFC 9110 section 5.6.2.
fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty()
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, needle)
}

fn take(left: u64, rest: &[u8]) -> usize {
    usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()))
}

#[cfg(test)]
mod tests;
