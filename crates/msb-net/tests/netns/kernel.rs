//! Datagrams, fragments and router advertisements, as a kernel makes and takes them.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use msb_net::{Config, Event};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::rig::{Rig, gateways, pattern};

const LIMIT: Duration = Duration::from_secs(30);

/// Runs `work` on a thread whose sockets are the guest's.
fn inside<T: Send>(rig: &Rig, work: impl FnOnce() -> T + Send) -> T {
    let namespace = File::open(format!("/proc/{}/ns/net", rig.guest.pid())).unwrap();
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        });
        thread.join().unwrap()
    })
}

/// A socket of the guest's that talks to `destination`.
fn connected(destination: SocketAddr) -> UdpSocket {
    let any: SocketAddr = match destination {
        SocketAddr::V4(_) => "0.0.0.0:0".parse().unwrap(),
        SocketAddr::V6(_) => "[::]:0".parse().unwrap(),
    };
    let socket = UdpSocket::bind(any).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket.connect(destination).unwrap();
    socket
}

/// A service on the host's IPv4 loopback that sends back what it gets; returns its port.
fn echo_service() -> u16 {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = socket.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            // The guest may have gone.
            let _ = socket.send_to(&buffer[..len], from);
        }
    });
    port
}

/// The kernel cuts what is longer than the link's MTU, and puts together what the gateway has cut.
#[test]
fn the_longest_datagrams_pass_in_fragments() {
    for mtu in [1_280, 1_500, 9_000, 65_520] {
        let Some(rig) = Rig::with("host", |config: &mut Config| config.mtu = mtu) else {
            return;
        };
        let port = echo_service();
        for gateway in gateways() {
            inside(&rig, || {
                let socket = connected(SocketAddr::new(gateway, port));
                let mut buffer = vec![0; 65_536];
                for len in [0, 1_200, 1_472, 1_473, 8_000, 30_001, 65_507] {
                    let data = pattern(len);
                    socket.send(&data).unwrap();
                    let received = socket.recv(&mut buffer).unwrap();
                    assert!(buffer[..received] == data, "{gateway} {mtu} {len}");
                }
            });
        }
    }
}

/// What a program sees: a closed port as such, and what is prohibited as something else.
#[test]
fn errors_arrive_at_the_program_that_sent_the_datagram() {
    let Some(rig) = Rig::start("host") else {
        return;
    };
    let listening = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    // Hears itself only, so for others the port is closed.
    listening.connect(listening.local_addr().unwrap()).unwrap();
    let port = listening.local_addr().unwrap().port();
    let refused = gateways().map(|gateway| {
        (
            SocketAddr::new(gateway, port),
            io::ErrorKind::ConnectionRefused,
        )
    });
    let denied = [
        ("8.8.8.8:123", io::ErrorKind::HostUnreachable),
        ("[2001:db8::1]:123", io::ErrorKind::PermissionDenied),
    ];
    let denied = denied.map(|(destination, kind)| (destination.parse().unwrap(), kind));
    for (destination, expected) in refused.into_iter().chain(denied) {
        inside(&rig, || {
            let socket = connected(destination);
            socket.send(b"anyone?").unwrap();
            let error = socket.recv(&mut [0; 16]).unwrap_err();
            assert_eq!(error.kind(), expected, "{destination}");
        });
    }
    let reported = rig.events();
    let denied = reported
        .iter()
        .filter(|event| matches!(event, Event::Denied { .. }));
    assert_eq!(denied.count(), 2, "{reported:?}");
}

/// A guest without any configuration finds its router, its addresses and the link's MTU by itself.
#[test]
fn a_kernel_configures_itself_from_router_advertisements() {
    let bare = |config: &mut Config| config.mtu = 9_000;
    let Some(rig) = Rig::bare("host", bare) else {
        return;
    };
    let port = echo_service();
    let started = Instant::now();
    let is_there = |text: &str| {
        let said = rig
            .guest
            .shell("ip -6 addr; ip -6 route; cat /proc/sys/net/ipv6/conf/*/mtu");
        said.lines()
            .any(|line| line.contains(text) && !line.contains("tentative"))
    };
    for text in [
        "inet6 fd00:6d:7362:",
        "default via fe80::6d:73ff:fe62:1",
        "9000",
    ] {
        while !is_there(text) {
            assert!(started.elapsed() < LIMIT, "no {text}");
            std::thread::yield_now();
        }
    }
    let [_, gateway] = gateways();
    let gateway: IpAddr = gateway;
    inside(&rig, || {
        let socket = connected(SocketAddr::new(gateway, port));
        socket.send(b"hello").unwrap();
        let mut buffer = [0; 16];
        assert_eq!(socket.recv(&mut buffer).unwrap(), 5);
    });
}
