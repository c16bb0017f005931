//! A response head on its way to the guest.

use bytes::Bytes;
use http::header::{self, HeaderMap};
use http::{HeaderValue, Version, response};
use msb_secrets::ResponseScrubber;

use super::head::hop_by_hop;

/// What is wrong with a response that cannot be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ResponseFault {
    /// The body is coded in a way that would have to be undone (RFC 9112 section 6.1).
    #[error("the server used a transfer coding other than chunked")]
    TransferCoding,
    /// The length cannot be read in one way, which matters even where there is no body (RFC 9110 section 8.6).
    #[error("the server sent a Content-Length that is not one plain number")]
    Length,
    /// An upgrade that was not asked for.
    #[error("the server switched protocols without being asked")]
    Upgraded,
    /// It uses what it was not offered.
    #[error("the server chose a WebSocket extension that was not offered")]
    Extended,
}

/// Makes `head` fit for the guest: without what concerns only the server's connection, and without
/// `Alt-Svc`, whose offers (HTTP/3, other ports) would lead the guest around the interception
/// (SPEC T8). `closing` says that the guest's connection ends after this response.
pub(crate) fn rewrite(head: &mut response::Parts, closing: bool) -> Result<(), ResponseFault> {
    if head.status.is_informational() {
        return Err(ResponseFault::Upgraded);
    }
    let mut codings = head.headers.get_all(header::TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        let chunked = coding
            .as_bytes()
            .trim_ascii()
            .eq_ignore_ascii_case(b"chunked");
        if !chunked || codings.next().is_some() {
            return Err(ResponseFault::TransferCoding);
        }
        // Transfer-Encoding wins over Content-Length (RFC 9112 section 6.3).
        head.headers.remove(header::CONTENT_LENGTH);
    }
    if !has_plain_length(&head.headers) {
        return Err(ResponseFault::Length);
    }
    let http2 = head.version == Version::HTTP_2;
    let closing = !http2 && (closing || closes(head.version, &head.headers));
    // What a server's Connection names wrongly is left in place: that is no fault of the guest.
    for name in hop_by_hop(&head.headers).names {
        head.headers.remove(name);
    }
    head.headers.remove(header::ALT_SVC);
    if closing {
        head.headers
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if !http2 {
        head.version = Version::HTTP_11;
    }
    Ok(())
}

/// Makes the answer that switches to WebSocket fit for the guest. `read` says that the messages will be read.
pub(crate) fn switch(head: &mut response::Parts, read: bool) -> Result<(), ResponseFault> {
    let upgrade = head.headers.get(header::UPGRADE);
    let websocket = upgrade.is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"));
    if !websocket || head.headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(ResponseFault::Upgraded);
    }
    if read && head.headers.contains_key(header::SEC_WEBSOCKET_EXTENSIONS) {
        return Err(ResponseFault::Extended);
    }
    head.headers.remove(header::CONTENT_LENGTH);
    head.headers.remove(header::ALT_SVC);
    Ok(())
}

/// Makes the answer that opens a WebSocket on a stream fit for the guest (RFC 8441 section 5); `read` as in [`switch`].
pub(crate) fn open(head: &mut response::Parts, read: bool) -> Result<(), ResponseFault> {
    rewrite(head, false)?;
    if read && head.headers.contains_key(header::SEC_WEBSOCKET_EXTENSIONS) {
        return Err(ResponseFault::Extended);
    }
    head.headers.remove(header::CONTENT_LENGTH);
    Ok(())
}

/// Makes an informational answer fit for the guest, as [`rewrite`] does others. It has no body, so nothing may say that
/// it has one (RFC 9110 section 15.2).
pub(crate) fn inform(head: &mut response::Parts) {
    for name in hop_by_hop(&head.headers).names {
        head.headers.remove(name);
    }
    head.headers.remove(header::ALT_SVC);
    head.headers.remove(header::CONTENT_LENGTH);
}

/// Takes values out of the fields.
pub(crate) fn scrub(head: &mut response::Parts, scrubber: &mut ResponseScrubber) {
    scrub_fields(&mut head.headers, |name, value| {
        scrubber.header_value(name, value)
    });
}

/// Takes values out of the trailers.
pub(crate) fn scrub_trailers(trailers: &mut HeaderMap, scrubber: &mut ResponseScrubber) {
    scrub_fields(trailers, |name, value| scrubber.trailer_value(name, value));
}

fn scrub_fields(fields: &mut HeaderMap, mut clean: impl FnMut(&str, &[u8]) -> Option<Bytes>) {
    for (name, value) in fields {
        if let Some(clean) = clean(name.as_str(), value.as_bytes()) {
            // A placeholder that no field may hold is better missing than the value there.
            *value = HeaderValue::from_maybe_shared(clean)
                .unwrap_or_else(|_| HeaderValue::from_static(""));
        }
    }
}

/// Whether there is no Content-Length, or one that every reader takes for the same number.
fn has_plain_length(headers: &HeaderMap) -> bool {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else {
        return true;
    };
    let plain = length.as_bytes().iter().all(u8::is_ascii_digit);
    let number = length.to_str().ok().and_then(|it| it.parse::<u64>().ok());
    plain && number.is_some() && lengths.next().is_none()
}

/// Whether the server will end its connection after this response (RFC 9112 section 9.3).
fn closes(version: Version, headers: &HeaderMap) -> bool {
    let has = |token: &str| {
        headers
            .get_all(header::CONNECTION)
            .iter()
            .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
            .any(|option| option.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    };
    has("close") || version < Version::HTTP_11 && !has("keep-alive")
}

#[cfg(test)]
mod tests {
    use http::Response;

    use super::*;

    #[track_caller]
    fn check(
        version: Version,
        headers: &[(&str, &str)],
        closing: bool,
        expected: Result<&[(&str, &str)], ResponseFault>,
    ) {
        let mut response = Response::builder().version(version);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        let (mut head, ()) = response.body(()).unwrap().into_parts();
        let answer = rewrite(&mut head, closing).map(|()| {
            head.headers
                .iter()
                .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
                .collect::<Vec<_>>()
        });
        assert_eq!(answer, expected.map(<[_]>::to_vec), "{headers:?}");
    }

    #[test]
    fn what_concerns_one_connection_is_removed() {
        let v11 = Version::HTTP_11;
        check(v11, &[("server", "a")], false, Ok(&[("server", "a")]));
        check(
            v11,
            &[
                ("connection", "keep-alive, x-hop"),
                ("keep-alive", "timeout=5"),
                ("x-hop", "1"),
                ("x-end", "2"),
            ],
            false,
            Ok(&[("x-end", "2")]),
        );
        check(
            v11,
            &[("upgrade", "h2c"), ("proxy-connection", "x"), ("te", "x")],
            false,
            Ok(&[]),
        );
        check(
            v11,
            &[("transfer-encoding", "chunked"), ("content-length", "3")],
            false,
            Ok(&[]),
        );
        check(
            v11,
            &[("content-length", "3")],
            false,
            Ok(&[("content-length", "3")]),
        );
    }

    #[test]
    fn offers_that_lead_around_the_proxy_are_removed() {
        check(
            Version::HTTP_11,
            &[("alt-svc", "h3=\":443\""), ("alt-svc", "clear"), ("x", "y")],
            false,
            Ok(&[("x", "y")]),
        );
    }

    #[test]
    fn the_end_of_a_connection_is_passed_on() {
        let close = &[("connection", "close")];
        check(Version::HTTP_11, close, false, Ok(close));
        check(Version::HTTP_11, &[], true, Ok(close));
        check(Version::HTTP_10, &[], false, Ok(close));
        check(
            Version::HTTP_10,
            &[("connection", "Keep-Alive")],
            false,
            Ok(&[]),
        );
    }

    #[test]
    fn lengths_that_readers_differ_on_are_refused() {
        let refused = Err(ResponseFault::Length);
        for length in ["5, 5", "+5", "-5", "0x5", "", "18446744073709551616"] {
            let fields = &[("content-length", length)];
            check(Version::HTTP_11, fields, false, refused);
        }
        let twice = &[("content-length", "5"), ("content-length", "5")];
        check(Version::HTTP_11, twice, false, refused);
    }

    #[test]
    fn other_transfer_codings_are_refused() {
        for coding in ["gzip, chunked", "gzip", "identity"] {
            check(
                Version::HTTP_11,
                &[("transfer-encoding", coding)],
                false,
                Err(ResponseFault::TransferCoding),
            );
        }
    }
}
