//! Connections to servers that the host itself dials, by the name the client asks for.

use std::future::Future;
use std::sync::Arc;

use msb_name::{Host, HostName};
use msb_policy::Destination;
use tokio::io::{AsyncRead, AsyncWrite};

use super::intercept::Opened;
use super::proxy::Inner;
use crate::{Client, Connection, DialError, Dialled, Event, HelloFailure};

/// The fatal alert unrecognized_name in a record of its own, as it is before any keys are agreed on
/// (RFC 8446 section 6, RFC 6066 section 3).
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

impl Inner {
    pub(super) async fn serve_dialling<G, U, D>(
        self: Arc<Self>,
        client: Client<G>,
        dial: impl FnOnce(Option<HostName>) -> D,
    ) where
        G: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        U: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        D: Future<Output = Result<Dialled<U>, DialError>>,
    {
        // Boxed, so that what idles later has no room left over from this.
        let Some((opened, dialled)) = Box::pin(self.open(client, dial)).await else {
            return;
        };
        match self.leaves_alone(&opened.host, opened.destination) {
            Some(event) => Box::pin(self.splice_dialled(opened, event, dialled)).await,
            None => {
                let upstream = dialled.map(|dialled| {
                    let evidence = evidence(&dialled);
                    (dialled.upstream, evidence)
                });
                self.intercept(opened, upstream).await;
            }
        }
    }

    /// The client's hello and the server it asks for, dialled or not; `None` after the client was turned away.
    async fn open<G, U, D>(
        &self,
        client: Client<G>,
        dial: impl FnOnce(Option<HostName>) -> D,
    ) -> Option<(Opened<G>, Result<Dialled<U>, DialError>)>
    where
        G: AsyncRead + AsyncWrite + Unpin,
        D: Future<Output = Result<Dialled<U>, DialError>>,
    {
        let Client {
            mut guest,
            reset,
            destination,
        } = client;
        let hello = self.hello(&mut guest, &*reset, destination).await?;
        let named = hello.server_name.clone();
        let dialled = dial(named.clone()).await;
        let agreed = match (&dialled, named) {
            (Ok(dialled), named) => {
                let agreed = agree(&dialled.host, named).map(|host| (host, dialled.address));
                agreed.map_err(|failure| (failure, dialled.address))
            }
            (Err(_), Some(name)) => Ok((Host::Name(name), destination)),
            (Err(_), None) => Err((HelloFailure::NoServerName, destination)),
        };
        match agreed {
            Ok((host, destination)) => {
                let opened = Opened {
                    guest,
                    reset,
                    hello,
                    host,
                    destination,
                };
                Some((opened, dialled))
            }
            Err((failure, destination)) => {
                self.send_alert(&mut guest, &UNRECOGNIZED_NAME).await;
                (self.events)(Event::HelloFailed {
                    destination,
                    failure,
                });
                None
            }
        }
    }

    async fn splice_dialled<G, U>(
        &self,
        opened: Opened<G>,
        event: Event,
        dialled: Result<Dialled<U>, DialError>,
    ) where
        G: AsyncRead + AsyncWrite + Unpin,
        U: AsyncRead + AsyncWrite + Unpin,
    {
        let Opened {
            guest,
            reset,
            hello,
            host,
            destination,
        } = opened;
        match dialled {
            Ok(dialled) => {
                let evidence = evidence(&dialled);
                if !self.may_splice(&host, destination, &evidence) {
                    return reset.reset();
                }
                (self.events)(event);
                let _counted = self.count_unending();
                let connection = Connection {
                    guest,
                    reset,
                    upstream: dialled.upstream,
                    destination,
                    pins: Arc::default(),
                };
                self.splice(connection, &host, &evidence, hello.raw).await;
            }
            // Its client wants to talk to the server itself; there is no protocol to tell it more in.
            Err(_) => reset.reset(),
        }
    }
}

/// The host that a connection is for: the client's hello must not name another than was dialled.
fn agree(dialled: &Host, named: Option<HostName>) -> Result<Host, HelloFailure> {
    match (dialled, named) {
        (Host::Name(dialled), Some(named)) if *dialled != named => {
            Err(HelloFailure::OtherServerName {
                named,
                dialled: dialled.clone(),
            })
        }
        (Host::Ip(_), Some(named)) => Ok(Host::Name(named)),
        (dialled, _) => Ok(dialled.clone()),
    }
}

/// A name that came from the client together with an address is not one that the host resolved.
pub(super) fn evidence<U>(dialled: &Dialled<U>) -> Destination {
    match &dialled.host {
        Host::Name(name) => Destination::DialledByName(name.clone()),
        Host::Ip(_) => Destination::Unpinned(dialled.address.ip()),
    }
}
