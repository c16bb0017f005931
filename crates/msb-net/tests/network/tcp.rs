//! TCP through the gateway.

use std::io;
use std::time::{Duration, Instant};

use msb_net::Event;
use msb_policy::Group;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::guest::soon;
use crate::rig::{
    GATEWAY_V4, GATEWAY_V6, Rig, closed_port, count_service, echo_service, gateway, gateway_v6, ip,
    pattern, serve,
};

const MEGABYTES: usize = 8 * 1024 * 1024;

async fn echo(rig: &Rig, destination: std::net::SocketAddr, len: usize) {
    let socket = rig.guest.connect(destination).await.unwrap();
    let data = pattern(len);
    let write = async {
        socket.write_all(&data).await.unwrap();
        socket.close();
    };
    let (received, ()) = soon(async { tokio::join!(socket.read_to_end(), write) }).await;
    assert!(received.unwrap() == data, "the echo differs");
}

#[tokio::test]
async fn megabytes_are_echoed_over_ipv4() {
    let mut rig = Rig::new("host");
    rig.relay();
    echo(&rig, gateway(echo_service().await), MEGABYTES).await;
}

#[tokio::test]
async fn megabytes_are_echoed_over_ipv6_to_a_service_on_ipv4_loopback() {
    let mut rig = Rig::new("host");
    rig.relay();
    echo(&rig, gateway_v6(echo_service().await), MEGABYTES).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flows_from_many_sockets_at_once_do_not_mix() {
    let mut rig = Rig::new("host");
    rig.relay();
    let port = echo_service().await;
    let rig = &rig;
    let echoes = (0..60).map(|index| async move {
        let socket = rig.guest.connect(gateway(port)).await.unwrap();
        let data = vec![index; 100_000];
        socket.write_all(&data).await.unwrap();
        socket.close();
        assert!(socket.read_to_end().await.unwrap() == data, "flow {index}");
    });
    soon(join_all(echoes)).await;
}

#[tokio::test]
async fn a_denied_connection_is_reset_at_once_and_reported() {
    let mut rig = Rig::new("public");
    // The first packet to each gateway address waits for ARP or NDP, which the guest paces by seconds.
    for gateway in [GATEWAY_V4, GATEWAY_V6] {
        rig.guest.ping(ip(gateway), b"").await;
    }
    for destination in [
        gateway(80),
        gateway_v6(80),
        "10.1.2.3:443".parse().unwrap(),
        "127.0.0.1:22".parse().unwrap(),
    ] {
        let started = Instant::now();
        let error = rig.guest.connect(destination).await.err().unwrap();
        assert_eq!(
            error.kind(),
            io::ErrorKind::ConnectionRefused,
            "{destination}"
        );
        assert!(
            started.elapsed() < Duration::from_secs(1),
            "{destination}: {:?}",
            started.elapsed()
        );
        match rig.event().await {
            Event::Denied {
                destination: denied,
                cause,
                ..
            } => {
                assert_eq!(denied, destination);
                assert_eq!(cause.rule(), None);
            }
            other => panic!("{other:?}"),
        }
    }
}

/// SPEC P4: who takes the flow knows the server name, or it is decided without.
#[tokio::test]
async fn a_flow_that_a_name_decides_is_handed_on_to_be_asked_about() {
    let port = echo_service().await;
    let name: msb_name::HostName = "api.test".parse().unwrap();
    let policy = crate::rig::rules(&[&format!("allow@api.test:tcp:{port}")], "none");
    for reads_server_names in [false, true] {
        let mut rig = Rig::with("none", |config| {
            config.policy = policy.clone();
            config.reads_server_names = reads_server_names;
            config.hosts = vec![(name.clone(), msb_net::HostEntry::HostGateway)];
        });
        let error = rig.guest.connect(gateway(port)).await.err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert!(matches!(rig.event().await, Event::Denied { .. }));
        let pinned = Duration::from_secs(60);
        rig.pins()
            .insert(name.clone(), ip(GATEWAY_V4), pinned, Instant::now());
        rig.guest.connect(gateway(port)).await.unwrap();
        let flow = soon(rig.flows.recv()).await.unwrap();
        assert_eq!(flow.needs_name, reads_server_names);
        assert_eq!(flow.configured, std::slice::from_ref(&name));
        let judge = flow.judge();
        let decide = |name: &str| judge.decide(Some(&name.parse().unwrap()));
        assert!(decide("api.test") && !decide("other.test"));
        let Event::Connected { cause, .. } = rig.event().await else {
            panic!("no connection");
        };
        assert_eq!(cause.is_none(), reads_server_names);
    }
}

/// The address under which others know the host leads to services that a firewall keeps from others.
#[tokio::test]
async fn the_hosts_own_address_is_denied_where_the_host_is() {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let routed = socket.connect("192.0.2.1:9").is_ok();
    let own = socket.local_addr().unwrap().ip();
    let group = msb_policy::classify(own);
    if !routed || ![Group::Public, Group::Private].contains(&group) {
        eprintln!("skipped: this machine has neither a public nor a private address");
        return;
    }
    let listener = tokio::net::TcpListener::bind((own, 0)).await.unwrap();
    let destination = listener.local_addr().unwrap();
    let mut rig = Rig::new("public,private");
    let error = rig.guest.connect(destination).await.err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    let event = rig.event().await;
    assert!(
        matches!(&event, Event::Denied { reason, .. } if reason.contains("the host itself")),
        "{event:?}"
    );
    let rig = Rig::new("public,private,host");
    rig.guest.connect(destination).await.unwrap();
}

#[tokio::test]
async fn a_refused_connection_is_refused_and_never_accepted() {
    let mut rig = Rig::new("host");
    let (_unused, port) = closed_port();
    let mut frames = rig.guest.tap();
    let error = rig.guest.connect(gateway(port)).await.err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    assert!(
        matches!(rig.event().await, Event::ConnectFailed { destination, .. } if destination == gateway(port))
    );
    while let Ok(frame) = frames.try_recv() {
        let is_syn_ack = frame[12..14] == [8, 0] && frame[23] == 6 && frame[47] & 0x12 == 0x12;
        assert!(!is_syn_ack, "the connection was accepted first");
    }
    assert!(rig.flows.try_recv().is_err(), "a flow was handed on");
}

#[tokio::test]
async fn the_guest_may_close_its_half_first() {
    let mut rig = Rig::new("host");
    rig.relay();
    let socket = rig
        .guest
        .connect(gateway(count_service().await))
        .await
        .unwrap();
    soon(socket.write_all(&pattern(MEGABYTES))).await.unwrap();
    socket.close();
    let answer = soon(socket.read_to_end()).await.unwrap();
    assert_eq!(answer, MEGABYTES.to_string().into_bytes());
    socket.closed().await;
}

#[tokio::test]
async fn the_host_may_close_its_half_first() {
    let mut rig = Rig::new("host");
    rig.relay();
    let (counted, mut counts) = mpsc::unbounded_channel();
    let port = serve(move |mut stream| {
        let counted = counted.clone();
        async move {
            stream.write_all(b"hello").await.unwrap();
            stream.shutdown().await.unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.unwrap();
            counted.send(all.len()).unwrap();
        }
    })
    .await;
    let socket = rig.guest.connect(gateway(port)).await.unwrap();
    assert_eq!(soon(socket.read_to_end()).await.unwrap(), b"hello");
    soon(socket.write_all(&pattern(MEGABYTES))).await.unwrap();
    socket.close();
    assert_eq!(soon(counts.recv()).await, Some(MEGABYTES));
    socket.closed().await;
}

#[tokio::test]
async fn a_server_may_speak_first_without_delay() {
    let mut rig = Rig::new("host");
    rig.relay();
    let port = serve(|mut stream| async move {
        stream.write_all(b"220 ready\r\n").await.unwrap();
        let _ = stream.read(&mut [0; 1]).await;
    })
    .await;
    let started = Instant::now();
    let socket = rig.guest.connect(gateway(port)).await.unwrap();
    assert_eq!(soon(socket.read()).await.unwrap(), b"220 ready\r\n");
    assert!(
        started.elapsed() < Duration::from_secs(1),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn a_reset_handle_resets_the_guest_and_fails_the_stream() {
    let mut rig = Rig::new("host");
    let port = echo_service().await;
    let socket = rig.guest.connect(gateway(port)).await.unwrap();
    let mut flow = soon(rig.flows.recv()).await.unwrap();
    let reset = flow.guest.reset_handle();
    let mut buffer = [0; 16];
    let (read, ()) = soon(async {
        tokio::join!(flow.guest.read(&mut buffer), async {
            tokio::task::yield_now().await;
            reset.reset();
        })
    })
    .await;
    assert_eq!(read.err().unwrap().kind(), io::ErrorKind::ConnectionAborted);
    assert_eq!(
        flow.guest.write(b"x").await.err().unwrap().kind(),
        io::ErrorKind::ConnectionAborted
    );
    assert_eq!(
        soon(socket.read()).await.err().unwrap().kind(),
        io::ErrorKind::ConnectionReset
    );
}

#[tokio::test]
async fn a_reset_by_the_guest_fails_the_stream_after_the_data_before_it() {
    let mut rig = Rig::new("host");
    let socket = rig
        .guest
        .connect(gateway(echo_service().await))
        .await
        .unwrap();
    let mut flow = soon(rig.flows.recv()).await.unwrap();
    socket.write_all(b"last words").await.unwrap();
    let mut buffer = [0; 4];
    soon(flow.guest.read_exact(&mut buffer)).await.unwrap();
    socket.abort();
    socket.closed().await;
    // The rest of the data is still there, whenever the reset arrives.
    let mut rest = Vec::new();
    let error = soon(flow.guest.read_to_end(&mut rest)).await.err().unwrap();
    assert_eq!(
        (rest.as_slice(), error.kind()),
        (&b" words"[..], io::ErrorKind::ConnectionReset)
    );
    assert_eq!(
        flow.guest.write(b"x").await.err().unwrap().kind(),
        io::ErrorKind::ConnectionReset
    );
}

#[tokio::test]
async fn dropping_the_stream_delivers_what_was_written() {
    let mut rig = Rig::new("host");
    let socket = rig
        .guest
        .connect(gateway(echo_service().await))
        .await
        .unwrap();
    let mut flow = soon(rig.flows.recv()).await.unwrap();
    soon(flow.guest.write_all(&pattern(300_000))).await.unwrap();
    drop(flow);
    assert!(soon(socket.read_to_end()).await.unwrap() == pattern(300_000));
    socket.close();
    socket.closed().await;
}

#[tokio::test]
async fn data_for_a_dropped_stream_is_answered_with_a_reset() {
    let mut rig = Rig::new("host");
    let socket = rig
        .guest
        .connect(gateway(echo_service().await))
        .await
        .unwrap();
    drop(soon(rig.flows.recv()).await.unwrap());
    assert_eq!(soon(socket.read()).await.unwrap(), b"");
    socket.write_all(b"anyone?").await.unwrap();
    socket.closed().await;
}

#[tokio::test]
async fn a_guest_that_is_not_read_stops_sending_and_goes_on_later() {
    let mut rig = Rig::new("host");
    let socket = rig
        .guest
        .connect(gateway(echo_service().await))
        .await
        .unwrap();
    let mut flow = soon(rig.flows.recv()).await.unwrap();
    let data = pattern(MEGABYTES);
    let write = socket.write_all(&data);
    tokio::pin!(write);
    // Both ends' buffers are far smaller than the data: without reading, it cannot all be taken.
    tokio::time::timeout(Duration::from_millis(300), &mut write)
        .await
        .unwrap_err();
    let mut received = vec![0; MEGABYTES];
    let (written, read) =
        soon(async { tokio::join!(write, flow.guest.read_exact(&mut received)) }).await;
    written.unwrap();
    read.unwrap();
    assert!(received == data, "the data differs");
}

#[tokio::test]
async fn a_flow_over_the_limit_is_reset_and_reported_once() {
    let mut rig = Rig::with("host", |config| config.max_flows = 3);
    let port = echo_service().await;
    let mut sockets = Vec::new();
    for _ in 0..3 {
        sockets.push(rig.guest.connect(gateway(port)).await.unwrap());
    }
    for _ in 0..5 {
        assert!(rig.guest.connect(gateway(port)).await.err().is_some());
    }
    let limits = rig
        .events()
        .into_iter()
        .filter(|event| matches!(event, Event::FlowLimit { max_flows: 3, .. }));
    assert_eq!(limits.count(), 1);
    // The old flows still work, and a closed one makes room.
    let mut flow = soon(rig.flows.recv()).await.unwrap();
    sockets[0].write_all(b"still here").await.unwrap();
    soon(flow.guest.read_exact(&mut [0; 10])).await.unwrap();
    sockets[0].abort();
    soon(flow.guest.read(&mut [0; 1])).await.unwrap_err();
    rig.guest.connect(gateway(port)).await.unwrap();
}

/// A relay that waits for its other side neither reads nor writes the guest's stream.
#[tokio::test]
async fn a_reset_by_either_side_is_told_to_who_does_not_read() {
    let mut rig = Rig::new("host");
    let port = echo_service().await;
    let socket = rig.guest.connect(gateway(port)).await.unwrap();
    let flow = soon(rig.flows.recv()).await.unwrap();
    let handle = flow.guest.reset_handle();
    assert!(!handle.is_broken());
    socket.write_all(b"never read").await.unwrap();
    socket.abort();
    soon(handle.broken()).await;
    assert!(handle.is_broken());

    let _socket = rig.guest.connect(gateway(port)).await.unwrap();
    let flow = soon(rig.flows.recv()).await.unwrap();
    let handle = flow.guest.reset_handle();
    handle.reset();
    soon(handle.broken()).await;

    let _socket = rig.guest.connect(gateway(port)).await.unwrap();
    let flow = soon(rig.flows.recv()).await.unwrap();
    drop(rig.network);
    soon(flow.guest.reset_handle().broken()).await;
}

#[tokio::test]
async fn a_connection_closed_in_order_is_not_broken() {
    let mut rig = Rig::new("host");
    let port = echo_service().await;
    for host_first in [false, true] {
        let socket = rig.guest.connect(gateway(port)).await.unwrap();
        let mut flow = soon(rig.flows.recv()).await.unwrap();
        let handle = flow.guest.reset_handle();
        if host_first {
            flow.guest.shutdown().await.unwrap();
            assert_eq!(soon(socket.read()).await.unwrap(), b"");
            socket.close();
            assert_eq!(soon(flow.guest.read(&mut [0])).await.unwrap(), 0);
        } else {
            socket.close();
            assert_eq!(soon(flow.guest.read(&mut [0])).await.unwrap(), 0);
            flow.guest.shutdown().await.unwrap();
        }
        socket.closed().await;
        assert!(!handle.is_broken(), "host first: {host_first}");
    }
}

/// Else a guest that resets its connections could have the host hold any number of them.
#[tokio::test]
async fn reset_flows_whose_streams_live_on_are_bounded() {
    let mut rig = Rig::with("host", |config| config.max_flows = 3);
    let port = echo_service().await;
    let mut held = Vec::new();
    for _ in 0..6 {
        let socket = rig.guest.connect(gateway(port)).await.unwrap();
        held.push(soon(rig.flows.recv()).await.unwrap());
        socket.abort();
        socket.closed().await;
    }
    assert!(rig.guest.connect(gateway(port)).await.err().is_some());
    held.pop();
    rig.guest.connect(gateway(port)).await.unwrap();
}

#[tokio::test]
async fn ten_thousand_connections_one_after_another_leave_no_flow_behind() {
    let mut rig = Rig::with("host", |config| config.max_flows = 64);
    rig.relay();
    let port = echo_service().await;
    let rounds = if cfg!(debug_assertions) { 40 } else { 200 };
    for _ in 0..rounds {
        let guest = &rig.guest;
        let echoes = (0..50).map(|_| async move {
            let socket = guest.connect(gateway(port)).await.unwrap();
            socket.write_all(b"ping").await.unwrap();
            assert_eq!(socket.read_exact(4).await.unwrap(), b"ping");
            socket.close();
            socket.closed().await;
        });
        soon(join_all(echoes)).await;
    }
}

#[tokio::test]
async fn the_network_ends_with_the_link_and_its_streams_fail() {
    let mut rig = Rig::new("host");
    let socket = rig
        .guest
        .connect(gateway(echo_service().await))
        .await
        .unwrap();
    let mut flow = soon(rig.flows.recv()).await.unwrap();
    drop(rig.network);
    let error = soon(flow.guest.read(&mut [0; 1])).await.err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    assert!(soon(rig.flows.recv()).await.is_none());
    drop(socket);
}

async fn join_all(futures: impl IntoIterator<Item = impl Future<Output = ()>>) {
    let mut futures: Vec<_> = futures.into_iter().map(Box::pin).collect();
    std::future::poll_fn(|context| {
        futures.retain_mut(|future| future.as_mut().poll(context).is_pending());
        if futures.is_empty() {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
}
