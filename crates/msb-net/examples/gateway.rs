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

use msb_net::{Config, Flow};
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
        tokio::spawn(relay(flow));
    }
    drop(network);
}

/// A segment of the guest's link is up to 64 KiB long: smaller buffers would cut each one up.
const BUFFER_LEN: usize = 64 * 1024;

async fn relay(mut flow: Flow) {
    let reset = flow.guest.reset_handle();
    let (guest, upstream) = (&mut flow.guest, &mut flow.upstream);
    let relayed = tokio::io::copy_bidirectional_with_sizes(guest, upstream, BUFFER_LEN, BUFFER_LEN);
    if let Err(error) = relayed.await {
        eprintln!("{}: {error}", flow.destination);
        // Whichever end broke off, the other learns it as a reset.
        reset.reset();
        if let Err(error) = flow.upstream.set_zero_linger() {
            eprintln!("{}: {error}", flow.destination);
        }
    }
}
