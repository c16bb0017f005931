//! The head of a client's first request: one for a tunnel, or for an `http` URL. Pure: bytes in, an answer out.

use http::StatusCode;
use msb_name::{Authority, Host};

/// The most bytes a head may have; curl's are about 120.
pub(crate) const MAX_HEAD_LEN: usize = 8 * 1024;
/// The most fields a head may have.
const MAX_FIELDS: usize = 64;
/// A TLS record of type handshake (RFC 8446 section 5.1).
pub(super) const HANDSHAKE_RECORD: u8 = 22;

/// What the bytes so far are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Head {
    /// The beginning of a head.
    Incomplete,
    /// A request for a tunnel to `host` and `port`; its head has `len` bytes.
    Tunnel { host: Host, port: u16, len: usize },
    /// The beginning of a request for an `http` URL, which is served without a tunnel.
    Forward,
    /// A request that is answered with `status`.
    Refused { status: StatusCode, reason: String },
    /// No HTTP, so there is nothing to answer.
    NotHttp { reason: &'static str },
}

/// Reads the head of a request (RFC 9110 section 9.3.6).
pub(crate) fn parse(bytes: &[u8]) -> Head {
    if bytes.first() == Some(&HANDSHAKE_RECORD) {
        return Head::NotHttp {
            reason: "TLS to the proxy itself: give the proxy to the client as http://, or use the transparent mode",
        };
    }
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    let parsed = request.parse(bytes);
    if request.method.is_some_and(|method| method != "CONNECT")
        && request.path.is_some_and(is_http_url)
    {
        // Whatever else is to be said of it is for who serves such requests.
        return Head::Forward;
    }
    let len = match parsed {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD_LEN => return Head::Incomplete,
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return refused(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "the head of the request is too large",
            );
        }
        Err(_) if request.method.is_none() => {
            return Head::NotHttp {
                reason: "no HTTP request",
            };
        }
        Err(error) => {
            let reason = format!("the request is malformed: {error}");
            return refused(StatusCode::BAD_REQUEST, reason);
        }
    };
    match check(&request, &bytes[..len]) {
        Ok((host, port)) => Head::Tunnel { host, port, len },
        Err((status, reason)) => Head::Refused { status, reason },
    }
}

fn is_http_url(target: &str) -> bool {
    let scheme = target.get(..7);
    scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case("http://"))
}

fn refused(status: StatusCode, reason: impl Into<String>) -> Head {
    Head::Refused {
        status,
        reason: reason.into(),
    }
}

fn check(
    request: &httparse::Request<'_, '_>,
    head: &[u8],
) -> Result<(Host, u16), (StatusCode, String)> {
    let bad = |reason: &str| Err((StatusCode::BAD_REQUEST, reason.to_owned()));
    if request.method != Some("CONNECT") {
        let reason = "only CONNECT and http:// URLs are carried";
        return Err((StatusCode::NOT_IMPLEMENTED, reason.to_owned()));
    }
    if (1..head.len()).any(|at| head[at] == b'\n' && head[at - 1] != b'\r') {
        return bad("the request is malformed: a line ends without a carriage return");
    }
    // What follows the head is the tunnel's; two opinions on where that is must not be possible.
    let framed = |field: &&httparse::Header<'_>| {
        let name = field.name;
        let empty = name.eq_ignore_ascii_case("content-length") && field.value == b"0";
        !empty
            && (name.eq_ignore_ascii_case("content-length")
                || name.eq_ignore_ascii_case("transfer-encoding"))
    };
    if request.headers.iter().find(framed).is_some() {
        return bad("a CONNECT request has no body");
    }
    match Authority::parse(request.path.unwrap_or_default()) {
        Ok(authority) => match authority.port() {
            Some(port) if port > 0 => Ok((authority.host().clone(), port)),
            _ => bad("CONNECT needs a host and a port from 1 to 65535"),
        },
        Err(error) => Err((StatusCode::BAD_REQUEST, error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(head: &Head) -> String {
        match head {
            Head::Incomplete => "incomplete".to_owned(),
            Head::Tunnel { host, port, len } => format!("{host} {port} {len}"),
            Head::Forward => "forward".to_owned(),
            Head::Refused { status, reason } => format!("{} {reason}", status.as_u16()),
            Head::NotHttp { reason } => format!("not HTTP: {reason}"),
        }
    }

    #[track_caller]
    fn check(head: &str, expected: &str) {
        let text = text(&parse(head.as_bytes()));
        assert!(text.contains(expected), "{text}\nexpected: {expected}");
    }

    #[track_caller]
    fn check_target(target: &str, expected: &str) {
        check(&format!("CONNECT {target} HTTP/1.1\r\n\r\n"), expected);
    }

    #[test]
    fn a_tunnel_is_to_a_host_and_a_port() {
        check_target("a.test:443", "a.test 443 31");
        check_target("A.Test.:8443", "a.test 8443 ");
        check_target("192.0.2.1:443", "192.0.2.1 443 ");
        check_target("[2001:db8::1]:443", "443 ");
        let curl = "CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\nUser-Agent: curl/8\r\nProxy-Connection: Keep-Alive\r\n\r\n";
        check(curl, &format!("a.test 443 {}", curl.len()));
        check(
            &format!("{curl}\x16\x03\x01"),
            &format!("a.test 443 {}", curl.len()),
        );
        check("CONNECT a.test:443 HTTP/1.0\r\n\r\n", "a.test 443 ");
        check(
            "CONNECT a.test:443 HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
            "a.test 443 ",
        );
    }

    #[test]
    fn what_is_no_host_and_port_is_refused() {
        for target in [
            "a.test",
            "a.test:",
            "a.test:0",
            "a.test:65536",
            "a.test:x",
            ":443",
            "u@a.test:443",
            "a.test:443/",
            "https://a.test:443/",
            "/",
            "*",
            "a b.test:443",
            "a.test:443?x",
            "[a.test]:443",
        ] {
            check_target(target, "400 ");
        }
    }

    #[test]
    fn other_requests_are_refused_and_told_why() {
        check(
            "GET https://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
            "501 only CONNECT",
        );
        check("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", "501 only CONNECT");
        check("connect a.test:443 HTTP/1.1\r\n\r\n", "501 only CONNECT");
        check(
            "CONNECT a.test:443 HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
            "400 ",
        );
        check(
            "CONNECT a.test:443 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "400 ",
        );
        check("CONNECT a.test:443 HTTP/1.1\nHost: a.test\n\n", "400 ");
        check(
            "CONNECT a.test:443 HTTP/1.1\r\nHo st: a.test\r\n\r\n",
            "400 ",
        );
        check("CONNECT a.test:443 HTTP/2.0\r\n\r\n", "400 ");
    }

    #[test]
    fn requests_for_http_urls_are_known_by_their_first_line() {
        for line in [
            "GET http://a.test/ HTTP/1.1\r\n",
            "POST HTTP://a.test:8080/x HTTP/1.0\r\n",
            "PROPFIND http://a.test HTTP/1.1\r\nFaulty field\r\n",
        ] {
            check(line, "forward");
            check(&format!("{line}Host: a.test\r\n\r\n"), "forward");
        }
        check("GET http://a.test/", "incomplete");
        check("CONNECT http://a.test/ HTTP/1.1\r\n\r\n", "400 ");
    }

    #[test]
    fn heads_without_end_are_refused() {
        check(
            &format!(
                "CONNECT a.test:443 HTTP/1.1\r\nA: {}",
                "a".repeat(MAX_HEAD_LEN)
            ),
            "431 ",
        );
        check(
            &format!(
                "CONNECT a.test:443 HTTP/1.1\r\n{}\r\n",
                "A: b\r\n".repeat(MAX_FIELDS + 1)
            ),
            "431 ",
        );
    }

    #[test]
    fn other_protocols_are_recognised_at_once() {
        check("\x16\x03\x01\x02\x00", "TLS to the proxy itself");
        for garbage in ["\0", "\x05\x01\0", "{\"a\":1}", "\x7fELF"] {
            check(garbage, "not HTTP: no HTTP");
        }
    }

    #[test]
    fn every_beginning_of_a_head_asks_for_more() {
        let head = "CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n";
        for end in 0..head.len() {
            assert_eq!(parse(&head.as_bytes()[..end]), Head::Incomplete, "{end}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_are_a_panic_nor_a_tunnel_beyond_them(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for prefix in [&b""[..], b"CONNECT ", b"CONNECT a.test:443 HTTP/1.1\r\n"] {
                let bytes = [prefix, &bytes].concat();
                if let Head::Tunnel { len, .. } = parse(&bytes) {
                    prop_assert!(len <= bytes.len());
                    prop_assert!(bytes[..len].ends_with(b"\r\n\r\n"));
                }
            }
        }
    }
}
