//! What a client that speaks first, without TLS, speaks.

/// Methods by which plaintext HTTP is known: those of RFC 9110 and RFC 5789, and WebDAV's (RFC 4918, RFC 3253, RFC 5323).
///
/// CONNECT is not one of them, for what follows it is not HTTP; nor is PRI, which begins HTTP/2 (RFC 9113 section 3.4).
pub(super) const METHODS: [&str; 21] = [
    "COPY",
    "DELETE",
    "GET",
    "HEAD",
    "LOCK",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MOVE",
    "OPTIONS",
    "PATCH",
    "POST",
    "PROPFIND",
    "PROPPATCH",
    "PUT",
    "QUERY",
    "REPORT",
    "SEARCH",
    "TRACE",
    "UNLOCK",
];

/// What the first bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    /// The beginning of an HTTP/1 request.
    Http,
    /// Anything else.
    Other,
    /// Either; more bytes will tell.
    Unknown,
}

impl Opening {
    /// Reads the first bytes of a connection.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let agrees = |method: &&str| {
            let line = [method.as_bytes(), b" "].concat();
            let common = line.len().min(bytes.len());
            line[..common] == bytes[..common]
        };
        let Some(method) = METHODS.iter().find(|method| agrees(method)) else {
            return Self::Other;
        };
        // Where a target begins: a path, `*`, or a URL. `COPY table FROM ..` is no HTTP.
        match bytes.get(method.len() + 1) {
            Some(b'/' | b'*' | b'h' | b'H') => Self::Http,
            Some(_) => Self::Other,
            None => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_known_by_method_and_target() {
        for request in [
            "GET / HTTP/1.1",
            "PUT /x",
            "OPTIONS *",
            "GET http://a/",
            "PROPFIND /",
        ] {
            for len in 0..=request.len() {
                let method = request.find(' ').unwrap_or_default();
                let expected = if len > method + 1 {
                    Opening::Http
                } else {
                    Opening::Unknown
                };
                assert_eq!(
                    Opening::of(&request.as_bytes()[..len]),
                    expected,
                    "{}",
                    &request[..len]
                );
            }
        }
    }

    #[test]
    fn other_protocols_are_let_by_as_soon_as_they_differ() {
        for other in [
            "SSH-2.0-x",
            "\x16\x03\x01",
            "EHLO x",
            "get / HTTP/1.1",
            "GETX / ",
            "GE\n",
            "PRI * HTTP/2.0",
            "CONNECT a:1 HTTP/1.1",
            "COPY t FROM stdin",
            "*1\r\n$4\r\nPING",
            "\0\0\0\x08\x04\x12\x16\x2f",
            " GET /",
        ] {
            assert_eq!(Opening::of(other.as_bytes()), Opening::Other, "{other:?}");
        }
    }
}
