//! Where each of the guest's connections goes: to TLS interception, or straight on and scanned.

use std::sync::{Arc, Mutex};

use msb_net::{Flow, FlowReset};
use msb_policy::PinTable;
use msb_secrets::{SecretSet, ViolationAction};
use msb_tls_proxy::{Connection, EventSink, Reset, TlsProxy, relay_plain};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// What a connection is judged by.
pub(crate) struct Router {
    /// `None`: nothing is intercepted.
    pub(crate) proxy: Option<Arc<TlsProxy>>,
    pub(crate) ports: Vec<u16>,
    pub(crate) secrets: SecretSet,
    pub(crate) on_violation: ViolationAction,
    pub(crate) pins: Arc<Mutex<PinTable>>,
    pub(crate) events: EventSink,
}

impl Router {
    /// Serves connections until the network ends. Dropping the future ends them all.
    pub(crate) async fn drive(self, mut flows: mpsc::Receiver<Flow>) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                flow = flows.recv() => match flow {
                    Some(flow) => self.serve(flow, &mut connections),
                    None => break,
                },
                Some(_) = connections.join_next() => {}
            }
        }
        while connections.join_next().await.is_some() {}
    }

    fn serve(&self, flow: Flow, connections: &mut JoinSet<()>) {
        let intercepted = self.ports.contains(&flow.destination.port());
        let connection = Connection {
            reset: Arc::new(GuestReset(flow.guest.reset_handle())),
            guest: flow.guest,
            upstream: flow.upstream,
            destination: flow.destination,
            pins: Arc::clone(&self.pins),
        };
        match &self.proxy {
            Some(proxy) if intercepted => {
                let proxy = Arc::clone(proxy);
                connections.spawn(async move { proxy.serve(connection).await });
            }
            _ => {
                connections.spawn(relay_plain(
                    connection,
                    self.secrets.clone(),
                    self.on_violation,
                    Arc::clone(&self.events),
                ));
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
