//! Malformed requests, byte by byte, towards servers that others wrote: each ends in a defined answer, and no server reads
//! a second request out of one.

mod http2;
mod payloads;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use msb_testkit::client_config;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConnection, StreamOwned};

use self::payloads::{PAYLOADS, Payload};
use crate::case::{Case, Mode, Protocol, Tool};
use crate::lab::{self, HAPROXY, Lab, NGINX, TRANSPARENT};
use crate::process;

pub(crate) const TEXT: &str = "a malformed or ambiguous request ends within 20 s, and the server's log has no second request. \
     Shown is what differs from a usual POST: `@1` is its target, `@2` the second request, `@H` the host, `#B` and `#2` \
     lengths in decimal, `x2` in hexadecimal.";

/// Nothing may wait longer for what does not come.
const LIMIT: Duration = Duration::from_secs(20);

const ORIGINS: [(&str, &str); 2] = [("nginx", NGINX), ("HAProxy", HAPROXY)];

pub(crate) fn cases(lab: &Lab) -> Vec<Case> {
    let mut rows = Vec::new();
    for (name, host) in ORIGINS {
        for payload in PAYLOADS {
            rows.push(case(lab, (name, host), payload.claim(), move |lab, id| {
                one(lab, host, id, payload)
            }));
        }
        let claim = "control: of two requests in a row, both are read".to_owned();
        rows.push(case(lab, (name, host), claim, move |lab, id| {
            two(lab, host, id)
        }));
        let claim =
            "control: without the proxy, a second request is read out of some of these".to_owned();
        rows.push(case(lab, (name, host), claim, move |lab, id| {
            direct(lab, host, id)
        }));
    }
    rows.extend(http2::cases(lab));
    rows
}

fn case(
    lab: &Lab,
    (origin, host): (&'static str, &str),
    claim: String,
    work: impl Fn(&Lab, &str) -> Result<()> + Send + Sync + 'static,
) -> Case {
    let version = match lab.without(host) {
        Some(reason) => Err(reason),
        None => Ok("over TLS".to_owned()),
    };
    Case {
        tool: Tool {
            name: "raw bytes",
            version,
        },
        mode: Mode::Transparent,
        protocol: Protocol::H1,
        origin,
        claim,
        work: Box::new(work),
    }
}

fn one(lab: &Lab, host: &'static str, id: &str, payload: &Payload) -> Result<()> {
    send(lab, Way::Proxy, host, &payload.bytes(host, id))?;
    let (first, second) = settled(lab, host, id)?;
    ensure!(second == 0, "the server read a second request out of it");
    ensure!(first <= 1, "the server read it {first} times");
    Ok(())
}

fn two(lab: &Lab, host: &'static str, id: &str) -> Result<()> {
    let bytes = [
        payloads::get(host, id, "first"),
        payloads::get(host, id, "second"),
    ]
    .concat();
    send(lab, Way::Proxy, host, bytes.as_bytes())?;
    let (first, second) = settled(lab, host, id)?;
    ensure!((first, second) == (1, 1), "{first} and {second} were read");
    Ok(())
}

fn direct(lab: &Lab, host: &'static str, id: &str) -> Result<()> {
    let mut read = 0;
    for (number, payload) in PAYLOADS.iter().enumerate() {
        let id = format!("{id}{number}-");
        // What the server makes of it is what it logs.
        let _ = send(lab, Way::Direct, host, &payload.bytes(host, &id));
        read += settled(lab, host, &id)?.1;
    }
    ensure!(
        read > 0,
        "none of {} payloads would do harm",
        PAYLOADS.len()
    );
    Ok(())
}

/// How often the server read the first and the second request.
///
/// It logs them in the order in which they came, so whatever came before a request made now is in the log with that.
fn settled(lab: &Lab, host: &'static str, id: &str) -> Result<(usize, usize)> {
    let mark = format!("{id}mark");
    send(
        lab,
        Way::Direct,
        host,
        payloads::get(host, id, "mark").as_bytes(),
    )?;
    process::wait_for("the log", LIMIT, || !lab.received(host, &mark).is_empty())?;
    let read = |what| lab.received(host, &format!("{id}{what}")).len();
    Ok((read("first"), read("second")))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Proxy,
    Direct,
}

/// Sends `bytes` over a new connection, and reads to its end, which has to come.
fn send(lab: &Lab, way: Way, host: &'static str, bytes: &[u8]) -> Result<Vec<u8>> {
    let (address, authority): (SocketAddr, _) = match way {
        Way::Proxy => (TRANSPARENT.parse()?, "transparent.pem"),
        Way::Direct => (lab::address(host), "root.pem"),
    };
    let authority = CertificateDer::from_pem_file(lab.path(authority)).context("no authority")?;
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    let config = client_config(&authority, &[b"http/1.1"]);
    let connection = ClientConnection::new(config, ServerName::try_from(host)?)?;
    let mut stream = StreamOwned::new(connection, stream);
    // It may be reset while it is still sending.
    let sent = stream.write_all(bytes).and_then(|()| stream.flush());
    stream.conn.send_close_notify();
    let _ = sent.and_then(|()| stream.flush());
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    loop {
        match stream.read(&mut part) {
            Ok(0) => return Ok(answer),
            Ok(count) => answer.extend_from_slice(&part[..count]),
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) =>
            {
                let answer = String::from_utf8_lossy(&answer).into_owned();
                bail!("nothing more came after {answer:?}, and no end");
            }
            // A reset or an alert.
            Err(_) => return Ok(answer),
        }
    }
}
