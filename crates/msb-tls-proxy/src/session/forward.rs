//! A request to a proxy without a tunnel: which server it is for (RFC 9112 section 3.2.2).

use http::uri::Scheme;
use http::{Method, StatusCode, request};
use msb_name::Host;

use super::head;

const HTTP_PORT: u16 = 80;

/// The host and the port to be dialled; or what to answer instead.
pub(crate) fn server(head: &request::Parts) -> Result<(Host, u16), (StatusCode, String)> {
    let refused = |status, reason: &str| Err((status, reason.to_owned()));
    if head.method == Method::CONNECT {
        let reason = "a tunnel needs a connection of its own";
        return refused(StatusCode::NOT_IMPLEMENTED, reason);
    }
    match head.uri.scheme() {
        None => {
            let reason = "this is a proxy: the target has to be an http:// URL";
            return refused(StatusCode::BAD_REQUEST, reason);
        }
        Some(scheme) if *scheme != Scheme::HTTP => {
            let reason = "other than http:// goes through a tunnel (CONNECT)";
            return refused(StatusCode::NOT_IMPLEMENTED, reason);
        }
        Some(_) => {}
    }
    if head::asks_for_websocket(head) {
        let reason = "a WebSocket goes through a tunnel (CONNECT)";
        return refused(StatusCode::NOT_IMPLEMENTED, reason);
    }
    let authority = head::authority(head, &Scheme::HTTP)?;
    Ok((
        authority.host().clone(),
        authority.port().unwrap_or(HTTP_PORT),
    ))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[track_caller]
    fn check(method: &str, target: &str, fields: &[(&str, &str)], expected: &str) {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        let got = match server(&head) {
            Ok((host, port)) => format!("{host} {port}"),
            Err((status, reason)) => format!("{} {reason}", status.as_u16()),
        };
        assert!(got.starts_with(expected), "{method} {target}: {got}");
    }

    #[test]
    fn the_server_is_the_one_that_the_target_names() {
        let host = [("host", "a.test")];
        check("GET", "http://a.test/x", &host, "a.test 80");
        check("POST", "http://A.Test", &host, "a.test 80");
        let port = [("host", "a.test:8080")];
        check("GET", "http://a.test:8080/", &port, "a.test 8080");
        check(
            "GET",
            "http://192.0.2.1/",
            &[("host", "192.0.2.1")],
            "192.0.2.1 80",
        );
    }

    #[test]
    fn what_names_no_server_or_two_is_refused() {
        let host = [("host", "a.test")];
        check("GET", "/", &host, "400 this is a proxy");
        check("GET", "http://a.test/", &[], "400 ");
        check("GET", "http://a.test/", &[("host", "b.test")], "400 ");
        check("GET", "http://u@a.test/", &host, "400 ");
        check("GET", "https://a.test/", &host, "501 other than http");
        check("GET", "ftp://a.test/", &host, "501 other than http");
        check("CONNECT", "a.test:443", &host, "501 a tunnel");
        let socket = [
            ("host", "a.test"),
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
        ];
        check("GET", "http://a.test/", &socket, "501 a WebSocket");
    }
}
