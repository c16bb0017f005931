//! A guest without a VM: smoltcp with an Ethernet link over a socket pair, as a guest kernel has it.
//! A task moves frames; the tests work on the sockets.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;
use std::time::Duration;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{icmp, tcp};
use smoltcp::time::Instant;
use smoltcp::wire::{
    EthernetAddress, HardwareAddress, Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr,
    IpAddress, IpCidr, IpEndpoint,
};
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc};

mod udp;

/// Everything a test waits for must happen within this time.
const LIMIT: Duration = Duration::from_secs(30);
const MTU: usize = 65_520;

/// Fails the test if `future` takes longer than any test should.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future)
        .await
        .expect("nothing happened for 30 s")
}

/// The guest machine.
#[derive(Clone)]
pub(crate) struct Guest {
    shared: Arc<Shared>,
}

struct Shared {
    machine: Mutex<Machine>,
    /// A socket has something to send.
    kick: Notify,
}

struct Machine {
    interface: Interface,
    sockets: SocketSet<'static>,
    wire: Wire,
    next_port: u16,
    /// Gets a copy of every frame that arrives.
    tap: Option<mpsc::UnboundedSender<Vec<u8>>>,
}

#[derive(Default)]
struct Wire {
    received: VecDeque<Vec<u8>>,
    sent: VecDeque<Vec<u8>>,
}

/// A TCP socket of the guest.
pub(crate) struct GuestTcp {
    guest: Guest,
    handle: SocketHandle,
}

impl Guest {
    pub(crate) fn start(link: UnixStream) -> Self {
        let mut wire = Wire::default();
        let hardware = HardwareAddress::Ethernet(EthernetAddress([2, 0x6d, 0x73, 0x62, 0, 2]));
        let mut config = Config::new(hardware);
        config.random_seed = 7;
        let mut interface = Interface::new(config, &mut wire, Instant::now());
        let addresses: [IpCidr; 2] = [
            "192.0.0.2/29".parse().unwrap(),
            "fd00:6d:7362::2/64".parse().unwrap(),
        ];
        interface.update_ip_addrs(|list| list.extend(addresses));
        let routes = interface.routes_mut();
        routes
            .add_default_ipv4_route("192.0.0.1".parse().unwrap())
            .unwrap();
        routes
            .add_default_ipv6_route("fd00:6d:7362::1".parse().unwrap())
            .unwrap();
        let guest = Self {
            shared: Arc::new(Shared {
                machine: Mutex::new(Machine {
                    interface,
                    sockets: SocketSet::new(Vec::new()),
                    wire,
                    next_port: 40_000,
                    tap: None,
                }),
                kick: Notify::new(),
            }),
        };
        tokio::spawn(guest.clone().drive(link));
        guest
    }

    /// Opens a TCP connection.
    pub(crate) async fn connect(&self, destination: SocketAddr) -> io::Result<GuestTcp> {
        let socket = self.dial(destination);
        soon(poll_fn(|context| {
            let mut machine = self.machine();
            let tcp = machine.sockets.get_mut::<tcp::Socket<'_>>(socket.handle);
            match tcp.state() {
                tcp::State::SynSent | tcp::State::SynReceived => {
                    tcp.register_send_waker(context.waker());
                    Poll::Pending
                }
                tcp::State::Closed => {
                    Poll::Ready(Err(io::Error::from(io::ErrorKind::ConnectionRefused)))
                }
                _ => Poll::Ready(Ok(())),
            }
        }))
        .await?;
        Ok(socket)
    }

    /// Listens on `port` for one connection; it is there when [`GuestTcp::opened`] says so.
    pub(crate) fn listen(&self, port: u16) -> GuestTcp {
        let buffer = || tcp::SocketBuffer::new(vec![0; 512 * 1024]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        socket.listen(port).unwrap();
        GuestTcp {
            guest: self.clone(),
            handle: self.machine().sockets.add(socket),
        }
    }

    /// Asks for a TCP connection without waiting.
    pub(crate) fn dial(&self, destination: SocketAddr) -> GuestTcp {
        let mut guard = self.machine();
        let machine = &mut *guard;
        let buffer = || tcp::SocketBuffer::new(vec![0; 512 * 1024]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        let port = machine.port();
        socket
            .connect(
                machine.interface.context(),
                IpEndpoint::from(destination),
                port,
            )
            .unwrap();
        let handle = machine.sockets.add(socket);
        drop(guard);
        self.shared.kick.notify_one();
        GuestTcp {
            guest: self.clone(),
            handle,
        }
    }

    /// Sends a datagram and waits for the answer.
    pub(crate) async fn ask(&self, destination: SocketAddr, payload: &[u8]) -> Vec<u8> {
        let socket = self.udp();
        socket.send(destination, payload);
        let (from, answer) = soon(socket.receive()).await;
        assert_eq!(from, destination, "answered from elsewhere");
        answer
    }

    /// Sends an echo request and returns the data that comes back.
    pub(crate) async fn ping(&self, destination: IpAddr, data: &[u8]) -> Vec<u8> {
        let ident = 0x22b;
        let checksums = ChecksumCapabilities::default();
        let handle = {
            let mut machine = self.machine();
            let buffer =
                || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 4], vec![0; 65_536]);
            let mut socket = icmp::Socket::new(buffer(), buffer());
            socket.bind(icmp::Endpoint::Ident(ident)).unwrap();
            let address = IpAddress::from(destination);
            match destination {
                IpAddr::V4(_) => {
                    let repr = Icmpv4Repr::EchoRequest {
                        ident,
                        seq_no: 1,
                        data,
                    };
                    let packet = socket.send(repr.buffer_len(), address).unwrap();
                    repr.emit(&mut Icmpv4Packet::new_unchecked(packet), &checksums);
                }
                IpAddr::V6(destination) => {
                    let repr = Icmpv6Repr::EchoRequest {
                        ident,
                        seq_no: 1,
                        data,
                    };
                    let packet = socket.send(repr.buffer_len(), address).unwrap();
                    let source = "fd00:6d:7362::2".parse().unwrap();
                    repr.emit(
                        &source,
                        &destination,
                        &mut Icmpv6Packet::new_unchecked(packet),
                        &checksums,
                    );
                }
            }
            machine.sockets.add(socket)
        };
        self.shared.kick.notify_one();
        soon(poll_fn(|context| {
            let mut machine = self.machine();
            let socket = machine.sockets.get_mut::<icmp::Socket<'_>>(handle);
            match socket.recv() {
                Ok((packet, from)) => {
                    assert_eq!(from, IpAddress::from(destination));
                    Poll::Ready(packet[8..].to_vec())
                }
                Err(_) => {
                    socket.register_recv_waker(context.waker());
                    Poll::Pending
                }
            }
        }))
        .await
    }

    /// Puts a frame on the link as it is.
    pub(crate) fn send_frame(&self, frame: Vec<u8>) {
        self.machine().wire.sent.push_back(frame);
        self.shared.kick.notify_one();
    }

    /// Copies of all frames that arrive from now on.
    pub(crate) fn tap(&self) -> mpsc::UnboundedReceiver<Vec<u8>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.machine().tap = Some(sender);
        receiver
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.shared.machine.lock().unwrap()
    }

    async fn drive(self, link: UnixStream) {
        let mut input = Vec::new();
        let mut output: Vec<u8> = Vec::new();
        let mut chunk = vec![0; 256 * 1024];
        loop {
            let delay = {
                let mut guard = self.machine();
                let machine = &mut *guard;
                let now = Instant::now();
                machine
                    .interface
                    .poll(now, &mut machine.wire, &mut machine.sockets);
                for frame in machine.wire.sent.drain(..) {
                    output.extend(u32::try_from(frame.len()).unwrap().to_be_bytes());
                    output.extend(frame);
                }
                machine.interface.poll_delay(now, &machine.sockets)
            };
            let delay =
                Duration::from_micros(delay.map_or(1_000_000, |delay| delay.total_micros()));
            tokio::select! {
                result = link.readable() => {
                    if result.is_err() { return; }
                    match link.try_read(&mut chunk) {
                        Ok(0) => return,
                        Ok(len) => self.receive(&mut input, &chunk[..len]),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(_) => return,
                    }
                }
                result = link.writable(), if !output.is_empty() => {
                    if result.is_err() { return; }
                    match link.try_write(&output) {
                        Ok(len) => drop(output.drain(..len)),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        // Nobody reads any more, of which `readable` need not know yet.
                        Err(_) => return,
                    }
                }
                () = self.shared.kick.notified() => {}
                () = tokio::time::sleep(delay), if output.is_empty() => {}
            }
        }
    }

    fn receive(&self, input: &mut Vec<u8>, bytes: &[u8]) {
        input.extend(bytes);
        let mut machine = self.machine();
        let mut rest = &input[..];
        while let Some((len, body)) = rest.split_first_chunk::<4>() {
            let len = u32::from_be_bytes(*len) as usize;
            if body.len() < len {
                break;
            }
            if let Some(tap) = &machine.tap {
                let _ = tap.send(body[..len].to_vec());
            }
            machine.wire.received.push_back(body[..len].to_vec());
            rest = &body[len..];
        }
        let used = input.len() - rest.len();
        drop(machine);
        input.drain(..used);
    }
}

impl Machine {
    fn port(&mut self) -> u16 {
        self.next_port += 1;
        self.next_port
    }
}

impl GuestTcp {
    /// Waits until somebody has connected; from where.
    pub(crate) async fn opened(&self) -> SocketAddr {
        soon(poll_fn(|context| {
            let mut machine = self.guest.machine();
            let socket = machine.sockets.get_mut::<tcp::Socket<'_>>(self.handle);
            match (socket.state(), socket.remote_endpoint()) {
                (tcp::State::Established | tcp::State::CloseWait, Some(remote)) => {
                    Poll::Ready(SocketAddr::new(remote.addr.into(), remote.port))
                }
                _ => {
                    socket.register_send_waker(context.waker());
                    Poll::Pending
                }
            }
        }))
        .await
    }

    /// Writes all of `data`.
    pub(crate) async fn write_all(&self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let len = poll_fn(|context| {
                let mut machine = self.guest.machine();
                let socket = machine.sockets.get_mut::<tcp::Socket<'_>>(self.handle);
                match socket.send_slice(data) {
                    Ok(0) => {
                        socket.register_send_waker(context.waker());
                        Poll::Pending
                    }
                    Ok(len) => Poll::Ready(Ok(len)),
                    Err(_) => Poll::Ready(Err(io::Error::from(io::ErrorKind::BrokenPipe))),
                }
            })
            .await?;
            data = &data[len..];
            self.guest.shared.kick.notify_one();
        }
        Ok(())
    }

    /// Reads something; empty at the end of the stream.
    pub(crate) async fn read(&self) -> io::Result<Vec<u8>> {
        let data = poll_fn(|context| {
            let mut machine = self.guest.machine();
            let socket = machine.sockets.get_mut::<tcp::Socket<'_>>(self.handle);
            match socket.recv(|data| (data.len(), data.to_vec())) {
                Ok(data) if data.is_empty() => {
                    socket.register_recv_waker(context.waker());
                    Poll::Pending
                }
                Ok(data) => Poll::Ready(Ok(data)),
                Err(tcp::RecvError::Finished) => Poll::Ready(Ok(Vec::new())),
                Err(tcp::RecvError::InvalidState) => {
                    Poll::Ready(Err(io::Error::from(io::ErrorKind::ConnectionReset)))
                }
            }
        })
        .await;
        self.guest.shared.kick.notify_one();
        data
    }

    /// Reads up to the end of the stream.
    pub(crate) async fn read_to_end(&self) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            let data = self.read().await?;
            if data.is_empty() {
                return Ok(all);
            }
            all.extend(data);
        }
    }

    /// Reads exactly `len` octets.
    pub(crate) async fn read_exact(&self, len: usize) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        while all.len() < len {
            let data = self.read().await?;
            if data.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            all.extend(data);
        }
        Ok(all)
    }

    /// Octets that were written and that nobody has acknowledged.
    pub(crate) fn unsent(&self) -> usize {
        let machine = self.guest.machine();
        machine
            .sockets
            .get::<tcp::Socket<'_>>(self.handle)
            .send_queue()
    }

    /// Closes the guest's half.
    pub(crate) fn close(&self) {
        self.guest
            .machine()
            .sockets
            .get_mut::<tcp::Socket<'_>>(self.handle)
            .close();
        self.guest.shared.kick.notify_one();
    }

    /// Resets the connection.
    pub(crate) fn abort(&self) {
        self.guest
            .machine()
            .sockets
            .get_mut::<tcp::Socket<'_>>(self.handle)
            .abort();
        self.guest.shared.kick.notify_one();
    }

    /// Waits until the connection is closed in both directions.
    pub(crate) async fn closed(&self) {
        soon(poll_fn(|context| {
            let mut machine = self.guest.machine();
            let socket = machine.sockets.get_mut::<tcp::Socket<'_>>(self.handle);
            match socket.state() {
                tcp::State::Closed | tcp::State::TimeWait => Poll::Ready(()),
                _ => {
                    socket.register_send_waker(context.waker());
                    Poll::Pending
                }
            }
        }))
        .await;
    }
}

struct Received(Vec<u8>);

struct Transmit<'a>(&'a mut VecDeque<Vec<u8>>);

impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Transmit<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Transmit<'_>)> {
        Some((
            Received(self.received.pop_front()?),
            Transmit(&mut self.sent),
        ))
    }

    fn transmit(&mut self, _: Instant) -> Option<Transmit<'_>> {
        Some(Transmit(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = MTU + 14;
        capabilities
    }
}

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Transmit<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push_back(frame);
        result
    }
}
