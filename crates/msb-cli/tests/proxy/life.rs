//! How a proxy begins and ends.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::process::Stdio;

use msb_testkit::{CertificateKind, Origin, RawOrigin};
use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

use crate::rig::{HOST, OTHER, OWN_FAILURE, Rig, within};

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

/// SPEC S10. A process that may not be dumped belongs to root in `/proc`, so that others of its user cannot read it; root's
/// own would belong to root anyway, so there it runs as somebody else.
#[tokio::test]
async fn nobody_else_can_read_the_proxys_memory_and_it_is_never_dumped() {
    const SOMEBODY: u32 = 12_345;
    let rig = Rig::new();
    let is_root = rustix::process::getuid().is_root();
    let program = if is_root {
        let copy = rig.path("msb");
        std::fs::copy(env!("CARGO_BIN_EXE_msb"), &copy).unwrap();
        std::fs::set_permissions(&copy, Permissions::from_mode(0o755)).unwrap();
        std::fs::set_permissions(rig.path(""), Permissions::from_mode(0o777)).unwrap();
        copy
    } else {
        PathBuf::from(env!("CARGO_BIN_EXE_msb"))
    };
    let mut command = Command::new(program);
    command
        .args([
            "proxy",
            "--listen",
            "127.0.0.1:0",
            "--mode",
            "connect",
            "--ca-out",
            "ca.pem",
        ])
        .current_dir(rig.path(""))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    if is_root {
        command.uid(SOMEBODY).gid(SOMEBODY);
    }
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    within(lines.next_line())
        .await
        .unwrap()
        .expect("it listens");
    let proc = PathBuf::from(format!("/proc/{}", child.id().unwrap()));
    let status = std::fs::read_to_string(proc.join("status")).unwrap();
    let user = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .unwrap();
    let user: u32 = user.split_whitespace().next().unwrap().parse().unwrap();
    let owner = std::fs::metadata(proc.join("mem")).unwrap().uid();
    assert_ne!(user, 0, "the test is not worth anything");
    assert_ne!(owner, user, "others of its user can read its memory");
    let limits = std::fs::read_to_string(proc.join("limits")).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"));
    let core: Vec<_> = core.unwrap().split_whitespace().skip(4).collect();
    assert_eq!(core, ["0", "0", "bytes"]);
}

/// Systems give 1,024 to begin with, which is no more than some hundred connections.
#[tokio::test]
async fn as_many_files_may_be_open_as_the_system_allows() {
    let rig = Rig::new();
    let mut command = Command::new("sh");
    command
        .args(["-c", "ulimit -Sn 256 && exec \"$@\"", "sh"])
        .args([env!("CARGO_BIN_EXE_msb"), "proxy", "--mode", "connect"])
        .args(["--listen", "127.0.0.1:0", "--ca-out", "ca.pem"])
        .current_dir(rig.path(""))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    within(lines.next_line())
        .await
        .unwrap()
        .expect("it listens");
    let limits = format!("/proc/{}/limits", child.id().unwrap());
    let limits = std::fs::read_to_string(limits).unwrap();
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let files: Vec<_> = files.unwrap().split_whitespace().skip(3).collect();
    assert_eq!(files[0], files[1], "{limits}");
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

/// Neither plaintext ones between two requests nor those whose server is not to be had.
#[tokio::test]
async fn no_kind_of_connection_without_a_request_holds_up_the_end() {
    let rig = Rig::new();
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let flags = "--drain-timeout 3600 --secret-no-tls-identity API_KEY";
    let proxy = rig
        .proxy("connect", server.local_addr().unwrap(), flags)
        .await;
    let tunnel = format!("CONNECT {HOST}:80 HTTP/1.1\r\nHost: {HOST}:80\r\n\r\n");
    let (_, mut plaintext) = proxy.ask(tunnel.as_bytes()).await;
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    plaintext.write_all(request.as_bytes()).await.unwrap();
    let (mut served, _) = within(server.accept()).await.unwrap();
    let mut got = [0; 1000];
    // Before it answers: a server that speaks first is not one of HTTP.
    assert_ne!(within(served.read(&mut got)).await.unwrap(), 0);
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    served.write_all(answer).await.unwrap();
    assert_ne!(within(plaintext.read(&mut got)).await.unwrap(), 0);
    // Its certificate is for neither name.
    let untrusted = rig.root.server(&["x.test"], CertificateKind::Good);
    let untrusted = Origin::start(untrusted).await;
    let other = Rig::new();
    let failing = other
        .proxy("connect", untrusted.address(), "--drain-timeout 3600")
        .await;
    let _told = failing.tunnel(&format!("{HOST}:443"), HOST).await.unwrap();
    for proxy in [proxy, failing] {
        proxy.signal(Signal::TERM);
        assert_eq!(proxy.end().await, (Some(0), String::new()));
    }
}

#[tokio::test]
async fn what_cannot_end_in_order_is_told_apart() {
    let rig = Rig::new();
    let origin = RawOrigin::start(rig.root.server(&[HOST, OTHER], CertificateKind::Good)).await;
    let flags = format!("--drain-timeout 0 --tls-bypass {OTHER}");
    let proxy = rig.proxy("connect", origin.address(), &flags).await;
    let _waiting = tunnel_that_waits(&proxy, &origin).await;
    let (_, stream) = proxy
        .ask(format!("CONNECT {OTHER}:443 HTTP/1.1\r\nHost: {OTHER}:443\r\n\r\n").as_bytes())
        .await;
    let root = rig.root.der();
    let bypassed = msb_testkit::connect_tls_over(stream, OTHER, &root);
    let (bypassed, _served) = tokio::join!(bypassed, origin.accept());
    let _bypassed = bypassed.unwrap();
    proxy.signal(Signal::TERM);
    let (code, said) = proxy.end().await;
    assert_eq!(
        (code, said.as_str()),
        (
            Some(0),
            "msb: 2 connections did not end in time and were cut off, 1 of them bypassed or not HTTP\n"
        )
    );
}
