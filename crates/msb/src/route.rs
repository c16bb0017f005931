//! Where each of the guest's connections goes: to TLS interception, or straight on and scanned.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use msb_name::HostName;
use msb_net::{Event, EventSink, Flow, FlowReset};
use msb_policy::{Decision, NetworkPolicy, PinTable, Protocol};
use msb_tls_proxy::{Connection, PlainConfig, Reset, TlsProxy, relay_plain};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::gate::{Decide, Gated};
use crate::socket::Socket;

/// How long a connection is still served after the guest has reset it: enough for what came before the reset, such as
/// the alert with which it refused a certificate, but not for as long as the server likes.
const AFTER_RESET: Duration = Duration::from_secs(2);

/// What a connection is judged by.
pub(crate) struct Router {
    /// `None`: nothing is intercepted.
    pub(crate) proxy: Option<Arc<TlsProxy>>,
    pub(crate) ports: Vec<u16>,
    pub(crate) plain: PlainConfig,
    pub(crate) pins: Arc<Mutex<PinTable>>,
    pub(crate) policy: Arc<NetworkPolicy>,
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
        let guest = flow.guest.reset_handle();
        let is_broken = flow.guest.reset_handle();
        let asked = flow.needs_name.then_some(Asked {
            destination: flow.destination,
            to_host: flow.to_host,
            names: flow.names,
            configured: flow.configured,
        });
        let decide = asked.map(|asked| {
            let reset = flow.guest.reset_handle();
            let (policy, events) = (Arc::clone(&self.policy), Arc::clone(&self.events));
            decide(policy, events, asked, move || reset.reset())
        });
        let connection = Connection {
            reset: Arc::new(GuestReset(flow.guest.reset_handle())),
            guest: match decide {
                Some(decide) => Gated::closed(flow.guest, decide),
                None => Gated::open(flow.guest),
            },
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

/// What is known of a flow whose server name is still to come.
struct Asked {
    destination: SocketAddr,
    to_host: bool,
    names: Vec<HostName>,
    configured: Vec<HostName>,
}

/// Asks the policy again once the server name is known, or known not to come. A refusal is told, and resets the guest.
fn decide(
    policy: Arc<NetworkPolicy>,
    events: EventSink,
    asked: Asked,
    reset: impl FnOnce() + Send + 'static,
) -> Decide {
    Box::new(move |claimed| {
        let Asked {
            destination,
            to_host,
            names,
            configured,
        } = asked;
        let flow = msb_policy::Flow::egress(Protocol::Tcp, destination)
            .to_host(to_host)
            .resolved(&names)
            .configured(&configured)
            .claimed(claimed);
        let Decision::Deny(denial) = policy.decide(&flow) else {
            return true;
        };
        events(Event::Denied {
            protocol: Protocol::Tcp,
            destination,
            names: claimed.map_or(names, |name| vec![name.clone()]),
            cause: denial.grounds().cause().clone(),
            reason: denial.to_string(),
        });
        reset();
        false
    })
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

    /// SPEC P4. The events say what was decided by.
    #[test]
    fn the_server_name_decides_where_rules_are_about_names() {
        let rules = ["allow@api.test:tcp:443", "deny@*.evil.test", "allow@*.test"];
        let rules = rules.map(|rule| rule.parse().unwrap());
        let policy = NetworkPolicy::builder().rules(rules).build().unwrap();
        let policy = Arc::new(policy);
        for (claimed, port, expected) in [
            (Some("api.test"), 443, None),
            (None, 443, None),
            (Some("cdn.test"), 443, None),
            (Some("other.test"), 443, Some("default")),
            (Some("other.example"), 443, Some("default")),
            (Some("x.evil.test"), 443, Some("rule 2 (deny@*.evil.test)")),
        ] {
            let told = Arc::new(Mutex::new(Vec::new()));
            let (events, resets) = (Arc::clone(&told), Arc::clone(&told));
            let asked = Asked {
                destination: ([93, 184, 215, 14], port).into(),
                to_host: false,
                names: vec!["api.test".parse().unwrap(), "cdn.test".parse().unwrap()],
                configured: Vec::new(),
            };
            let sink: EventSink = Arc::new(move |event| match event {
                Event::Denied { cause, .. } => events.lock().unwrap().push(cause.to_string()),
                other => panic!("{other:?}"),
            });
            let reset = move || resets.lock().unwrap().push("reset".into());
            let claimed: Option<HostName> = claimed.map(|name| name.parse().unwrap());
            let passes = decide(Arc::clone(&policy), sink, asked, reset)(claimed.as_ref());
            assert_eq!(passes, expected.is_none(), "{claimed:?}");
            let expected: Vec<_> = expected
                .into_iter()
                .flat_map(|cause| [cause, "reset"])
                .collect();
            assert_eq!(*told.lock().unwrap(), expected, "{claimed:?}");
        }
    }

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
