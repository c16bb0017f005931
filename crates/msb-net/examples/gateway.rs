//! A gateway without a sandbox: answers links on a unix socket and relays every connection the policy allows.
//!
//! ```text
//! cargo run -p msb-net --example gateway -- /tmp/net.sock public,host
//! qemu-system-x86_64 … -netdev stream,id=n,server=off,addr.type=unix,addr.path=/tmp/net.sock \
//!     -device virtio-net-pci,netdev=n,mac=02:6d:73:62:00:02,host_mtu=65520
//! ```
//! In the guest: `ip addr add 192.0.0.2/29 dev eth0`, `ip route add default via 192.0.0.1`, name server 192.0.0.1.

use std::error::Error;
use std::sync::Arc;

use msb_net::Config;
use msb_policy::NetworkPolicy;
use tokio::net::{UnixListener, UnixStream};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let Some(path) = arguments.next() else {
        eprintln!("usage: gateway SOCKET [PROFILES [MAX_FLOWS]]");
        return Ok(());
    };
    let profiles = arguments.next().unwrap_or_else(|| "public".to_owned());
    let mut config = Config::new(Arc::new(NetworkPolicy::parse(&profiles)?));
    if let Some(max_flows) = arguments.next() {
        config.max_flows = max_flows.parse()?;
    }
    config.events = Arc::new(|event| eprintln!("{event:?}"));
    let listener = UnixListener::bind(&path)?;
    eprintln!("links are answered on {path}, network profile {profiles}");
    loop {
        let (link, _) = listener.accept().await?;
        tokio::spawn(serve(link, config.clone()));
    }
}

async fn serve(link: UnixStream, config: Config) {
    let (network, mut flows) = msb_net::start(link, config);
    while let Some(flow) = flows.recv().await {
        tokio::spawn(async move {
            let destination = flow.destination;
            if let Err(error) = flow.relay().await {
                eprintln!("{destination}: {error}");
            }
        });
    }
    drop(network);
}
