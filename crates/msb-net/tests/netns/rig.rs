//! A network with a kernel on it, and a web server for it to reach.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use msb_net::{Addresses, Config, Event, Link, Network};
use msb_policy::NetworkPolicy;
use msb_testkit::{NetnsGuest, NetnsSettings};
use tokio::runtime::{Builder, Runtime};

/// A guest, its network, and what the network reported.
pub(crate) struct Rig {
    pub(crate) guest: NetnsGuest,
    events: Arc<Mutex<Vec<Event>>>,
    _network: Network,
    // Dropped last: the network's tasks run on it.
    _runtime: Runtime,
}

impl Rig {
    /// A network with this policy; nothing, with a word, where such a guest cannot be.
    pub(crate) fn start(policy: &str) -> Option<Self> {
        Self::with(policy, |_| {})
    }

    /// The same, with further settings.
    pub(crate) fn with(policy: &str, configure: impl FnOnce(&mut Config)) -> Option<Self> {
        Self::over(policy, configure, |tap| Link::tap(tap).unwrap())
    }

    /// The same, over the link that `link` makes out of the TAP device, inside the runtime.
    pub(crate) fn over(
        policy: &str,
        configure: impl FnOnce(&mut Config),
        link: impl FnOnce(OwnedFd) -> Link,
    ) -> Option<Self> {
        Self::connect(policy, configure, settings, link)
    }

    /// The same, with a guest that has to find out everything by itself.
    pub(crate) fn bare(policy: &str, configure: impl FnOnce(&mut Config)) -> Option<Self> {
        let settings = |config: &Config| NetnsSettings {
            addresses: Vec::new(),
            gateways: Vec::new(),
            ..settings(config)
        };
        Self::connect(policy, configure, settings, |tap| Link::tap(tap).unwrap())
    }

    fn connect(
        policy: &str,
        configure: impl FnOnce(&mut Config),
        settings: impl FnOnce(&Config) -> NetnsSettings,
        link: impl FnOnce(OwnedFd) -> Link,
    ) -> Option<Self> {
        let events = Arc::new(Mutex::new(Vec::new()));
        let mut config = Config::new(Arc::new(NetworkPolicy::parse(policy).unwrap()));
        // Nothing of the host's resolvers may be needed by a test.
        config.nameservers = Some(Vec::new());
        let sink = Arc::clone(&events);
        config.events = Arc::new(move |event| sink.lock().unwrap().push(event));
        configure(&mut config);
        let mut guest = NetnsGuest::start_or_skip(&settings(&config))?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let inside = runtime.enter();
        let link = link(guest.take_tap());
        let (network, mut flows) = msb_net::start(link, config);
        tokio::spawn(async move {
            while let Some(flow) = flows.recv().await {
                tokio::spawn(flow.relay());
            }
        });
        drop(inside);
        Some(Self {
            guest,
            events,
            _network: network,
            _runtime: runtime,
        })
    }

    /// All events so far.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap().clone()
    }
}

fn settings(config: &Config) -> NetnsSettings {
    let Addresses {
        gateway_v4,
        gateway_v6,
        guest_v4,
        prefix_len_v4,
        guest_v6,
        prefix_len_v6,
        guest_mac,
        ..
    } = config.addresses;
    NetnsSettings {
        mtu: config.mtu,
        mac: guest_mac,
        addresses: vec![
            (guest_v4.into(), prefix_len_v4),
            (guest_v6.into(), prefix_len_v6),
        ],
        gateways: vec![gateway_v4.into(), gateway_v6.into()],
        nameservers: vec![gateway_v4.into()],
    }
}

/// The gateway's addresses.
pub(crate) fn gateways() -> [IpAddr; 2] {
    let addresses = Addresses::default();
    [addresses.gateway_v4.into(), addresses.gateway_v6.into()]
}

/// The host's answer to a URL's `HOST:PORT` part.
pub(crate) fn authority(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

/// Runs `command`, with a word if its program is not there.
pub(crate) fn output(command: &mut Command) -> Output {
    command.output().unwrap()
}

/// `program`, installed or as `cargo xtask net-tools` has unpacked it; says so as tests do that are skipped if it is neither.
pub(crate) fn tool(program: &str) -> Option<PathBuf> {
    let unpacked = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("net-tools/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Servers are not in everybody's PATH.
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let mut dirs = std::env::split_paths(&path).chain(system).chain([unpacked]);
    let found = dirs.find_map(|dir| Some(dir.join(program)).filter(|path| path.is_file()));
    if found.is_none() {
        eprintln!("skipped: {program} is not there: `cargo xtask net-tools` brings it");
    }
    found
}

/// `len` octets in which a wrong order shows.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    let words = (0_u32..).flat_map(|index| index.wrapping_mul(0x9e37_79b1).to_le_bytes());
    words.take(len).collect()
}

/// A web server on the host's IPv4 loopback; returns its port. `GET /N` is answered with N octets of the pattern, and a body
/// that is put with `same` if it is the pattern of its length.
pub(crate) fn web_server() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            // The guest may end a connection wherever it likes.
            std::thread::spawn(move || answer(stream).is_ok());
        }
    });
    port
}

fn answer(stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    loop {
        let (mut first, mut body_len) = (String::new(), 0);
        if reader.read_line(&mut first)? == 0 {
            return Ok(());
        }
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            if line.trim().is_empty() {
                break;
            }
            let lower = line.to_ascii_lowercase();
            if let Some(value) = lower.strip_prefix("content-length:") {
                body_len = value.trim().parse().unwrap();
            }
            if lower.starts_with("expect:") {
                writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
        }
        let mut body = vec![0; body_len];
        reader.read_exact(&mut body)?;
        let answer = if first.starts_with("PUT") {
            let same = body == pattern(body_len);
            if same {
                b"same".to_vec()
            } else {
                b"different".to_vec()
            }
        } else {
            let path = first.split(' ').nth(1).unwrap_or_default();
            pattern(path.trim_start_matches('/').parse().unwrap_or(0))
        };
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
            answer.len()
        );
        writer.write_all(&[head.as_bytes(), &answer].concat())?;
    }
}
