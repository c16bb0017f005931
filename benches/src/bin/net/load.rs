//! What is run inside the guest: loads that count what comes back, and print one line of `key=value` pairs.

use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinSet;

use crate::service::{MESSAGE_LEN, QUERY};

/// The first argument that makes this program a load.
pub(crate) const LOAD: &str = "load";
/// Connections at once where each is used for one exchange: so many that nobody waits for one round trip.
const AT_ONCE: u64 = 16;
/// Queries under way at once on each of as many sockets.
const QUERIES_AT_ONCE: usize = 32;
const SOCKETS: usize = 4;
/// After this a datagram is taken to be lost.
const PATIENCE: Duration = Duration::from_secs(1);

/// `load KIND ADDRESS NUMBER`.
pub(crate) fn run(args: &[String]) -> Result<String> {
    let [kind, address, number] = args else {
        bail!("write `{LOAD} KIND ADDRESS NUMBER`");
    };
    let (address, number) = (address.parse()?, number.parse()?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match kind.as_str() {
            "exchanges" => exchanges(address, Duration::from_secs(number)).await,
            "latency" => latency(address, Duration::from_secs(number)).await,
            "hold" => hold(address, number).await,
            "names" => names(address, Duration::from_secs(number)).await,
            other => bail!("{other:?} is no load"),
        }
    })
}

/// Connect, request, response, close.
async fn exchanges(address: SocketAddr, time: Duration) -> Result<String> {
    let start = Instant::now();
    let mut workers = JoinSet::new();
    for _ in 0..AT_ONCE {
        workers.spawn(async move {
            let mut count = 0_u64;
            while start.elapsed() < time {
                let mut stream = TcpStream::connect(address).await?;
                exchange(&mut stream).await?;
                count += 1;
            }
            anyhow::Ok(count)
        });
    }
    let mut count = 0;
    while let Some(worker) = workers.join_next().await {
        count += worker??;
    }
    let rate = count as f64 / start.elapsed().as_secs_f64();
    Ok(format!("count={count} rate={rate:.1}"))
}

/// One exchange after the other on one connection.
async fn latency(address: SocketAddr, time: Duration) -> Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut nanos, start) = (Vec::new(), Instant::now());
    while start.elapsed() < time {
        let before = Instant::now();
        exchange(&mut stream).await?;
        nanos.push(before.elapsed().as_nanos());
    }
    nanos.sort_unstable();
    let middle = nanos.get(nanos.len() / 2).context("no exchange")?;
    let micros = *middle as f64 / 1e3;
    Ok(format!("count={} p50_us={micros:.2}", nanos.len()))
}

/// Connections that were used once and stay open until standard input ends.
async fn hold(address: SocketAddr, count: u64) -> Result<String> {
    crate::raise_descriptor_limit()?;
    let mut streams = Vec::new();
    for _ in 0..count {
        let mut stream = TcpStream::connect(address).await?;
        exchange(&mut stream).await?;
        streams.push(stream);
    }
    crate::say(&format!("open={count}"))?;
    // Nothing else runs on this thread.
    let mut rest = Vec::new();
    std::io::stdin().read_to_end(&mut rest)?;
    Ok(format!("held={}", streams.len()))
}

async fn exchange(stream: &mut TcpStream) -> Result<()> {
    let mut message = [7; MESSAGE_LEN];
    stream.write_all(&message).await?;
    stream.read_exact(&mut message).await?;
    ensure!(message == [7; MESSAGE_LEN], "another answer than expected");
    Ok(())
}

/// The same question again and again; every answer must have an address in it.
async fn names(address: SocketAddr, time: Duration) -> Result<String> {
    let lost = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let mut workers = JoinSet::new();
    for _ in 0..SOCKETS {
        let lost = Arc::clone(&lost);
        workers.spawn(async move {
            let socket = UdpSocket::bind("0.0.0.0:0").await?;
            socket.connect(address).await?;
            let (mut answer, mut id, mut count) = ([0; 1500], 0_u16, 0_u64);
            let mut under_way = 0;
            while start.elapsed() < time {
                while under_way < QUERIES_AT_ONCE {
                    id = id.wrapping_add(1);
                    socket
                        .send(&[&id.to_be_bytes(), &QUERY[2..]].concat())
                        .await?;
                    under_way += 1;
                }
                let Ok(len) = tokio::time::timeout(PATIENCE, socket.recv(&mut answer)).await else {
                    lost.fetch_add(under_way as u64, Ordering::Relaxed);
                    under_way = 0;
                    continue;
                };
                let answer = &answer[..len?];
                // Response, no error, one answer at least.
                let good =
                    answer.len() > QUERY.len() && answer[2] & 0x80 != 0 && answer[3] & 0xf == 0;
                ensure!(
                    good && answer[6..8] != [0, 0],
                    "an answer without an address"
                );
                under_way -= 1;
                count += 1;
            }
            anyhow::Ok(count)
        });
    }
    let mut count = 0;
    while let Some(worker) = workers.join_next().await {
        count += worker??;
    }
    let rate = count as f64 / start.elapsed().as_secs_f64();
    let lost = lost.load(Ordering::Relaxed);
    Ok(format!("count={count} rate={rate:.1} lost={lost}"))
}
