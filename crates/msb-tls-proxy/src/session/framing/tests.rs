//! What passes and what does not, the same for every way of cutting the bytes.

use proptest::prelude::*;

use super::*;

const LIMIT: usize = 512;

/// Inspects `bytes` in pieces that end at the given places; the fault and how many bytes passed.
fn inspect(bytes: &[u8], cuts: &[usize]) -> Result<(), (usize, &'static str)> {
    let mut framing = RequestFraming::new(LIMIT);
    let mut from = 0;
    for &to in cuts.iter().chain([&bytes.len()]) {
        framing
            .inspect(&bytes[from..to])
            .map_err(|fault| (from + fault.pass, fault.reason))?;
        from = to;
    }
    Ok(())
}

/// Passes, or is refused for a reason that contains `expected`, however the bytes are cut in two.
#[track_caller]
fn check(bytes: &str, expected: Result<(), &str>) {
    let bytes = bytes.as_bytes();
    for cut in 0..=bytes.len() {
        match (inspect(bytes, &[cut]), expected) {
            (Ok(()), Ok(())) => {}
            (Err((_, reason)), Err(expected)) if reason.contains(expected) => {}
            (answer, _) => panic!(
                "cut at {cut} of {:?}: {answer:?}, expected {expected:?}",
                String::from_utf8_lossy(bytes)
            ),
        }
    }
}

#[track_caller]
fn passes(bytes: &str) {
    check(bytes, Ok(()));
}

#[track_caller]
fn refused(bytes: &str, reason: &str) {
    check(bytes, Err(reason));
}

#[test]
fn requests_framed_in_one_way_pass() {
    passes("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    passes("GET / HTTP/1.0\r\n\r\n");
    passes("GET /?a=%20b HTTP/1.1\r\nHost: a\r\nX:\tb c \r\nY:\r\n\r\n");
    passes("GET / HTTP/1.1\r\nHost: a\r\nX: caf\u{e9}\r\n\r\n");
    passes(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    );
    passes(
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    );
    passes(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\n0A;x=\"y\"\r\n0123456789\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    );
    passes(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: 1\r\nY: 2\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    );
}

#[test]
fn two_framings_at_once_are_refused() {
    refused(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        "both",
    );
    refused(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
        "both",
    );
    refused(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n",
        "more than one Content-Length",
    );
    refused(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
        "more than one Content-Length",
    );
    refused(
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.0",
    );
    refused(
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "more than one Host",
    );
    refused("GET / HTTP/1.1\r\nX: a\r\n\r\n", "no Host");
}

#[test]
fn look_alikes_of_framing_are_refused() {
    for value in [
        "3, 3",
        "+3",
        "-1",
        "0x3",
        "3 3",
        "",
        "18446744073709551616",
        "3;",
    ] {
        refused(
            &format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {value}\r\n\r\n"),
            "plain number",
        );
    }
    for value in [
        "identity",
        "chunked, identity",
        "gzip, chunked",
        "xchunked",
        "chunked;q=1",
        "\"chunked\"",
        "",
    ] {
        refused(
            &format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {value}\r\n\r\n"),
            "exactly `chunked`",
        );
    }
    refused(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        "exactly `chunked`",
    );
    refused(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer_Encoding: chunked\r\n\r\n",
        "some servers",
    );
    refused(
        "POST / HTTP/1.1\r\nHost: a\r\nContent_Length: 3\r\n\r\n",
        "some servers",
    );
    refused(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n",
        "no token",
    );
    refused(
        "POST / HTTP/1.1\r\nHost: a\r\n Transfer-Encoding: chunked\r\n\r\n",
        "folded",
    );
    refused(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 3\r\n\r\n",
        "trailers",
    );
}

#[test]
fn lines_that_parsers_end_differently_are_refused() {
    refused("GET / HTTP/1.1\nHost: a\r\n\r\n", "CR LF");
    refused("GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", "CR LF");
    refused("GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", "CR LF");
    refused("GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", "control");
    refused("GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n", "folded");
    refused("GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", "colon");
    refused("\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", "carriage return");
}

#[test]
fn targets_in_a_form_of_their_method_pass_and_others_are_refused() {
    let request = |line: &str| format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n");
    for line in [
        "GET /",
        "GET //a/../b;c?d=/e",
        "OPTIONS *",
        "OPTIONS /",
        "GET https://a/b",
        "GET HTTP://a:1",
        "CONNECT a:1",
    ] {
        passes(&request(line));
    }
    for line in [
        "GET *",
        "GET a",
        "GET a:443",
        "GET a/b",
        "GET ?b",
        "GET ../b",
        "GET ://a",
        "GET /b#c",
        "GET https://a#@b/",
        "GET https://a/#",
        "CONNECT a:1#b",
        "options *",
    ] {
        refused(&request(line), "request line");
    }
}

/// To the parser behind it they are whole, so there is no waiting for an end in CR LF.
#[test]
fn heads_that_end_for_liberal_parsers_only_are_refused_at_once() {
    refused("GET / HTTP/1.1\nHost: a\n\n", "CR LF");
    refused("GET / HTTP/1.1\r\nHost: a\r\nX: y\n\r\n", "CR LF");
    refused("GET / HTTP/1.1\r\nHost: a\r\n\n", "CR LF");
    refused("\nGET / HTTP/1.1\r\nHost: a", "CR LF");
}

#[test]
fn odd_request_lines_are_refused() {
    refused("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "request line");
    refused("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", "request line");
    refused("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", "request line");
    refused("GET /\tHTTP/1.1\r\nHost: a\r\n\r\n", "request line");
    refused("G(T / HTTP/1.1\r\nHost: a\r\n\r\n", "request line");
    refused("GET /\r\n\r\n", "version");
    refused("GET / HTTP/1.2\r\nHost: a\r\n\r\n", "version");
    refused("GET / http/1.1\r\nHost: a\r\n\r\n", "version");
    refused("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "version");
}

#[test]
fn odd_chunks_are_refused() {
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for size in [
        "",
        "g",
        " 3",
        "3 ",
        "0x3",
        "+3",
        "10000000000000000",
        "3 ;x",
        "3\t;x",
    ] {
        refused(&format!("{head}{size}\r\nabc\r\n0\r\n\r\n"), "chunk size");
    }
    refused(&format!("{head}3;a\nb\r\nabc\r\n0\r\n\r\n"), "control");
    refused(
        &format!("{head}3\r\nabcd\r\n0\r\n\r\n"),
        "longer than its size",
    );
    refused(
        &format!("{head}3\r\nabc\n0\r\n\r\n"),
        "longer than its size",
    );
    refused(
        &format!("{head}3;{}\r\nabc\r\n0\r\n\r\n", "x".repeat(MAX_SIZE_LINE)),
        "too long",
    );
    refused(&format!("{head}0\r\n\rX: a\r\n\r\n"), "carriage return");
    refused(
        &format!("{head}0\r\nX: {}\r\n\r\n", "x".repeat(LIMIT)),
        "too long",
    );
}

#[test]
fn a_fault_in_a_later_request_lets_the_earlier_ones_pass() {
    let good = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
    let both = [&good[..], b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"].concat();
    assert_eq!(inspect(&both, &[]), Err((good.len(), "more than one Host")));
}

#[test]
fn a_head_over_the_limit_is_left_to_the_parser() {
    passes(&format!(
        "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
        "x".repeat(LIMIT)
    ));
    let exact = "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nX: \r\n\r\n";
    let filler = "x".repeat(LIMIT - exact.len());
    refused(
        &exact.replace("X: ", &format!("X: {filler}")),
        "more than one Host",
    );
}

proptest! {
    #[test]
    fn cutting_changes_no_answer(
        parts in prop::collection::vec(prop::sample::select(vec![
            "GET / HTTP/1.1\r\n", "POST /x HTTP/1.1\r\n", "Host: a\r\n", "Content-Length: 5\r\n",
            "Transfer-Encoding: chunked\r\n", "\r\n", "\n", "\r", "5\r\n", "hello", "0\r\n", "X: y\r\n", " ", "abc",
        ]), 0..20),
        cuts in prop::collection::vec(0_usize..200, 0..6),
    ) {
        let bytes = parts.concat();
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
        cuts.sort_unstable();
        let whole = inspect(bytes.as_bytes(), &[]).map_err(|(_, reason)| reason);
        let cut = inspect(bytes.as_bytes(), &cuts).map_err(|(_, reason)| reason);
        prop_assert_eq!(whole, cut);
    }
}
