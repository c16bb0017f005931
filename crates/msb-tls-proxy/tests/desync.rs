//! Attack 11, from the server's side: whatever a server sends, its guest can read it in one way only.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::memory::still_works;
use common::strict::{self, Reading};
use common::{Bench, HOST, within};
use msb_testkit::{CertificateKind, client_config};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

const SECOND: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond";
/// What is not to be taken for an answer of its own.
const HIDDEN: &str = "HTTP/1.1 299 Hidden\r\nContent-Length: 0\r\n\r\n";

/// Answers the first request with `odd` and a second one properly.
async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, odd: String, ends: bool) {
    let mut received = Vec::new();
    let mut answers = [odd.as_str(), SECOND].into_iter();
    let mut answered = 0;
    // Where the proxy waits for more of an answer, the server's end is the end of it.
    let patience = Duration::from_secs(1);
    while let Ok(Ok(1..)) = timeout(patience, stream.read_buf(&mut received)).await {
        let whole = strict::requests(&received, false).whole.len();
        for _ in answered..whole {
            let Some(answer) = answers.next() else {
                break;
            };
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.flush().await;
        }
        answered = whole;
        if ends && answered > 0 {
            break;
        }
    }
    let _ = stream.shutdown().await;
}

fn answers() -> Vec<String> {
    let mut all = Vec::new();
    for fields in [
        "Content-Length: 5",
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 46",
        "Content-Length: 5, 5",
        "Content-Length: 5, 46",
        "Content-Length: +5",
        "Content-Length: 0x5",
        "Content-Length: -5",
        "Content-Length:",
        "Content-Length: 18446744073709551621",
        "Content-Length : 5",
        "Content-Length: 5\nX: y",
        "X: y\rContent-Length: 5",
        "Content-Length:\r\n 5",
        "Content-Length: 5\0",
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding : chunked",
        " Transfer-Encoding: chunked",
        "Transfer-Encoding:\x0bchunked",
        "Transfer-Encoding: chunked\x0b",
        "Transfer_Encoding: chunked",
        "Transfer\0-Encoding: chunked",
        "Connection: close",
        "Connection: Content-Length\r\nContent-Length: 5",
        "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked",
        "Upgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 5",
        "X",
        ": y",
        "X Y: z",
    ] {
        for body in [
            "hello".to_owned(),
            format!("hello{HIDDEN}"),
            format!("0\r\n\r\n{HIDDEN}"),
            "5\r\nhello\r\n0\r\n\r\n".to_owned(),
            format!("{:x}\r\n{HIDDEN}\r\n0\r\n\r\n", HIDDEN.len()),
            String::new(),
        ] {
            all.push(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n{body}"));
        }
    }
    for line in [
        "HTTP/1.1 200",
        "HTTP/1.1 200 ",
        "HTTP/1.1  200 OK",
        "HTTP/1.1 0200 OK",
        "HTTP/1.1 20 OK",
        "HTTP/1.1 2000 OK",
        "HTTP/1.1 099 OK",
        "HTTP/1.1 999 OK",
        "HTTP/1.1 2x0 OK",
        "HTTP/1.1 -20 OK",
        "HTTP/1.1 200 O\0K",
        "HTTP/1.1 200 O\rK",
        "HTTP/1.1 200 \u{e9}",
        "HTTP/1.0 200 OK",
        "HTTP/2 200 OK",
        "HTTP/2.0 200 OK",
        "HTTP/0.9 200 OK",
        "http/1.1 200 OK",
        "ICY 200 OK",
        "\r\nHTTP/1.1 200 OK",
        "\nHTTP/1.1 200 OK",
        "xHTTP/1.1 200 OK",
        " HTTP/1.1 200 OK",
        "HTTP/1.1 204 No Content",
        "HTTP/1.1 205 Reset Content",
        "HTTP/1.1 304 Not Modified",
        "HTTP/1.1 100 Continue",
        "HTTP/1.1 101 Switching Protocols",
        "HTTP/1.1 102 Processing",
        "HTTP/1.1 103 Early Hints",
        "HTTP/1.1 199 x",
    ] {
        for rest in [
            "Content-Length: 5\r\n\r\nhello".to_owned(),
            format!("Content-Length: {}\r\n\r\n{HIDDEN}", HIDDEN.len()),
            format!("Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{HIDDEN}"),
            format!("X: y\r\n\r\n{SECOND}"),
            format!("X: y\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n{SECOND}"),
            "X: y\r\n\r\n".to_owned(),
        ] {
            all.push(format!("{line}\r\n{rest}"));
        }
    }
    for body in [
        "5;x\r\nhello\r\n0\r\n\r\n",
        "5;\nx\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5\nhello\n0\n\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhelloxx0\r\n\r\n",
        "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "ffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\nX: y\r\n\r\n",
        "5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n",
        "5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "5\r\nhello\r\n0\r\nX: y\nZ: y\r\n\r\n",
        "5\r\nhello\r\n0\r\n X\r\n\r\n",
        "5\r\nhello\r\n0\r\n",
        "5\r\nhel",
        "-1\r\n\r\n",
        "\r\n0\r\n\r\n",
    ] {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        all.push(format!("{head}{body}"));
        all.push(format!("{head}{body}{HIDDEN}"));
    }
    all
}

/// Attack 11.
#[tokio::test(start_paused = true)]
async fn whatever_a_server_sends_is_read_in_one_way() {
    let bench = Bench::new();
    let guest = client_config(bench.proxy.ca().cert_der(), &[b"http/1.1"]);
    let server = bench.root.server(&[HOST], CertificateKind::Good);
    let (mut faults, mut served) = (Vec::new(), 0);
    for (number, odd) in answers().into_iter().enumerate() {
        let method = ["GET", "HEAD"][number % 2];
        let (config, ends) = (Arc::clone(&server), number % 5 == 0);
        let mut line = bench.tls_in_memory(HOST, Arc::clone(&guest), config).await;
        let serving = tokio::spawn(serve(line.server, odd.clone(), ends));
        let request = |method| format!("{method} / HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
        let requests = request(method) + &request("GET");
        line.guest.write_all(requests.as_bytes()).await.unwrap();
        line.guest.shutdown().await.unwrap();
        let mut received = Vec::new();
        let ended = within(line.guest.read_to_end(&mut received)).await.is_ok();
        within(line.proxy).await.unwrap();
        within(serving).await.unwrap();
        let Reading { whole, fault, .. } = strict::responses(&received, &[method, "GET"], ended);
        // What is cut off is not taken for whole: its end is missing, or comes with an error.
        let cut_off = [
            None,
            Some("a head that breaks off"),
            Some("a body that breaks off"),
        ];
        if !cut_off.contains(&fault) || whole.len() > 2 {
            let [odd, received] =
                [odd.as_bytes(), &received].map(|it| it.escape_ascii().to_string());
            faults.push(format!(
                "{fault:?} {method}\n  server {odd}\n  guest {received}\n"
            ));
        }
        served += usize::from(whole.iter().any(|it| it.line[1] != "502"));
        if number % 20 == 0 {
            still_works(&bench, &guest, &server).await;
        }
    }
    assert!(
        faults.is_empty(),
        "{} faults\n{}",
        faults.len(),
        faults.concat()
    );
    assert!(served > 100, "{served}");
}
