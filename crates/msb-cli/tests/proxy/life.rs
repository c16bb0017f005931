//! How a proxy begins and ends.

use std::os::unix::fs::PermissionsExt as _;

use msb_testkit::{CertificateKind, RawOrigin};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::rig::{HOST, OWN_FAILURE, Rig, within};

#[tokio::test]
async fn the_certificate_is_written_before_clients_are_called_and_its_key_is_not() {
    let rig = Rig::new();
    let origin = rig.origin().await;
    let proxy = rig.proxy("connect", origin.address(), "").await;
    let pem = rig.read("ca.pem");
    assert!(
        pem.starts_with("-----BEGIN CERTIFICATE-----") && !pem.contains("KEY"),
        "{pem}"
    );
    let mode = std::fs::metadata(rig.path("ca.pem"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o644);
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.end().await, (Some(0), String::new()));
    assert_eq!(rig.read("ca.pem"), pem, "it stays");
    let again = rig.proxy("connect", origin.address(), "").await;
    assert_ne!(rig.read("ca.pem"), pem, "each run has its own");
    again.get(HOST).await.unwrap();
}

#[tokio::test]
async fn an_open_request_is_finished_after_sigterm_and_no_new_one_begins() {
    let rig = Rig::new();
    let origin = RawOrigin::start(rig.root.server(&[HOST], CertificateKind::Good)).await;
    let proxy = rig.proxy("connect", origin.address(), "").await;
    let (asked, served) = tokio::join!(
        async {
            let mut stream = proxy.tunnel(&format!("{HOST}:443"), HOST).await.unwrap();
            let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            stream
        },
        async {
            let mut stream = origin.accept().await;
            let mut byte = [0];
            stream.read_exact(&mut byte).await.unwrap();
            stream
        },
    );
    proxy.signal(Signal::TERM);
    within(async {
        // The listener ends some time after the signal.
        while TcpStream::connect(proxy.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let (mut asked, mut served) = (asked, served);
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate";
    served.write_all(answer).await.unwrap();
    let mut text = String::new();
    within(asked.read_to_string(&mut text)).await.unwrap();
    assert!(text.ends_with("\r\n\r\nlate"), "{text}");
    drop(served);
    assert_eq!(proxy.end().await, (Some(0), String::new()));
}

#[tokio::test]
async fn draining_is_bounded_and_says_what_it_cut_off() {
    let rig = Rig::new();
    let origin = RawOrigin::start(rig.root.server(&[HOST], CertificateKind::Good)).await;
    let proxy = rig
        .proxy("connect", origin.address(), "--drain-timeout 0")
        .await;
    let _waiting = tunnel_that_waits(&proxy, &origin).await;
    proxy.signal(Signal::INT);
    let (code, said) = proxy.end().await;
    assert_eq!(
        (code, said.as_str()),
        (
            Some(0),
            "msb: 1 connections did not end in time and were cut off\n"
        )
    );
}

#[tokio::test]
async fn a_second_signal_ends_the_proxy_at_once() {
    for (second, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let rig = Rig::new();
        let origin = RawOrigin::start(rig.root.server(&[HOST], CertificateKind::Good)).await;
        let proxy = rig
            .proxy("connect", origin.address(), "--drain-timeout 3600")
            .await;
        let _waiting = tunnel_that_waits(&proxy, &origin).await;
        proxy.signal(Signal::TERM);
        within(async {
            while TcpStream::connect(proxy.address).await.is_ok() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        proxy.signal(second);
        assert_eq!(proxy.end().await.0, Some(code));
    }
}

/// A connection whose server does not answer.
async fn tunnel_that_waits(
    proxy: &crate::rig::Running,
    origin: &RawOrigin,
) -> (impl Sized + use<>, impl Sized + use<>) {
    tokio::join!(
        async {
            let mut stream = proxy.tunnel(&format!("{HOST}:443"), HOST).await.unwrap();
            let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            stream
        },
        async {
            let mut stream = origin.accept().await;
            let mut byte = [0];
            stream.read_exact(&mut byte).await.unwrap();
            stream
        },
    )
}

#[tokio::test]
async fn a_port_that_is_taken_is_told_and_no_certificate_is_written() {
    let rig = Rig::new();
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let args = format!("proxy --listen {address} --mode connect --ca-out ca.pem");
    let (code, said) = rig.finish(&args).await;
    assert_eq!(code, Some(OWN_FAILURE));
    assert!(
        said.contains(&format!(
            "cannot listen on {address}: Address already in use"
        )),
        "{said}"
    );
    assert!(!rig.path("ca.pem").exists());
}

#[tokio::test]
async fn idle_connections_do_not_hold_up_the_end() {
    let rig = Rig::new();
    let origin = rig.origin().await;
    let proxy = rig
        .proxy("connect", origin.address(), "--drain-timeout 3600")
        .await;
    let mut idle = proxy.tunnel(&format!("{HOST}:443"), HOST).await.unwrap();
    let request = format!("GET /status/204 HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    idle.write_all(request.as_bytes()).await.unwrap();
    assert_ne!(within(idle.read(&mut [0; 1000])).await.unwrap(), 0);
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.end().await, (Some(0), String::new()));
}
