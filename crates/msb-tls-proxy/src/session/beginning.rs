//! Whether what a guest begins with inside TLS is HTTP, where ALPN does not say.
//!
//! What a server could read as an HTTP request counts as one, however malformed it is: it is then refused as such, and
//! does not get around the checks of HTTP by passing for something else. So white space and empty lines before it count
//! for nothing, any white space separates its parts, and the case of its letters does not matter.

use super::opening::METHODS;

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spoken {
    Http,
    Other,
    /// Either; more bytes will tell.
    Undecided,
}

/// A guest's first line, as far as it has come.
#[derive(Debug)]
pub(crate) struct Beginning {
    spoken: Spoken,
    /// The line, without white space before it. Empty once there is an answer.
    line: Vec<u8>,
    /// How much white space came before it.
    skipped: usize,
    limit: usize,
}

impl Beginning {
    /// Reads lines of at most `limit` bytes, after at most as much white space; what goes beyond that and may still be a
    /// request counts as one.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            spoken: Spoken::Undecided,
            line: Vec::new(),
            skipped: 0,
            limit,
        }
    }

    /// Takes what the guest sent next. An answer stays the same whatever follows.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Spoken {
        if self.spoken != Spoken::Undecided {
            return self.spoken;
        }
        let bytes = if self.line.is_empty() {
            let begins = |byte: &u8| !(is_space(*byte) || *byte == b'\n');
            let start = bytes.iter().position(begins).unwrap_or(bytes.len());
            self.skipped = self.skipped.saturating_add(start);
            if self.skipped > self.limit {
                // Who listens keeps all of it.
                self.spoken = Spoken::Http;
                return self.spoken;
            }
            &bytes[start..]
        } else {
            bytes
        };
        let room = (self.limit + 1).saturating_sub(self.line.len());
        self.line.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.spoken = judge(&self.line, self.limit);
        if self.spoken != Spoken::Undecided {
            self.line = Vec::new();
        }
        self.spoken
    }
}

fn judge(line: &[u8], limit: usize) -> Spoken {
    let method_len = line.iter().position(|byte| !is_token(*byte));
    let Some(method_len) = method_len else {
        // Nobody's method is longer.
        return if line.len() > limit.min(256) {
            Spoken::Other
        } else {
            Spoken::Undecided
        };
    };
    let (method, rest) = line.split_at(method_len);
    if method.is_empty() || !is_space(rest[0]) {
        return Spoken::Other;
    }
    let known = |same: fn(&[u8], &[u8]) -> bool| METHODS.iter().any(|m| same(m.as_bytes(), method));
    if known(|a, b| a == b) && has_target(rest) {
        // Whether it says its version or not: without one it is HTTP/0.9, which some servers still take.
        return Spoken::Http;
    }
    // A binary protocol may begin like a method. No server takes such bytes behind one that it does not know.
    let is_known = known(<[u8]>::eq_ignore_ascii_case);
    let ends = |byte: &u8| {
        let is_binary = byte.is_ascii_control() && !is_space(*byte);
        *byte == b'\n' || is_binary && !is_known
    };
    let end = rest.iter().position(ends);
    let version = b"HTTP/";
    let mut words = rest[..end.unwrap_or(rest.len())].windows(version.len());
    if words.any(|word| word.eq_ignore_ascii_case(version)) {
        return Spoken::Http;
    }
    match end {
        Some(_) => Spoken::Other,
        None if line.len() > limit => Spoken::Http,
        None => Spoken::Undecided,
    }
}

/// A path, `*`, or a URL: `GET key` is a request to other servers.
fn has_target(rest: &[u8]) -> bool {
    let start = rest.iter().position(|byte| !is_space(*byte));
    let rest = &rest[start.unwrap_or(rest.len())..];
    let scheme = |scheme: &[u8]| {
        rest.get(..scheme.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    };
    matches!(rest.first(), Some(b'/' | b'*')) || scheme(b"http://") || scheme(b"https://")
}

/// What lenient servers take for white space within a line (RFC 9112 section 3).
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | 0x0b | 0x0c)
}

/// RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 1024;

    #[track_caller]
    fn check(text: &[u8], expected: Spoken) {
        let shown = String::from_utf8_lossy(text);
        assert_eq!(Beginning::new(LIMIT).push(text), expected, "{shown:?}");
        let mut bytewise = Beginning::new(LIMIT);
        let mut last = Spoken::Undecided;
        for byte in text {
            let now = bytewise.push(&[*byte]);
            assert!(
                last == Spoken::Undecided || last == now,
                "{shown:?} changes its mind"
            );
            last = now;
        }
        assert_eq!(last, expected, "{shown:?} byte by byte");
    }

    /// Attack 14, and every request that a lenient server may read as one.
    #[test]
    fn what_a_server_may_read_as_a_request_is_http() {
        for request in [
            "GET / HTTP/1.1\r\n",
            "GET / HTTP/1.1",
            " GET / HTTP/1.1\r\n",
            "\tGET / HTTP/1.1\r\n",
            "\r\nGET / HTTP/1.1\r\n",
            "\n\n\n \r\nGET / HTTP/1.1\n",
            "GET / HTTP/1.1\n",
            "get / http/1.1\r\n",
            "GET\t/\tHTTP/1.1\r\n",
            "GET  /  HTTP/1.1\r\n",
            "GET\x0b/\x0cHTTP/1.1\r\n",
            "GET\r/ HTTP/1.1\r\n",
            "GET /\r\n",
            "GET /",
            "GET https://api.example.test/ HTTP/1.1",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "CONNECT a.test:443 HTTP/1.1\r\n",
            "BREW coffee HTTP/1.1\r\n",
            "X x x HTTP/1.1\r\n",
            "GET /\u{e4} HTTP/1.1\r\n",
            "OPTIONS * HTTP/1.0\r\n",
            "POST /\0 HTTP/1.1\r\n",
            "get \u{1}/ HTTP/1.1\r\n",
        ] {
            check(request.as_bytes(), Spoken::Http);
        }
        check(&[b"FROB ", &[b'a'; LIMIT][..]].concat(), Spoken::Http);
        check(&[b'\n'; LIMIT + 1], Spoken::Http);
    }

    #[test]
    fn other_protocols_are_not() {
        for other in [
            &b"SSH-2.0-OpenSSH_10.0\r\n"[..],
            b"EHLO client.test\r\n",
            b"A001 LOGIN user password\r\n",
            b"PING\r\n",
            b"GET key\r\n",
            b"*1\r\n$4\r\nPING\r\n",
            b"NICK guest\r\nUSER guest 0 * :HTTP/1.1\r\n",
            b"CONNECT\naccept-version:1.2\n\n\0",
            b"OPTIONS sip:a.test SIP/2.0\r\n",
            b"DESCRIBE rtsp://a.test/ RTSP/1.0\r\n",
            b"get /key\r\n",
            b"<?xml version='1.0'?>",
            b"{\"id\":1}\n",
            // PostgreSQL's startup, MQTT's CONNECT, LDAP's bind, TLS in TLS, MySQL.
            b"\0\0\0\x08\x04\xd2\x16\x2f",
            b"\x10\x10\0\x04MQTT\x04\x02",
            b"0S\x02\x01\x01`N",
            b"0\x0c\x02\x01\x01`\x07\x02\x01\x03\x04\0\x80\0",
            b"FROB \0 HTTP/9.9\r\n",
            b"\x16\x03\x01\x02\0",
            b"\x4a\0\0\0\x0a8.0",
            b"\xff\xfd\x18",
            b"GET\r\n",
            b"GET\n/ HTTP/1.1\r\n",
            b"GET\r\n/ HTTP/1.1\r\n",
            &[b'a'; LIMIT + 1],
        ] {
            check(other, Spoken::Other);
        }
    }

    #[test]
    fn what_may_become_either_asks_for_more() {
        for text in [
            "",
            " ",
            "\r\n",
            "\r",
            "G",
            "GET",
            "GET ",
            "GET h",
            "GET key",
            "hello",
            "BREW coffee HTT",
            "SSH-2.0-x comment",
            "EHLO x\r",
        ] {
            check(text.as_bytes(), Spoken::Undecided);
        }
        check(&[b'\n'; LIMIT], Spoken::Undecided);
    }

    proptest! {
        #[test]
        fn cuts_change_nothing(text in "[ \r\n\t]{0,3}(GET|get|X|\0)[ \t]{0,2}(/|k|http://a/)?[ \t]{0,2}(HTTP/1.1)?[\r\n]{0,2}.{0,9}", cuts in prop::collection::vec(1usize..5, 1..30)) {
            let whole = Beginning::new(LIMIT).push(text.as_bytes());
            let mut pieces = Beginning::new(LIMIT);
            let (mut rest, mut spoken) = (text.as_bytes(), Spoken::Undecided);
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, more) = rest.split_at((*cut).min(rest.len()));
                spoken = pieces.push(piece);
                rest = more;
            }
            prop_assert_eq!(spoken, whole);
        }
    }
}
