//! A reader of HTTP/1.1 that takes nothing on trust: RFC 9112 to the letter, and not a line shared with the proxy.
//!
//! It is slow and keeps everything; what it refuses, some server somewhere reads differently.

/// A request or a response, its body without transfer coding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The three parts of the first line.
    pub line: [String; 3],
    /// Names in lower case.
    pub fields: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, Vec<u8>)>,
}

impl Message {
    pub fn all(&self, name: &str) -> Vec<&[u8]> {
        let fields = self.fields.iter().filter(|(is, _)| is == name);
        fields.map(|(_, value)| &value[..]).collect()
    }
}

/// What a stream of messages holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Those that are whole.
    pub whole: Vec<Message>,
    /// One whose head is whole, but which breaks off, or goes wrong, in its body.
    pub broken: Option<Message>,
    /// What is wrong, or missing, after that.
    pub fault: Option<&'static str>,
}

/// Why there is no message.
enum Fault {
    /// It is not there yet.
    Short,
    Wrong(&'static str),
}

use Fault::{Short, Wrong};

/// Reads requests. Empty lines before them are skipped where `lenient` says so (RFC 9112 section 2.2).
pub fn requests(bytes: &[u8], lenient: bool) -> Reading {
    read(bytes, lenient, |head| {
        let length = request_length(head)?;
        Ok((true, length))
    })
}

/// Reads the responses to requests with `methods`, of which informational ones are left out. `ended` says that the
/// stream has ended in order.
pub fn responses(bytes: &[u8], methods: &[&str], ended: bool) -> Reading {
    let mut methods = methods.iter();
    let mut reading = read(bytes, false, |head| {
        let [version, status, _] = &head.line;
        if version != "HTTP/1.1" || status.len() != 3 {
            return Err(Wrong("a status line other than HTTP/1.1 and three digits"));
        }
        if status.starts_with('1') {
            return Ok((false, Length::Exactly(0)));
        }
        let method = methods.next().ok_or(Wrong("an answer nobody asked for"))?;
        let length = response_length(head, method)?;
        Ok((true, length))
    });
    let to_the_end = |message: &Message| {
        message.all("content-length").is_empty() && message.all("transfer-encoding").is_empty()
    };
    if ended && reading.broken.as_ref().is_some_and(to_the_end) {
        reading.whole.extend(reading.broken.take());
        reading.fault = None;
    }
    reading
}

enum Length {
    Exactly(usize),
    Chunked,
    ToTheEnd,
}

fn read(
    mut bytes: &[u8],
    lenient: bool,
    mut length: impl FnMut(&Message) -> Result<(bool, Length), Fault>,
) -> Reading {
    let mut reading = Reading::default();
    loop {
        while lenient && bytes.starts_with(b"\r\n") {
            bytes = &bytes[2..];
        }
        if bytes.is_empty() {
            return reading;
        }
        let head = head(bytes).and_then(|(head, used)| Ok((length(&head)?, head, used)));
        let ((kept, length), mut message, used) = match head {
            Ok(head) => head,
            Err(Short) => {
                reading.fault = Some("a head that breaks off");
                return reading;
            }
            Err(Wrong(fault)) => {
                reading.fault = Some(fault);
                return reading;
            }
        };
        let rest = &bytes[used..];
        match body(rest, &length, &mut message) {
            Ok(used) => bytes = &rest[used..],
            Err(fault) => {
                reading.broken = Some(message);
                reading.fault = Some(match fault {
                    Short => "a body that breaks off",
                    Wrong(fault) => fault,
                });
                return reading;
            }
        }
        if kept {
            reading.whole.push(message);
        }
    }
}

fn head(bytes: &[u8]) -> Result<(Message, usize), Fault> {
    let (first, mut at) = line(bytes)?;
    let mut parts = first.splitn(3, |byte| *byte == b' ');
    let mut part = || {
        let part = parts.next().unwrap_or_default();
        String::from_utf8_lossy(part).into_owned()
    };
    let mut message = Message {
        line: [part(), part(), part()],
        ..Message::default()
    };
    at += fields(&bytes[at..], &mut message.fields)?;
    Ok((message, at))
}

/// One line, which holds nothing that anyone could take for its end.
fn line(bytes: &[u8]) -> Result<(&[u8], usize), Fault> {
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'\r' => {
                return match bytes.get(at + 1) {
                    Some(b'\n') => Ok((&bytes[..at], at + 2)),
                    Some(_) => Err(Wrong("CR without LF")),
                    None => Err(Short),
                };
            }
            b'\n' => return Err(Wrong("LF without CR")),
            b'\t' => {}
            0..32 | 127 => return Err(Wrong("a control character")),
            _ => {}
        }
    }
    Err(Short)
}

fn fields(bytes: &[u8], into: &mut Vec<(String, Vec<u8>)>) -> Result<usize, Fault> {
    let mut at = 0;
    loop {
        let (text, used) = line(&bytes[at..])?;
        at += used;
        if text.is_empty() {
            return Ok(at);
        }
        let colon = text.iter().position(|byte| *byte == b':');
        let (name, value) = text.split_at(colon.ok_or(Wrong("a field without a colon"))?);
        if !token(name) {
            return Err(Wrong("a field name that is no token"));
        }
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        into.push((name, value[1..].trim_ascii().to_vec()));
    }
}

fn token(text: &[u8]) -> bool {
    let special = b"!#$%&'*+-.^_`|~";
    !text.is_empty()
        && text
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || special.contains(byte))
}

fn request_length(head: &Message) -> Result<Length, Fault> {
    let [method, target, version] = &head.line;
    if !token(method.as_bytes()) || target.is_empty() || target.contains('\t') {
        return Err(Wrong("a request line"));
    }
    let hosts = head.all("host").len();
    let (version_11, version_10) = (version == "HTTP/1.1", version == "HTTP/1.0");
    if !version_11 && !version_10 {
        return Err(Wrong("a version"));
    }
    if hosts > 1 || version_11 && hosts == 0 {
        return Err(Wrong("other than one Host"));
    }
    match declared(head)? {
        Some(Length::Chunked) if version_10 => Err(Wrong("chunks in HTTP/1.0")),
        length => Ok(length.unwrap_or(Length::Exactly(0))),
    }
}

fn response_length(head: &Message, method: &str) -> Result<Length, Fault> {
    let declared = declared(head)?;
    let status = &*head.line[1];
    Ok(match status {
        _ if method == "HEAD" => Length::Exactly(0),
        "204" | "304" => Length::Exactly(0),
        _ => declared.unwrap_or(Length::ToTheEnd),
    })
}

fn declared(head: &Message) -> Result<Option<Length>, Fault> {
    match (
        &head.all("content-length")[..],
        &head.all("transfer-encoding")[..],
    ) {
        ([], []) => Ok(None),
        ([length], []) => {
            let plain = !length.is_empty() && length.iter().all(u8::is_ascii_digit);
            let text = std::str::from_utf8(length).unwrap_or_default();
            let length = text.parse().ok().filter(|_| plain);
            Ok(Some(Length::Exactly(
                length.ok_or(Wrong("a Content-Length"))?,
            )))
        }
        ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Some(Length::Chunked)),
        _ => Err(Wrong("more than one framing")),
    }
}

fn body(bytes: &[u8], length: &Length, message: &mut Message) -> Result<usize, Fault> {
    match length {
        Length::Exactly(length) => {
            let there = bytes.len().min(*length);
            message.body.extend_from_slice(&bytes[..there]);
            if there == *length {
                Ok(there)
            } else {
                Err(Short)
            }
        }
        Length::ToTheEnd => {
            message.body.extend_from_slice(bytes);
            Err(Short)
        }
        Length::Chunked => chunks(bytes, message),
    }
}

fn chunks(bytes: &[u8], message: &mut Message) -> Result<usize, Fault> {
    let mut at = 0;
    loop {
        let (size, used) = line(&bytes[at..])?;
        at += used;
        let digits = size.iter().take_while(|byte| byte.is_ascii_hexdigit());
        let (digits, extension) = size.split_at(digits.count());
        let size = std::str::from_utf8(digits).unwrap_or_default();
        let size = match extension.first() {
            None | Some(b';') if digits.len() <= 16 => usize::from_str_radix(size, 16).ok(),
            _ => None,
        };
        let size = size.ok_or(Wrong("a chunk size"))?;
        if size == 0 {
            at += fields(&bytes[at..], &mut message.trailers)?;
            let framing = ["host", "content-length", "transfer-encoding"];
            let trailers = &message.trailers;
            return match trailers.iter().any(|it| framing.contains(&&*it.0)) {
                true => Err(Wrong("a framing field in the trailers")),
                false => Ok(at),
            };
        }
        let there = size.min(bytes.len() - at);
        message.body.extend_from_slice(&bytes[at..at + there]);
        at += there;
        match &bytes[at..] {
            _ if there < size => return Err(Short),
            [b'\r', b'\n', ..] => at += 2,
            [b'\r'] | [] => return Err(Short),
            _ => return Err(Wrong("the end of a chunk")),
        }
    }
}
