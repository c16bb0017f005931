//! A network with a guest on it, an event log, and host services for the guest to reach.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};

use msb_net::{Config, Event, Flow, Link, Network};
use msb_policy::{NetworkPolicy, PinTable};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixStream};
use tokio::sync::mpsc;

use crate::guest::Guest;

/// The gateway as the guest knows it.
pub(crate) const GATEWAY_V4: &str = "192.0.0.1";
/// The gateway's IPv6 address.
pub(crate) const GATEWAY_V6: &str = "fd00:6d:7362::1";

/// A guest, its network, and what the network reported.
pub(crate) struct Rig {
    pub(crate) guest: Guest,
    pub(crate) network: Network,
    pub(crate) flows: mpsc::Receiver<Flow>,
    pub(crate) pins: Arc<Mutex<PinTable>>,
    events: mpsc::UnboundedReceiver<Event>,
}

impl Rig {
    /// A network with this policy.
    pub(crate) fn new(policy: &str) -> Self {
        Self::with(policy, |_| {})
    }

    /// The same, with further settings.
    pub(crate) fn with(policy: &str, configure: impl FnOnce(&mut Config)) -> Self {
        let (guest_link, link) = UnixStream::pair().unwrap();
        Self::over(link, guest_link, policy, configure)
    }

    /// The same, over a link whose other end is told as `guest_link`.
    pub(crate) fn over(
        link: impl Into<Link>,
        guest_link: UnixStream,
        policy: &str,
        configure: impl FnOnce(&mut Config),
    ) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        let mut config = Config::new(Arc::new(NetworkPolicy::parse(policy).unwrap()));
        // Nothing of the host's resolvers may be needed by a test.
        config.nameservers = Some(Vec::new());
        config.events = Arc::new(move |event| {
            let _ = sender.send(event);
        });
        configure(&mut config);
        let pins = Arc::clone(&config.pins);
        let (network, flows) = msb_net::start(link, config);
        Self {
            guest: Guest::start(guest_link),
            network,
            flows,
            pins,
            events,
        }
    }

    /// Joins every flow with its upstream from now on, as a facade without interception would.
    pub(crate) fn relay(&mut self) {
        let (_, empty) = mpsc::channel(1);
        let mut flows = std::mem::replace(&mut self.flows, empty);
        tokio::spawn(async move {
            while let Some(flow) = flows.recv().await {
                tokio::spawn(flow.relay());
            }
        });
    }

    /// The next event.
    pub(crate) async fn event(&mut self) -> Event {
        crate::guest::soon(self.events.recv()).await.unwrap()
    }

    /// All events so far.
    pub(crate) fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.events.try_recv().ok()).collect()
    }

    pub(crate) fn pins(&self) -> MutexGuard<'_, PinTable> {
        self.pins.lock().unwrap()
    }
}

/// A policy of these rules and profiles.
pub(crate) fn rules(rules: &[&str], profiles: &str) -> Arc<NetworkPolicy> {
    let rules = rules.iter().map(|rule| rule.parse().unwrap());
    let builder = NetworkPolicy::builder().rules(rules);
    Arc::new(builder.profiles(profiles).unwrap().build().unwrap())
}

/// The gateway's address with `port`.
pub(crate) fn gateway(port: u16) -> SocketAddr {
    SocketAddr::new(GATEWAY_V4.parse().unwrap(), port)
}

/// The gateway's IPv6 address with `port`.
pub(crate) fn gateway_v6(port: u16) -> SocketAddr {
    SocketAddr::new(GATEWAY_V6.parse().unwrap(), port)
}

/// A service on the host's IPv4 loopback that runs `serve` for each connection; returns its port.
pub(crate) async fn serve<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> u16
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    port
}

/// A service that sends back what it gets.
pub(crate) async fn echo_service() -> u16 {
    serve(|mut stream| async move {
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
        let _ = write.shutdown().await;
    })
    .await
}

/// A service that reads to the end, then answers with how much it read.
pub(crate) async fn count_service() -> u16 {
    serve(|mut stream| async move {
        let mut all = Vec::new();
        if stream.read_to_end(&mut all).await.is_ok() {
            let _ = stream.write_all(all.len().to_string().as_bytes()).await;
        }
    })
    .await
}

/// A port on the host's loopback where nothing listens, kept from others while the socket lives.
pub(crate) fn closed_port() -> (TcpSocket, u16) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

/// `len` octets in which a wrong order shows.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    let words = (0_u32..).flat_map(|index| index.wrapping_mul(0x9e37_79b1).to_le_bytes());
    words.take(len).collect()
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
