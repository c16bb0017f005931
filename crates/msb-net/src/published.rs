//! Ports of the host that lead to ports of the guest.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use msb_policy::Protocol;

/// A port of the host, bound, that leads to a port of the guest (SPEC V8). It takes connections or datagrams once a network
/// is [started](crate::start) with it.
///
/// The guest sees them come from its gateway. Whether they may is up to the policy's rules for ingress, which see the real
/// source. A connection is made to the guest's address of the family of the host's; where the guest refuses it, the client's,
/// which the host's kernel has accepted by then, is reset.
///
/// Where datagrams come to an unspecified address (`0.0.0.0`), answers come from the address that the host's routing chooses,
/// which on a host with several may be another than the client has asked.
#[derive(Debug)]
pub struct PublishedPort {
    socket: Socket,
    address: SocketAddr,
    guest_port: u16,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

impl PublishedPort {
    /// Binds `address`, of which port 0 is any that is free, for what is to reach the guest's `guest_port`.
    ///
    /// # Errors
    /// The operating system's: [`io::ErrorKind::AddrInUse`] if somebody else has the port,
    /// [`io::ErrorKind::PermissionDenied`] for a port below 1024 without the privilege,
    /// [`io::ErrorKind::Unsupported`] for ICMP, which has no ports.
    pub fn bind(protocol: Protocol, address: SocketAddr, guest_port: u16) -> io::Result<Self> {
        let (socket, address) = match protocol {
            Protocol::Tcp => {
                let listener = TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                let address = listener.local_addr()?;
                (Socket::Tcp(listener), address)
            }
            Protocol::Udp => {
                let socket = UdpSocket::bind(address)?;
                socket.set_nonblocking(true)?;
                let address = socket.local_addr()?;
                (Socket::Udp(socket), address)
            }
            Protocol::Icmp => return Err(io::ErrorKind::Unsupported.into()),
        };
        Ok(Self {
            socket,
            address,
            guest_port,
        })
    }

    /// What is carried.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        match self.socket {
            Socket::Tcp(_) => Protocol::Tcp,
            Socket::Udp(_) => Protocol::Udp,
        }
    }

    /// Where it is on the host.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it leads.
    #[must_use]
    pub fn guest_port(&self) -> u16 {
        self.guest_port
    }

    /// Its sockets for the runtime that is current.
    pub(crate) fn open(&self) -> io::Result<OpenPort> {
        Ok(match &self.socket {
            Socket::Tcp(listener) => {
                let listener = listener.try_clone()?;
                OpenPort::Tcp(tokio::net::TcpListener::from_std(listener)?)
            }
            Socket::Udp(socket) => {
                let socket = socket.try_clone()?;
                OpenPort::Udp(tokio::net::UdpSocket::from_std(socket)?)
            }
        })
    }
}

/// As [`PublishedPort`], with sockets that can be waited for.
pub(crate) enum OpenPort {
    Tcp(tokio::net::TcpListener),
    Udp(tokio::net::UdpSocket),
}
