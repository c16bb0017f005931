//! UDP sockets of the guest, and its DHCP client.

use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddr};
use std::task::Poll;

use smoltcp::iface::SocketHandle;
use smoltcp::socket::{dhcpv4, udp};
use smoltcp::wire::{IpEndpoint, Ipv4Cidr};

use super::Guest;

/// A UDP socket of the guest.
pub(crate) struct GuestUdp {
    guest: Guest,
    handle: SocketHandle,
}

impl Guest {
    /// Opens a UDP socket.
    pub(crate) fn udp(&self) -> GuestUdp {
        let port = self.machine().port();
        self.udp_at(port)
    }

    /// Opens a UDP socket with this port.
    pub(crate) fn udp_at(&self, port: u16) -> GuestUdp {
        let mut machine = self.machine();
        let buffer =
            || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 64], vec![0; 512 * 1024]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(port).unwrap();
        let handle = machine.sockets.add(socket);
        drop(machine);
        GuestUdp {
            guest: self.clone(),
            handle,
        }
    }
}

impl GuestUdp {
    /// Whether nothing has arrived that was not received.
    pub(crate) fn is_empty(&self) -> bool {
        let machine = self.guest.machine();
        !machine
            .sockets
            .get::<udp::Socket<'_>>(self.handle)
            .can_recv()
    }

    /// Queues a datagram.
    pub(crate) fn send(&self, destination: SocketAddr, payload: &[u8]) {
        self.send_with(destination, payload, None);
    }

    /// Queues a datagram with this hop limit.
    pub(crate) fn send_with(&self, to: SocketAddr, payload: &[u8], hop_limit: Option<u8>) {
        let mut machine = self.guest.machine();
        let socket = machine.sockets.get_mut::<udp::Socket<'_>>(self.handle);
        socket.set_hop_limit(hop_limit);
        socket.send_slice(payload, IpEndpoint::from(to)).unwrap();
        drop(machine);
        self.guest.shared.kick.notify_one();
    }

    /// The next datagram that arrives, and from where.
    pub(crate) async fn receive(&self) -> (SocketAddr, Vec<u8>) {
        poll_fn(|context| {
            let mut machine = self.guest.machine();
            let socket = machine.sockets.get_mut::<udp::Socket<'_>>(self.handle);
            match socket.recv() {
                Ok((payload, meta)) => {
                    let from = SocketAddr::new(meta.endpoint.addr.into(), meta.endpoint.port);
                    Poll::Ready((from, payload.to_vec()))
                }
                Err(_) => {
                    socket.register_recv_waker(context.waker());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

impl Drop for GuestUdp {
    fn drop(&mut self) {
        self.guest.machine().sockets.remove(self.handle);
    }
}

/// What a DHCP server told.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) address: Ipv4Cidr,
    pub(crate) router: Option<Ipv4Addr>,
    pub(crate) dns_servers: Vec<Ipv4Addr>,
}

impl Guest {
    /// Asks for an address and waits for it.
    pub(crate) async fn lease(&self) -> Lease {
        let handle = self.machine().sockets.add(dhcpv4::Socket::new());
        self.shared.kick.notify_one();
        let lease = super::soon(poll_fn(|context| {
            let mut machine = self.machine();
            let socket = machine.sockets.get_mut::<dhcpv4::Socket<'_>>(handle);
            match socket.poll() {
                Some(dhcpv4::Event::Configured(config)) => Poll::Ready(Lease {
                    address: config.address,
                    router: config.router,
                    dns_servers: config.dns_servers.to_vec(),
                }),
                _ => {
                    socket.register_waker(context.waker());
                    Poll::Pending
                }
            }
        }))
        .await;
        self.machine().sockets.remove(handle);
        lease
    }
}
