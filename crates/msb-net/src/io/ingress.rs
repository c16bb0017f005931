//! The published ports' sockets: clients that connect, and their datagrams.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::SendFlags;
use smoltcp::time::Instant;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::connect::keep_alive;
use crate::engine::{Client, Engine};
use crate::published::{OpenPort, PublishedPort};
use crate::table::FlowId;

/// Clients and datagrams that wait for the network's loop; the kernel keeps more.
const WAITING: usize = 64;
/// As many are taken before others get their turn.
const BURST: usize = 16;
/// Longer than any datagram.
const MAX_DATAGRAM_LEN: usize = 64 * 1024;
/// How long nothing is accepted after the system refused to.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Something that came from outside.
pub(super) enum Arrival {
    Connection {
        published: usize,
        stream: TcpStream,
        client: SocketAddr,
    },
    Datagram {
        client: Client,
        payload: Vec<u8>,
    },
}

/// All published ports.
pub(super) struct Ingress {
    ports: Vec<Arc<PublishedPort>>,
    /// One for each port that takes datagrams.
    sockets: HashMap<usize, Arc<UdpSocket>>,
    arrivals: mpsc::Receiver<Arrival>,
    /// Clients whose connection the guest has not taken yet.
    waiting: HashMap<FlowId, TcpStream>,
    /// Who gets the guest's datagrams.
    clients: HashMap<FlowId, Client>,
    /// They end with this.
    _listening: JoinSet<()>,
}

impl Ingress {
    /// # Errors
    /// The operating system's, where a port cannot be listened on.
    pub(super) fn open(ports: Vec<Arc<PublishedPort>>) -> io::Result<Self> {
        let (sender, arrivals) = mpsc::channel(WAITING);
        let mut listening = JoinSet::new();
        let mut sockets = HashMap::new();
        for (published, port) in ports.iter().enumerate() {
            match port.open()? {
                OpenPort::Tcp(listener) => {
                    listening.spawn(accept(listener, published, sender.clone()));
                }
                OpenPort::Udp(socket) => {
                    let socket = Arc::new(socket);
                    sockets.insert(published, Arc::clone(&socket));
                    listening.spawn(receive(socket, published, sender.clone()));
                }
            }
        }
        Ok(Self {
            ports,
            sockets,
            arrivals,
            waiting: HashMap::new(),
            clients: HashMap::new(),
            _listening: listening,
        })
    }

    /// Waits for something from outside; for ever if nothing is published. Cancel-safe.
    pub(super) async fn arrived(&mut self) -> Arrival {
        match self.arrivals.recv().await {
            Some(arrival) => arrival,
            None => std::future::pending().await,
        }
    }

    /// Hands some of what has arrived to the engine.
    pub(super) fn admit_some(&mut self, engine: &mut Engine, now: Instant) {
        for _ in 0..BURST {
            if !engine.out().has_room() {
                return;
            }
            match self.arrivals.try_recv() {
                Ok(arrival) => self.admit(engine, now, arrival),
                Err(_) => return,
            }
        }
    }

    /// Hands what arrived to the engine.
    pub(super) fn admit(&mut self, engine: &mut Engine, now: Instant, arrival: Arrival) {
        match arrival {
            Arrival::Connection {
                published,
                stream,
                client,
            } => {
                let Some(port) = self.ports.get(published) else {
                    return;
                };
                let id = engine.handle_accepted(now, client, port.address(), port.guest_port());
                match id {
                    Some(id) => drop(self.waiting.insert(id, stream)),
                    None => reset(&stream),
                }
            }
            Arrival::Datagram { client, payload } => {
                let Some(port) = self.ports.get(client.published) else {
                    return;
                };
                let (address, guest_port) = (port.address(), port.guest_port());
                let id = engine.handle_client_datagram(now, client, address, guest_port, &payload);
                if let Some(id) = id {
                    self.clients.insert(id, client);
                }
            }
        }
    }

    /// The client of flow `id`, whose connection the guest has taken.
    pub(super) fn welcome(&mut self, id: FlowId) -> Option<TcpStream> {
        self.waiting.remove(&id)
    }

    /// The guest does not take the connection of flow `id`.
    pub(super) fn turn_away(&mut self, id: FlowId) {
        if let Some(stream) = self.waiting.remove(&id) {
            reset(&stream);
        }
    }

    /// Sends a datagram of the guest to the client of flow `id`, if it is one. What the kernel has no room for is lost.
    pub(super) fn send(&self, id: FlowId, payload: &[u8]) -> bool {
        let Some(client) = self.clients.get(&id) else {
            return false;
        };
        if let Some(socket) = self.sockets.get(&client.published) {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            // As on any link; and who sent from a port that is closed by now is gone.
            let _ = rustix::net::sendto(socket, payload, flags, &client.address);
        }
        true
    }

    pub(super) fn close(&mut self, id: FlowId) {
        self.clients.remove(&id);
    }
}

async fn accept(listener: TcpListener, published: usize, sender: mpsc::Sender<Arrival>) {
    loop {
        // Before it is accepted, so that what nobody looks at stays with the kernel.
        let Ok(place) = sender.reserve().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, client)) => {
                // It fails only for a socket that is no longer connected.
                let _ = stream.set_nodelay(true);
                keep_alive(&stream);
                place.send(Arrival::Connection {
                    published,
                    stream,
                    client,
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a published port accepts nothing");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn receive(socket: Arc<UdpSocket>, published: usize, sender: mpsc::Sender<Arrival>) {
    let mut buffer = vec![0; MAX_DATAGRAM_LEN];
    loop {
        let Ok(place) = sender.reserve().await else {
            return;
        };
        // An error is the end of an earlier datagram of ours.
        if let Ok((len, address)) = socket.recv_from(&mut buffer).await {
            place.send(Arrival::Datagram {
                client: Client { published, address },
                payload: buffer[..len].to_vec(),
            });
        }
    }
}

/// Has a connection end in a reset when it is dropped.
fn reset(stream: &TcpStream) {
    // It fails only for a socket that is no longer connected.
    let _ = stream.set_zero_linger();
}

#[cfg(test)]
mod tests {
    use msb_policy::Protocol;
    use rustix::net::sockopt;

    use super::*;

    #[tokio::test]
    async fn clients_that_say_nothing_are_asked_whether_they_are_still_there() {
        let address = "127.0.0.1:0".parse().unwrap();
        let port = Arc::new(PublishedPort::bind(Protocol::Tcp, address, 80).unwrap());
        let mut ingress = Ingress::open(vec![Arc::clone(&port)]).unwrap();
        let _client = TcpStream::connect(port.address()).await.unwrap();
        let Arrival::Connection { stream, .. } = ingress.arrived().await else {
            panic!("a datagram");
        };
        assert!(sockopt::socket_keepalive(&stream).unwrap());
    }
}
