//! Where each of the guest's connections goes: to TLS interception, or straight on and scanned.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use msb_net::{Flow, FlowReset, SecureNames};
use msb_policy::PinTable;
use msb_tls_proxy::{Client, Connection, PlainConfig, Reset, TlsProxy, relay_plain};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::gate::{Claimed, Decide, Gated};
use crate::socket::Socket;

/// How long a connection is still served after the guest has reset it: enough for what came before the reset, such as
/// the alert with which it refused a certificate, but not for as long as the server likes.
const AFTER_RESET: Duration = Duration::from_secs(2);

/// RFC 7858's protocol name for ALPN, of IANA's registry.
const DNS_OVER_TLS: &[u8] = b"dot";

/// What a connection is judged by.
pub(crate) struct Router {
    /// `None`: nothing is intercepted.
    pub(crate) proxy: Option<Arc<TlsProxy>>,
    pub(crate) ports: Vec<u16>,
    pub(crate) plain: PlainConfig,
    pub(crate) pins: Arc<Mutex<PinTable>>,
}

impl Router {
    /// Serves connections until the network ends. Dropping the future ends them all.
    pub(crate) async fn drive(
        self,
        mut flows: mpsc::Receiver<Flow>,
        mut secure_names: mpsc::UnboundedReceiver<SecureNames>,
    ) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                flow = flows.recv() => match flow {
                    Some(flow) => self.serve(flow, &mut connections),
                    None => break,
                },
                Some(names) = secure_names.recv() => self.serve_names(names, &mut connections),
                Some(_) = connections.join_next() => {}
            }
        }
        while connections.join_next().await.is_some() {}
    }

    /// DNS over TLS: what is inside gets the answers that port 53 has.
    fn serve_names(&self, names: SecureNames, connections: &mut JoinSet<()>) {
        let SecureNames {
            destination,
            guest,
            names,
        } = names;
        let Some(proxy) = self.proxy.clone() else {
            return guest.reset_handle().reset();
        };
        let broken = guest.reset_handle();
        let client = Client {
            reset: Arc::new(GuestReset(guest.reset_handle())),
            guest,
            destination,
        };
        connections.spawn(async move {
            let answer = |stream| async move {
                // However it ends, the guest has seen it.
                let _ = names.serve(stream).await;
            };
            let served = proxy.serve_locally(client, DNS_OVER_TLS, answer);
            until_broken(served, broken.broken()).await;
        });
    }

    fn serve(&self, flow: Flow, connections: &mut JoinSet<()>) {
        let intercepted = self.ports.contains(&flow.destination.port());
        let guest = flow.guest.reset_handle();
        let is_broken = flow.guest.reset_handle();
        let judge = flow.judge();
        let decide: Decide = Box::new(move |claimed| match claimed {
            Claimed::Name(name) => judge.decide(name),
            Claimed::Ambiguous => judge.decide_ambiguous(),
        });
        let connection = Connection {
            reset: Arc::new(GuestReset(flow.guest.reset_handle())),
            guest: Gated::new(flow.guest, decide),
            upstream: Socket::new(flow.upstream, move || is_broken.is_broken()),
            destination: flow.destination,
            pins: Arc::clone(&self.pins),
        };
        match &self.proxy {
            Some(proxy) if intercepted => {
                let proxy = Arc::clone(proxy);
                connections.spawn(async move {
                    until_broken(proxy.serve(connection), guest.broken()).await;
                });
            }
            _ => {
                let relay = relay_plain(connection, self.plain.clone());
                connections.spawn(async move { until_broken(relay, guest.broken()).await });
            }
        }
    }
}

struct GuestReset(FlowReset);

impl Reset for GuestReset {
    fn reset(&self) {
        self.0.reset();
    }
}

/// Serves a connection to its end, or for a while after the guest's side `broken`: where the server takes no data,
/// nobody looks at the guest's stream.
async fn until_broken(serve: impl Future<Output = ()>, broken: impl Future<Output = ()>) {
    let over = async {
        broken.await;
        tokio::time::sleep(AFTER_RESET).await;
    };
    tokio::select! {
        () = serve => {}
        () = over => {}
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::socket::tests::{check_end, pair};

    /// A server that takes no data must not keep connections that the guest has given up.
    #[tokio::test(start_paused = true)]
    async fn a_reset_of_the_guest_ends_a_relay_that_waits_for_the_server() {
        let (stream, mut server) = pair().await;
        let mut upstream = Socket::new(stream, || true);
        let relay = async move {
            while upstream.write_all(&[0; 65_536]).await.is_ok() {}
            std::future::pending().await
        };
        until_broken(relay, std::future::ready(())).await;
        check_end(server.read_to_end(&mut Vec::new()).await, true);
    }

    #[tokio::test]
    async fn what_came_before_a_reset_is_still_served() {
        let (told, tell) = tokio::sync::oneshot::channel();
        let serve = async {
            tokio::task::yield_now().await;
            told.send(()).unwrap();
        };
        until_broken(serve, std::future::ready(())).await;
        tell.await.unwrap();
    }
}
