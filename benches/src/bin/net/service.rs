//! The host's services that the guests reach: one that sends back what it gets, a name server, and iperf3's.

use std::convert::Infallible;
use std::io::{self, BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Where iperf3 is, as `cargo xtask bench` tells.
pub(crate) const IPERF: &str = "MSB_BENCH_IPERF3";
/// Octets of a request and of its response.
pub(crate) const MESSAGE_LEN: usize = 64;

/// A question for the IPv4 address of `bench.example.com`, recursion desired (RFC 1035, 4.1).
pub(crate) const QUERY: &[u8] =
    b"\0\0\x01\0\0\x01\0\0\0\0\0\0\x05bench\x07example\x03com\0\0\x01\0\x01";
/// The answer's record: the name of the question, an A record of a public address, good for an hour.
const RECORD: &[u8] = b"\xc0\x0c\0\x01\0\x01\0\0\x0e\x10\0\x04\x08\x08\x04\x04";

/// Services on the loopback interface, for as long as this program runs.
pub(crate) struct Services {
    /// Answers [`QUERY`].
    pub(crate) names: SocketAddr,
    /// How many queries have come.
    pub(crate) queries: Arc<AtomicU64>,
}

/// iperf3's server for one client. Dropping it ends it.
pub(crate) struct Iperf {
    server: Child,
    pub(crate) port: u16,
}

impl Services {
    pub(crate) fn start() -> Result<Self> {
        let queries = Arc::new(AtomicU64::new(0));
        Ok(Self {
            names: names(Arc::clone(&queries))?,
            queries,
        })
    }
}

/// A service that sends back messages of [`MESSAGE_LEN`] octets. Each measurement has one of its own: to one that had thousands of
/// connections just now, the kernel finds free ports the slower the more.
pub(crate) fn echo() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // It ends with this program, or when no descriptor is left, which the loads then tell.
    std::thread::spawn(move || runtime.block_on(accept(listener)));
    Ok(port)
}

async fn accept(listener: TcpListener) -> io::Result<Infallible> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(send_back(stream));
    }
}

async fn send_back(mut stream: TcpStream) -> io::Result<Infallible> {
    stream.set_nodelay(true)?;
    let mut message = [0; MESSAGE_LEN];
    loop {
        stream.read_exact(&mut message).await?;
        stream.write_all(&message).await?;
    }
}

fn names(queries: Arc<AtomicU64>) -> Result<SocketAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = socket.local_addr()?;
    std::thread::spawn(move || {
        let mut query = [0; 1500];
        while let Ok((len, asker)) = socket.recv_from(&mut query) {
            queries.fetch_add(1, Ordering::Relaxed);
            if len < QUERY.len() {
                continue;
            }
            // Flags of a response with recursion, one question, one answer; EDNS is not understood and left out.
            let head = [query[0], query[1], 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0];
            let answer = [&head[..], &query[12..QUERY.len()], RECORD].concat();
            // Who asked and went away gets no answer.
            let _ = socket.send_to(&answer, asker);
        }
    });
    Ok(address)
}

impl Iperf {
    /// Starts it. It serves one client only: after that, a server is not always ready for the next.
    pub(crate) fn start() -> Result<Self> {
        let program = std::env::var_os(IPERF).context("iperf3 is not installed")?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        let mut command = Command::new(program);
        command
            .args(["--server", "--one-off", "--forceflush"])
            .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut server = command.spawn().context("cannot start iperf3")?;
        let stdout = server.stdout.take().context("no output")?;
        let iperf = Self { server, port };
        let mut lines = BufReader::new(stdout).lines();
        while let Some(line) = lines.next().transpose()? {
            if line.contains("listening") {
                break;
            }
        }
        // It stops when nobody reads what it says.
        std::thread::spawn(move || lines.map_while(io::Result::ok).for_each(drop));
        Ok(iperf)
    }
}

impl Drop for Iperf {
    fn drop(&mut self) {
        // Both fail only when it has ended.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
