//! The bytes. Each has a second request in a place where some reading of RFC 9112 sees it as such.

/// One malformed or ambiguous request.
pub(super) struct Payload {
    name: &'static str,
    /// What stands before the fields, if not a usual POST.
    start: Option<&'static str>,
    /// Behind `Host`, with line ends.
    fields: &'static str,
    body: &'static str,
}

const fn post(name: &'static str, fields: &'static str, body: &'static str) -> Payload {
    Payload {
        name,
        start: None,
        fields,
        body,
    }
}

const fn start(
    name: &'static str,
    start: &'static str,
    fields: &'static str,
    body: &'static str,
) -> Payload {
    Payload {
        name,
        start: Some(start),
        fields,
        body,
    }
}

/// `@2` is the second request, `#2` its length, `x2` its length in hexadecimal, `#B` the length of the body, `@1` the
/// target of the first, `@H` the host.
pub(super) const PAYLOADS: &[Payload] = &[
    post(
        "CL.TE",
        "Content-Length: #B\r\nTransfer-Encoding: chunked\r\n",
        "0\r\n\r\n@2",
    ),
    post(
        "TE.CL",
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        "x2\r\n@2\r\n0\r\n\r\n",
    ),
    post(
        "two lengths, none first",
        "Content-Length: 0\r\nContent-Length: #2\r\n",
        "@2",
    ),
    post(
        "two lengths, none last",
        "Content-Length: #2\r\nContent-Length: 0\r\n",
        "@2",
    ),
    post("a list of lengths", "Content-Length: 0, #2\r\n", "@2"),
    post("a length with a plus", "Content-Length: +#2\r\n", "@2"),
    post("a length below zero", "Content-Length: -1\r\n", "@2"),
    post("a length in hexadecimal", "Content-Length: 0x0\r\n", "@2"),
    post(
        "a length over 64 bits, zero if it wraps",
        "Content-Length: 18446744073709551616\r\n",
        "@2",
    ),
    post(
        "a length over 32 bits, zero if it wraps",
        "Content-Length: 4294967296\r\n",
        "@2",
    ),
    post("an empty length", "Content-Length: \r\n", "@2"),
    post(
        "a length with a space in it",
        "Content-Length: 0 #2\r\n",
        "@2",
    ),
    post("a length behind a space", "Content-Length : 0\r\n", "@2"),
    post(
        "a length with a vertical tab",
        "Content-Length: \x0b0\r\n",
        "@2",
    ),
    post("a length in quotes", "Content-Length: \"0\"\r\n", "@2"),
    post(
        "a length with an underscore",
        "Content_Length: #2\r\n",
        "@2",
    ),
    post(
        "a length that is folded",
        "Content-Length:\r\n #2\r\n",
        "@2",
    ),
    post(
        "xchunked",
        "Content-Length: #B\r\nTransfer-Encoding: xchunked\r\n",
        "0\r\n\r\n@2",
    ),
    post(
        "chunked, identity",
        "Content-Length: #B\r\nTransfer-Encoding: chunked, identity\r\n",
        "0\r\n\r\n@2",
    ),
    post(
        "identity, chunked",
        "Content-Length: #B\r\nTransfer-Encoding: identity, chunked\r\n",
        "0\r\n\r\n@2",
    ),
    post(
        "gzip, chunked",
        "Transfer-Encoding: gzip, chunked\r\n",
        "0\r\n\r\n@2",
    ),
    post(
        "chunked twice",
        "Transfer-Encoding: chunked, chunked\r\n",
        "0\r\n\r\n@2",
    ),
    post(
        "chunked, then identity",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\nContent-Length: #B\r\n",
        "0\r\n\r\n@2",
    ),
    post(
        "chunked behind a space",
        "Content-Length: #B\r\nTransfer-Encoding : chunked\r\n",
        "0\r\n\r\n@2",
    ),
    post(
        "chunked behind a tab",
        "Content-Length: #B\r\nTransfer-Encoding\t: chunked\r\n",
        "0\r\n\r\n@2",
    ),
    post(
        "chunked with a vertical tab",
        "Content-Length: #B\r\nTransfer-Encoding: \x0bchunked\r\n",
        "0\r\n\r\n@2",
    ),
    post(
        "chunked with a form feed",
        "Content-Length: #B\r\nTransfer-Encoding: chunked\x0c\r\n",
        "0\r\n\r\n@2",
    ),
    post(
        "chunked with NUL",
        "Content-Length: #B\r\nTransfer-Encoding: chunked\0\r\n",
        "0\r\n\r\n@2",
    ),
    post(
        "chunked in quotes",
        "Content-Length: #B\r\nTransfer-Encoding: \"chunked\"\r\n",
        "0\r\n\r\n@2",
    ),
    post(
        "chunked with a parameter",
        "Content-Length: #B\r\nTransfer-Encoding: chunked;q=1\r\n",
        "0\r\n\r\n@2",
    ),
    post(
        "chunked that is folded",
        "Content-Length: #B\r\nTransfer-Encoding:\r\n chunked\r\n",
        "0\r\n\r\n@2",
    ),
    post(
        "chunked in a fold",
        "Content-Length: #B\r\nX: a\r\n Transfer-Encoding: chunked\r\n",
        "0\r\n\r\n@2",
    ),
    post(
        "chunked with an underscore",
        "Content-Length: #B\r\nTransfer_Encoding: chunked\r\n",
        "0\r\n\r\n@2",
    ),
    post(
        "chunked with a letter that is none",
        "Content-Length: #B\r\nTransfer-Encoding: chun\u{212a}ed\r\n",
        "0\r\n\r\n@2",
    ),
    post(
        "chunked behind a bare LF",
        "Content-Length: #B\r\nX: a\nTransfer-Encoding: chunked\r\n",
        "0\r\n\r\n@2",
    ),
    post(
        "chunked behind a bare CR",
        "Content-Length: #B\r\nX: a\rTransfer-Encoding: chunked\r\n",
        "0\r\n\r\n@2",
    ),
    post(
        "chunked behind LF CR",
        "Content-Length: #B\r\nX: a\n\rTransfer-Encoding: chunked\r\n",
        "0\r\n\r\n@2",
    ),
    post(
        "chunked behind NUL",
        "Content-Length: #B\r\nX: a\0\r\nTransfer-Encoding: chunked\r\n",
        "0\r\n\r\n@2",
    ),
    post(
        "an end of the head in bare LF",
        "Content-Length: #B\r\nX: a\n\n",
        "@2",
    ),
    post(
        "an end of the head in CR",
        "Content-Length: #2\r\nX: a\r\r",
        "@2",
    ),
    post(
        "a line without a colon",
        "Content-Length: #2\r\nTransfer-Encoding chunked\r\n",
        "@2",
    ),
    post(
        "a field without a name",
        ": a\r\nContent-Length: #2\r\n",
        "@2",
    ),
    post(
        "length named by Connection",
        "Connection: Content-Length\r\nContent-Length: #2\r\n",
        "@2",
    ),
    post(
        "coding named by Connection",
        "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n",
        "x2\r\n@2\r\n0\r\n\r\n",
    ),
    post(
        "a chunk size over 64 bits, zero if it wraps",
        "Transfer-Encoding: chunked\r\n",
        "10000000000000000\r\n\r\n@2",
    ),
    post(
        "a chunk size over 32 bits, zero if it wraps",
        "Transfer-Encoding: chunked\r\n",
        "100000000\r\n\r\n@2",
    ),
    post(
        "a chunk size with 0x",
        "Transfer-Encoding: chunked\r\n",
        "0x0\r\n\r\n@2",
    ),
    post(
        "a chunk size below zero",
        "Transfer-Encoding: chunked\r\n",
        "-0\r\n\r\n@2",
    ),
    post(
        "a chunk size with a plus",
        "Transfer-Encoding: chunked\r\n",
        "+0\r\n\r\n@2",
    ),
    post(
        "a chunk size behind a space",
        "Transfer-Encoding: chunked\r\n",
        " 0\r\n\r\n@2",
    ),
    post(
        "no chunk size",
        "Transfer-Encoding: chunked\r\n",
        "\r\n\r\n@2",
    ),
    post(
        "a chunk size that ends in LF",
        "Transfer-Encoding: chunked\r\n",
        "0\n\n@2",
    ),
    post(
        "a chunk size that ends in CR",
        "Transfer-Encoding: chunked\r\n",
        "0\r\r@2",
    ),
    post(
        "a chunk longer than its size",
        "Transfer-Encoding: chunked\r\n",
        "1\r\nabc\r\n0\r\n\r\n@2",
    ),
    post(
        "a chunk that ends in LF",
        "Transfer-Encoding: chunked\r\n",
        "1\r\na\n0\r\n\r\n@2",
    ),
    post(
        "a chunk extension with LF",
        "Transfer-Encoding: chunked\r\n",
        "1;a\nb\r\na\r\n0\r\n\r\n@2",
    ),
    post(
        "a chunk extension with a bare CR",
        "Transfer-Encoding: chunked\r\n",
        "1;a\rb\r\na\r\n0\r\n\r\n@2",
    ),
    post(
        "a chunk extension with NUL",
        "Transfer-Encoding: chunked\r\n",
        "1;\0\r\na\r\n0\r\n\r\n@2",
    ),
    post(
        "trailers with a folded line",
        "Transfer-Encoding: chunked\r\n",
        "0\r\nX: a\r\n b\r\n\r\n@2",
    ),
    post(
        "trailers with a bare LF",
        "Transfer-Encoding: chunked\r\n",
        "0\r\nX: a\n\n@2",
    ),
    start(
        "lines that end in LF",
        "POST @1 HTTP/1.1\nHost: @H\n",
        "Content-Length: 0\n",
        "\n@2",
    ),
    start(
        "a field that begins with a space",
        "POST @1 HTTP/1.1\r\n X: a\r\nHost: @H\r\n",
        "Content-Length: #2\r\n",
        "@2",
    ),
    start(
        "chunked in HTTP/1.0",
        "POST @1 HTTP/1.0\r\nHost: @H\r\n",
        "Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n",
        "0\r\n\r\n@2",
    ),
    start("HTTP/0.9", "GET @1\r\n", "", "@2"),
    start(
        "HTTP/1.10",
        "POST @1 HTTP/1.10\r\nHost: @H\r\n",
        "Content-Length: #2\r\n",
        "@2",
    ),
    start(
        "HTTP/1.1 behind two spaces",
        "POST @1  HTTP/1.1\r\nHost: @H\r\n",
        "Content-Length: #2\r\n",
        "@2",
    ),
    start(
        "a space in the target",
        "POST @1 x HTTP/1.1\r\nHost: @H\r\n",
        "Content-Length: #2\r\n",
        "@2",
    ),
    start(
        "NUL in the target",
        "POST @1\0 HTTP/1.1\r\nHost: @H\r\n",
        "Content-Length: #2\r\n",
        "@2",
    ),
    start(
        "a bare CR in the target",
        "POST @1\rx HTTP/1.1\r\nHost: @H\r\n",
        "Content-Length: #2\r\n",
        "@2",
    ),
    start(
        "a tab for a space",
        "POST\t@1\tHTTP/1.1\r\nHost: @H\r\n",
        "Content-Length: #2\r\n",
        "@2",
    ),
    start(
        "two hosts",
        "POST @1 HTTP/1.1\r\nHost: @H\r\nHost: @H\r\n",
        "Content-Length: #2\r\n",
        "@2",
    ),
    start(
        "no host",
        "POST @1 HTTP/1.1\r\n",
        "Content-Length: #2\r\n",
        "@2",
    ),
    start(
        "a GET with a body",
        "GET @1 HTTP/1.1\r\nHost: @H\r\n",
        "Content-Length: #2\r\n",
        "@2",
    ),
    start(
        "a HEAD with a chunked body",
        "HEAD @1 HTTP/1.1\r\nHost: @H\r\n",
        "Transfer-Encoding: chunked\r\n",
        "x2\r\n@2\r\n0\r\n\r\n",
    ),
    start(
        "a CONNECT with a body",
        "CONNECT @H:443 HTTP/1.1\r\nHost: @H\r\n",
        "Content-Length: 0\r\n",
        "@2",
    ),
    start(
        "the preface of HTTP/2",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n",
        "",
        "@2",
    ),
    start(
        "an upgrade to h2c",
        "GET @1 HTTP/1.1\r\nHost: @H\r\n",
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nContent-Length: #2\r\n",
        "@2",
    ),
];

/// A request without anything odd.
pub(super) fn get(host: &str, id: &str, what: &str) -> String {
    format!("GET /{id}{what} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

impl Payload {
    /// What is shown of it.
    pub(super) fn claim(&self) -> String {
        let start = self.start.unwrap_or_default();
        let text = format!("{start}{}\r\n{}", self.fields, self.body);
        let shown = text.escape_debug().to_string().replace('`', "'");
        let shown = shown.replace("\\\"", "\"");
        format!("{}: `{shown}`", self.name)
    }

    /// What is sent.
    pub(super) fn bytes(&self, host: &str, id: &str) -> Vec<u8> {
        let second = get(host, id, "second");
        let body = fill(self.body, &second, 0);
        let fields = fill(self.fields, &second, body.len());
        let start = self.start.unwrap_or("POST @1 HTTP/1.1\r\nHost: @H\r\n");
        let start = start
            .replace("@1", &format!("/{id}first"))
            .replace("@H", host);
        format!("{start}{fields}\r\n{body}").into_bytes()
    }
}

fn fill(text: &str, second: &str, body: usize) -> String {
    text.replace("#B", &body.to_string())
        .replace("#2", &second.len().to_string())
        .replace("x2", &format!("{:x}", second.len()))
        .replace("@2", second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_those_of_what_is_sent() {
        let second = get("a.test", "id-", "second");
        for payload in PAYLOADS {
            let bytes = String::from_utf8(payload.bytes("a.test", "id-")).unwrap();
            assert!(bytes.contains(&second), "{}", payload.name);
            assert!(!bytes.contains(['@', '#']), "{}", payload.name);
        }
        let first = String::from_utf8(PAYLOADS[0].bytes("a.test", "id-")).unwrap();
        let length = format!("Content-Length: {}\r\n", second.len() + 5);
        assert!(first.contains(&length), "{first}");
    }

    #[test]
    fn names_are_given_once() {
        let mut names: Vec<_> = PAYLOADS.iter().map(|payload| payload.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), PAYLOADS.len());
    }
}
