//! Connections whose server is the caller itself: only the guest's TLS is ended.

use std::future::Future;
use std::sync::Arc;

use msb_name::Host;
use tokio::io::{AsyncRead, AsyncWrite};

use super::guard::guarded;
use super::intercept::ServedBy;
use super::proxy::{Inner, TlsProxy};
use crate::{Client, Event};

impl TlsProxy {
    /// Ends the TLS of one connection with a certificate of this sandbox, for the name in the ClientHello or else for the
    /// address, and hands what is inside to `serve`. Nothing is dialled, verified or searched; bypass and scope do not count,
    /// for there is no server that the guest could be left alone with. Of the protocols that the guest offers by ALPN
    /// `protocol` is taken; it may offer none.
    ///
    /// A connection whose handshake fails ends, and that is told. `serve` is dropped with the future.
    pub async fn serve_locally<G, F>(
        &self,
        client: Client<G>,
        protocol: &[u8],
        serve: impl FnOnce(Box<dyn LocalStream>) -> F + Send,
    ) where
        G: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        F: Future<Output = ()> + Send,
    {
        let reset = Arc::clone(&client.reset);
        let serve = Box::pin(Arc::clone(&self.0).serve_locally(client, protocol, serve));
        guarded(reset, serve).await;
    }
}

/// What is inside of a connection that is served locally.
pub trait LocalStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> LocalStream for S {}

impl Inner {
    async fn serve_locally<G, F>(
        self: Arc<Self>,
        client: Client<G>,
        protocol: &[u8],
        serve: impl FnOnce(Box<dyn LocalStream>) -> F,
    ) where
        G: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        F: Future<Output = ()>,
    {
        let Client {
            mut guest,
            reset,
            destination,
        } = client;
        let Some(hello) = self.hello(&mut guest, &*reset, destination).await else {
            return;
        };
        let host = match &hello.server_name {
            Some(name) => Host::Name(name.clone()),
            None => Host::Ip(destination.ip()),
        };
        let offered = hello.alpn.iter().any(|offer| offer == protocol);
        let alpn = offered.then_some(protocol);
        let to = (&host, destination);
        if let Some(stream) = self
            .accept(guest, hello, to, alpn, &*reset, ServedBy::Sandbox)
            .await
        {
            (self.events)(Event::ServedLocally { host, destination });
            serve(Box::new(stream)).await;
        }
    }
}
