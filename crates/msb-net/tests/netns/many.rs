//! Many connections, and everything at once.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::rig::{Rig, authority, gateways, output, pattern, tool, web_server};
use crate::transfer;

/// A service that sends back four octets; its port, and how many connections it has open.
fn service() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let open = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&open);
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            counted.fetch_add(1, Ordering::SeqCst);
            let open = Arc::clone(&counted);
            thread::spawn(move || {
                let mut message = [0; 4];
                while stream.read_exact(&mut message).is_ok() && stream.write_all(&message).is_ok()
                {
                }
                drop(stream);
                open.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    (port, open)
}

fn exchange(stream: &mut TcpStream, number: usize) {
    let message = u32::try_from(number).unwrap().to_be_bytes();
    stream.write_all(&message).unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, message);
}

/// Connections of the host's to `port`, those in TIME-WAIT aside, which belong to nobody.
fn upstreams(port: u16) -> usize {
    let table = fs::read_to_string("/proc/self/net/tcp").unwrap();
    let remote = format!("0100007F:{port:04X}");
    let is_open = |line: &&str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        fields[2] == remote && fields[3] != "06"
    };
    table.lines().skip(1).filter(is_open).count()
}

/// One that stayed behind would take a place, of which there are not many.
#[test]
fn ten_thousand_connections_open_and_close_and_nothing_is_left_of_them() {
    const AT_ONCE: usize = 8;
    let few = |config: &mut msb_net::Config| config.max_flows = 4 * AT_ONCE;
    let Some(rig) = Rig::with("host", few) else {
        return;
    };
    let (port, open) = service();
    let address = SocketAddr::new(gateways()[0], port);
    rig.guest.inside(|| {
        thread::scope(|scope| {
            for worker in 0..AT_ONCE {
                scope.spawn(move || {
                    for turn in 0..10_000 / AT_ONCE {
                        let mut stream = TcpStream::connect(address).unwrap();
                        exchange(&mut stream, worker * 10_000 + turn);
                    }
                });
            }
        });
    });
    while open.load(Ordering::SeqCst) > 0 || upstreams(port) > 0 {
        thread::yield_now();
    }
    assert_eq!(
        rig.events()
            .iter()
            .filter(|event| matches!(event, msb_net::Event::FlowLimit { .. }))
            .count(),
        0
    );
}

#[test]
fn open_connections_work_on_while_a_thousand_others_are_open() {
    let many = |config: &mut msb_net::Config| config.max_flows = 1_200;
    let Some(rig) = Rig::with("host", many) else {
        return;
    };
    let (port, open) = service();
    let address = SocketAddr::new(gateways()[0], port);
    rig.guest.inside(|| {
        let mut streams: Vec<_> = (0..1_000)
            .map(|_| TcpStream::connect(address).unwrap())
            .collect();
        for turn in 0..3 {
            for (index, stream) in streams.iter_mut().enumerate() {
                exchange(stream, turn * 1_000 + index);
            }
        }
        assert_eq!(open.load(Ordering::SeqCst), 1_000);
    });
    while open.load(Ordering::SeqCst) > 0 || upstreams(port) > 0 {
        thread::yield_now();
    }
}

/// The same for minutes is `cargo xtask bench net soak`.
#[test]
fn transfers_pings_and_short_connections_at_once_do_not_disturb_each_other() {
    let (Some(curl), Some(ping)) = (tool("curl"), tool("ping")) else {
        return;
    };
    let Some(rig) = Rig::start("host") else {
        return;
    };
    let (port, open) = service();
    let (web, len) = (web_server(), 2_000_000);
    let [v4, v6] = gateways();
    thread::scope(|scope| {
        for gateway in [v4, v6] {
            let (rig, curl) = (&rig, &curl);
            let url = format!("http://{}/{len}", authority(gateway, web));
            let put_url = url.clone();
            scope.spawn(move || {
                for _ in 0..5 {
                    let got = output(rig.guest.command(curl).args(["-sS", &url]));
                    assert!(got.stdout == pattern(len), "{url}");
                }
            });
            scope.spawn(move || {
                for _ in 0..5 {
                    assert_eq!(
                        transfer::put(rig, curl, &put_url, len),
                        b"same",
                        "{put_url}"
                    );
                }
            });
            let mut command = rig.guest.command(&ping);
            command.args(["-n", "-c", "100", "-i", "0.01", &gateway.to_string()]);
            scope.spawn(move || {
                let report = output(&mut command).stdout;
                let report = String::from_utf8_lossy(&report);
                assert!(report.contains(" 0% packet loss"), "{report}");
            });
        }
        scope.spawn(|| {
            rig.guest.inside(|| {
                for turn in 0..500 {
                    let mut stream = TcpStream::connect(SocketAddr::new(v4, port)).unwrap();
                    exchange(&mut stream, turn);
                }
            });
        });
    });
    while open.load(Ordering::SeqCst) > 0 || upstreams(port) > 0 {
        thread::yield_now();
    }
}
