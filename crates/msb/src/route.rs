//! Where each of the guest's connections goes: to TLS interception, or straight on and scanned.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use msb_net::{Flow, FlowReset};
use msb_policy::PinTable;
use msb_secrets::{SecretSet, ViolationAction};
use msb_tls_proxy::{Connection, EventSink, Reset, TlsProxy, relay_plain};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// How long a connection is still served after the guest has reset it: enough for what came before the reset, such as
/// the alert with which it refused a certificate, but not for as long as the server likes.
const AFTER_RESET: Duration = Duration::from_secs(2);

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
        let guest = flow.guest.reset_handle();
        let is_broken = flow.guest.reset_handle();
        let connection = Connection {
            reset: Arc::new(GuestReset(flow.guest.reset_handle())),
            guest: flow.guest,
            upstream: Upstream {
                stream: flow.upstream,
                is_broken: move || is_broken.is_broken(),
            },
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
                let relay = relay_plain(
                    connection,
                    self.secrets.clone(),
                    self.on_violation,
                    Arc::clone(&self.events),
                );
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

/// The connection to the server. Dropped after the guest's was reset, it is reset, too.
struct Upstream<F: Fn() -> bool> {
    stream: TcpStream,
    is_broken: F,
}

impl<F: Fn() -> bool> Drop for Upstream<F> {
    fn drop(&mut self) {
        if (self.is_broken)() {
            // Fails only for a socket that is no longer connected.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl<F: Fn() -> bool + Unpin> AsyncRead for Upstream<F> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<F: Fn() -> bool + Unpin> AsyncWrite for Upstream<F> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap());
        let (near, far) = tokio::join!(near, listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    #[track_caller]
    fn check_end(ended: io::Result<usize>, broken: bool) {
        match ended {
            Ok(_) => assert!(!broken, "closed in order"),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
                assert!(broken, "reset");
            }
        }
    }

    #[tokio::test]
    async fn a_reset_of_the_guest_is_a_reset_for_the_server() {
        for broken in [false, true] {
            let (stream, mut server) = pair().await;
            let is_broken = move || broken;
            let mut upstream = Upstream { stream, is_broken };
            upstream.write_all(b"half a req").await.unwrap();
            let mut received = [0; 10];
            server.read_exact(&mut received).await.unwrap();
            drop(upstream);
            check_end(server.read_to_end(&mut Vec::new()).await, broken);
        }
    }

    /// A server that takes no data must not keep connections that the guest has given up.
    #[tokio::test(start_paused = true)]
    async fn a_reset_of_the_guest_ends_a_relay_that_waits_for_the_server() {
        let (stream, mut server) = pair().await;
        let mut upstream = Upstream {
            stream,
            is_broken: || true,
        };
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
