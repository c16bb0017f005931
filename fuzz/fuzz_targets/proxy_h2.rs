//! A guest's HTTP/2 frames, to a server that echoes: no value goes astray, only what was judged arrives, nothing hangs.
#![no_main]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Request, Response};
use libfuzzer_sys::fuzz_target;
use msb_fuzz::proxy::{
    HOST, OTHER, VALUE, ended, holds, operations, pair, run, serve, settle, take_events,
};
use msb_tls_proxy::Event;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

type Arrived = Arc<Mutex<Vec<(String, bool)>>>;

/// Notes each request, and sends back all that is in it.
async fn echo(stream: DuplexStream, arrived: Arrived) {
    let Ok(mut connection) = h2::server::handshake(stream).await else {
        return;
    };
    while let Some(Ok((request, respond))) = connection.accept().await {
        note(&request, &arrived);
        tokio::spawn(answer(request, respond));
    }
}

fn note(request: &Request<RecvStream>, arrived: &Arrived) {
    let fields = request.headers();
    for name in [
        "connection",
        "transfer-encoding",
        "upgrade",
        "keep-alive",
        "host",
    ] {
        assert!(!fields.contains_key(name), "{name} of one connection");
    }
    let authority = request
        .uri()
        .authority()
        .map(|it| it.host().to_ascii_lowercase());
    let target = request.uri().to_string();
    let has_value = holds(target.as_bytes(), VALUE)
        || fields.values().any(|value| holds(value.as_bytes(), VALUE));
    let authority = authority.unwrap_or_default();
    let authority = authority.strip_suffix('.').unwrap_or(&authority).to_owned();
    if let Ok(mut arrived) = arrived.lock() {
        arrived.push((authority, has_value));
    }
}

async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let (head, mut body) = request.into_parts();
    let mut answer = Response::new(());
    for name in ["content-type", "authorization", "x"] {
        if let Some(value) = head.headers.get(name) {
            answer.headers_mut().insert(name_of(name), value.clone());
        }
    }
    let Ok(mut sending) = respond.send_response(answer, false) else {
        return;
    };
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        let _ = sending.send_data(data, false);
    }
    if let Ok(Some(trailers)) = body.trailers().await {
        let _ = sending.send_trailers(trailers);
    } else {
        let _ = sending.send_data(Bytes::new(), true);
    }
}

fn name_of(name: &'static str) -> http::HeaderName {
    http::HeaderName::from_static(name)
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len())
        .unwrap_or_default()
        .to_be_bytes();
    [&len[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

/// Lines `name: value` as literals without indexing.
fn fields(text: &[u8]) -> Vec<u8> {
    let mut block = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        // The colon that names begin with is part of them.
        let colon = line.iter().skip(1).position(|byte| *byte == b':');
        let Some(at) = colon.map(|at| at + 1) else {
            continue;
        };
        let (name, value) = (&line[..at], &line[at + 1..]);
        block.push(0);
        for text in [name, value.strip_prefix(b" ").unwrap_or(value)] {
            let text = &text[..text.len().min(126)];
            block.push(u8::try_from(text.len()).unwrap_or_default());
            block.extend_from_slice(text);
        }
    }
    block
}

/// The frames that one operation stands for; their first two bytes are the flags and the stream.
fn frames(operation: u8, bytes: &[u8]) -> Vec<u8> {
    let [flags, stream, payload @ ..] = bytes else {
        return Vec::new();
    };
    let (flags, stream) = (*flags, *stream);
    match operation {
        b'h' => frame(1, flags, stream, &fields(payload)),
        b'c' => frame(9, flags, stream, &fields(payload)),
        b'd' => frame(0, flags, stream, payload),
        b'r' => frame(3, 0, stream, &[0, 0, 0, flags]),
        b's' => frame(4, flags, stream, payload),
        b'p' => frame(6, flags, stream, payload),
        b'w' => frame(8, 0, stream, &[0, 0, flags, 1]),
        b'x' => frame(flags, stream, 0, payload),
        b'g' => bytes.to_vec(),
        _ => Vec::new(),
    }
}

async fn connection(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else {
        return;
    };
    let host = if first % 2 == 0 { HOST } else { OTHER };
    let ((guest, near), (far, server)) = (pair(), pair());
    let proxy = serve(near, far, host, true);
    let arrived = Arrived::default();
    let server = tokio::spawn(echo(server, Arc::clone(&arrived)));
    let (mut reader, mut writer) = tokio::io::split(guest);
    let reading = tokio::spawn(async move {
        let mut received = Vec::new();
        let _ = reader.read_to_end(&mut received).await;
        received
    });
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    sent.extend(frame(4, 0, 0, &[]));
    let _ = writer.write_all(&sent).await;
    for (operation, bytes) in operations(rest) {
        if operation == b't' {
            let seconds = bytes.first().copied().unwrap_or_default();
            tokio::time::sleep(Duration::from_secs(seconds.into())).await;
            continue;
        }
        let bytes = frames(operation, bytes);
        sent.extend_from_slice(&bytes);
        let write = writer.write_all(&bytes);
        let _ = tokio::time::timeout(Duration::from_secs(1), write).await;
        settle().await;
    }
    let _ = writer.shutdown().await;
    drop(writer);
    ended(proxy).await;
    let guest = ended(reading).await;
    ended(server).await;
    let arrived = arrived.lock().map(|it| it.clone()).unwrap_or_default();
    judge(host, &sent, &guest, &arrived);
}

fn judge(host: &str, sent: &[u8], guest: &[u8], arrived: &[(String, bool)]) {
    let guest_knows = holds(sent, VALUE);
    for (authority, has_value) in arrived {
        assert_eq!(authority, host, "a request for another host arrived");
        assert!(
            host == HOST || guest_knows || !has_value,
            "the value went to another host"
        );
    }
    assert!(
        guest_knows || !holds(guest, VALUE),
        "the guest got the value"
    );
    let events = take_events();
    let answered = events
        .iter()
        .filter(|event| matches!(event, Event::Request { .. }));
    assert!(
        answered.count() <= arrived.len(),
        "policy saw more than arrived"
    );
}

fuzz_target!(|data: &[u8]| run(connection(data)));
