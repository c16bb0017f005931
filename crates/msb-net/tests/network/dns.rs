//! Names: answered at any address, from the configured hosts or upstream, pinned and policed.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use msb_net::{Event, HostEntry, SecureNames};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

use crate::guest::{GuestTcp, soon};
use crate::rig::{GATEWAY_V4, GATEWAY_V6, Rig, echo_service, gateway, ip, rules};

const ELSEWHERE: &str = "9.9.9.9:53";

/// An upstream name server on the host's loopback; counts the queries it got.
pub(crate) async fn upstream(
    records: fn(&str, RecordType) -> Option<Vec<RData>>,
) -> (SocketAddr, Arc<AtomicUsize>) {
    let (udp, tcp) = loop {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        // The same port may be taken for TCP.
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
            break (udp, tcp);
        }
    };
    let address = udp.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((len, from)) = udp.recv_from(&mut buffer).await {
            counter.fetch_add(1, Ordering::Relaxed);
            let response = upstream_answer(&buffer[..len], records);
            let bytes = response.to_vec().unwrap();
            let bytes = if bytes.len() > 1232 {
                response.truncate().to_vec().unwrap()
            } else {
                bytes
            };
            let _ = udp.send_to(&bytes, from).await;
        }
    });
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = tcp.accept().await {
            tokio::spawn(async move {
                while let Ok(len) = stream.read_u16().await {
                    let mut query = vec![0; usize::from(len)];
                    stream.read_exact(&mut query).await.unwrap();
                    let bytes = upstream_answer(&query, records).to_vec().unwrap();
                    stream
                        .write_u16(u16::try_from(bytes.len()).unwrap())
                        .await
                        .unwrap();
                    stream.write_all(&bytes).await.unwrap();
                }
            });
        }
    });
    (address, asked)
}

/// A name server that never answers.
async fn silent_server() -> UdpSocket {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap()
}

pub(crate) fn upstream_answer(
    query: &[u8],
    records: fn(&str, RecordType) -> Option<Vec<RData>>,
) -> Message {
    let query = Message::from_vec(query).unwrap();
    let question = query.queries[0].clone();
    let mut response = Message::response(query.metadata.id, OpCode::Query);
    response.metadata.recursion_available = true;
    match records(
        &question.name().to_ascii().to_lowercase(),
        question.query_type(),
    ) {
        Some(data) => {
            let answers = data
                .into_iter()
                .map(|data| Record::from_rdata(question.name().clone(), 300, data));
            response.add_answers(answers.collect::<Vec<_>>());
        }
        None => response.metadata.response_code = ResponseCode::NXDomain,
    }
    response.add_query(question);
    response
}

fn zone(name: &str, kind: RecordType) -> Option<Vec<RData>> {
    let a = |octets: [u8; 4]| RData::A(Ipv4Addr::from(octets).into());
    Some(match (name, kind) {
        ("www.example.org.", RecordType::A) => vec![a([93, 184, 215, 14]), a([93, 184, 215, 15])],
        ("www.example.org.", RecordType::AAAA) => vec![RData::AAAA(
            "2606:4700::1".parse::<std::net::Ipv6Addr>().unwrap().into(),
        )],
        ("inner.example.org.", RecordType::A) => vec![a([10, 0, 0, 1])],
        ("mixed.example.org.", RecordType::A) => vec![a([10, 0, 0, 1]), a([1, 1, 1, 1])],
        ("metadata.example.org.", RecordType::A) => vec![a([169, 254, 169, 254])],
        ("many.example.org.", RecordType::A) => (1..=250).map(|last| a([1, 1, 1, last])).collect(),
        ("www.example.org.", _) => vec![],
        _ => return None,
    })
}

pub(crate) fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

pub(crate) async fn ask(rig: &Rig, server: &str, message: &Message) -> Message {
    let bytes = rig
        .guest
        .ask(server.parse().unwrap(), &message.to_vec().unwrap())
        .await;
    let response = Message::from_vec(&bytes).unwrap();
    assert_eq!(
        (response.metadata.id, &response.queries),
        (message.metadata.id, &message.queries)
    );
    assert_eq!(response.metadata.message_type, MessageType::Response);
    assert!(response.metadata.recursion_available);
    response
}

fn addresses(response: &Message) -> Vec<IpAddr> {
    let mut addresses: Vec<_> = response
        .answers
        .iter()
        .filter_map(|record| record.data.ip_addr())
        .collect();
    addresses.sort_unstable();
    addresses
}

async fn rig_with_upstream(policy: &str) -> (Rig, Arc<AtomicUsize>) {
    let (server, asked) = upstream(zone).await;
    let rig = Rig::with(policy, |config| {
        config.nameservers = Some(vec![server]);
        config.hosts = vec![
            ("api.example.test".parse().unwrap(), HostEntry::HostGateway),
            (
                "db.example.test".parse().unwrap(),
                HostEntry::Ip(ip("10.9.8.7")),
            ),
        ];
    });
    (rig, asked)
}

#[tokio::test]
async fn queries_to_any_address_are_answered_over_udp() {
    let (rig, asked) = rig_with_upstream("public").await;
    for server in [
        ELSEWHERE,
        "192.0.0.1:53",
        "[fd00:6d:7362::1]:53",
        "[2606:4700::1111]:53",
    ] {
        let response = ask(&rig, server, &query("www.example.org.", RecordType::A)).await;
        assert_eq!(
            addresses(&response),
            [ip("93.184.215.14"), ip("93.184.215.15")],
            "{server}"
        );
        let response = ask(&rig, server, &query("www.example.org.", RecordType::AAAA)).await;
        assert_eq!(addresses(&response), [ip("2606:4700::1")], "{server}");
    }
    assert_eq!(
        asked.load(Ordering::Relaxed),
        2,
        "the rest comes from the cache"
    );
}

#[tokio::test]
async fn queries_are_answered_over_tcp_one_after_another() {
    let (rig, _) = rig_with_upstream("public").await;
    let socket = rig.guest.connect(ELSEWHERE.parse().unwrap()).await.unwrap();
    ask_over(&socket).await;
}

/// Queries one after another in a stream to a name server.
async fn ask_over(socket: &GuestTcp) {
    for name in ["www.example.org.", "many.example.org."] {
        let message = query(name, RecordType::A).to_vec().unwrap();
        socket
            .write_all(&u16::try_from(message.len()).unwrap().to_be_bytes())
            .await
            .unwrap();
        socket.write_all(&message).await.unwrap();
        let mut bytes = soon(socket.read_exact(2)).await.unwrap();
        let len = usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
        bytes.drain(..2);
        while bytes.len() < len {
            bytes.extend(soon(socket.read()).await.unwrap());
        }
        let response = Message::from_vec(&bytes).unwrap();
        assert!(
            addresses(&response).len() >= 2 && !response.metadata.truncation,
            "{name}"
        );
    }
    socket.close();
    socket.closed().await;
}

/// Who ends the TLS is tested elsewhere: here nobody has put any around the queries.
#[tokio::test]
async fn connections_to_the_port_of_dns_over_tls_are_handed_on_with_who_answers_in_them() {
    let (server, _) = upstream(zone).await;
    let elsewhere: SocketAddr = "9.9.9.9:853".parse().unwrap();
    let rig = Rig::with("none", |config| {
        config.policy = rules(&["allow@www.example.org", "allow@many.example.org"], "none");
        config.nameservers = Some(vec![server]);
        config.secure_names = Some(Arc::new(move |secure: SecureNames| {
            assert_eq!(secure.destination.port(), 853);
            tokio::spawn(async move { secure.names.serve(secure.guest).await });
        }));
    });
    for destination in [elsewhere, gateway(853)] {
        let socket = rig.guest.connect(destination).await.unwrap();
        ask_over(&socket).await;
        socket.close();
        socket.closed().await;
    }
    let pins = rig.pins.lock().unwrap();
    let names = pins.names(ip("93.184.215.14"), Instant::now());
    assert_eq!(names.len(), 1, "what is answered here is pinned as well");
}

#[tokio::test]
async fn without_a_taker_dns_over_tls_is_a_connection_like_any_other() {
    let (rig, _) = rig_with_upstream("none").await;
    let refused = rig.guest.connect("9.9.9.9:853".parse().unwrap()).await;
    assert!(refused.is_err());
}

#[tokio::test]
async fn a_long_answer_is_truncated_over_udp_unless_edns_allows_it() {
    let (rig, _) = rig_with_upstream("public").await;
    let mut message = query("many.example.org.", RecordType::A);
    let response = ask(&rig, ELSEWHERE, &message).await;
    assert!(response.metadata.truncation && response.answers.is_empty());
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    message.set_edns(edns);
    let response = ask(&rig, ELSEWHERE, &message).await;
    assert!(response.metadata.truncation || response.answers.len() == 250);
    assert!(response.edns.is_some());
}

#[tokio::test]
async fn answers_are_pinned_to_their_name() {
    let (rig, _) = rig_with_upstream("public").await;
    ask(&rig, ELSEWHERE, &query("WWW.Example.ORG.", RecordType::A)).await;
    let name = "www.example.org".parse().unwrap();
    let (pins, now) = (rig.pins(), Instant::now());
    for address in ["93.184.215.14", "93.184.215.15"] {
        assert!(pins.confirm(&name, ip(address), now).is_some(), "{address}");
    }
    assert!(pins.confirm(&name, ip("93.184.215.16"), now).is_none());
}

#[tokio::test]
async fn a_public_name_is_not_rebound_to_an_inner_address() {
    let (mut rig, _) = rig_with_upstream("public").await;
    for name in ["inner.example.org.", "metadata.example.org."] {
        let response = ask(&rig, ELSEWHERE, &query(name, RecordType::A)).await;
        assert_eq!(
            response.metadata.response_code,
            ResponseCode::NXDomain,
            "{name}"
        );
        assert!(response.answers.is_empty());
        assert!(
            matches!(rig.event().await, Event::NameDenied { name: denied, .. } if denied == name)
        );
    }
    let response = ask(&rig, ELSEWHERE, &query("mixed.example.org.", RecordType::A)).await;
    assert_eq!(addresses(&response), [ip("1.1.1.1")]);
    assert!(rig.pins().names(ip("10.0.0.1"), Instant::now()).is_empty());
}

#[tokio::test]
async fn a_policy_that_allows_private_addresses_lets_them_through() {
    let (rig, _) = rig_with_upstream("public,private").await;
    let response = ask(&rig, ELSEWHERE, &query("inner.example.org.", RecordType::A)).await;
    assert_eq!(addresses(&response), [ip("10.0.0.1")]);
}

#[tokio::test]
async fn a_missing_name_and_a_missing_type_are_told_apart() {
    let (rig, _) = rig_with_upstream("public").await;
    let response = ask(
        &rig,
        ELSEWHERE,
        &query("nowhere.example.org.", RecordType::A),
    )
    .await;
    assert_eq!(response.metadata.response_code, ResponseCode::NXDomain);
    let response = ask(&rig, ELSEWHERE, &query("www.example.org.", RecordType::MX)).await;
    assert_eq!(response.metadata.response_code, ResponseCode::NoError);
    assert!(response.answers.is_empty());
}

#[tokio::test]
async fn configured_hosts_are_answered_without_asking_upstream() {
    let (mut rig, asked) = rig_with_upstream("public,host").await;
    for name in ["api.example.test.", "host.msb.internal."] {
        let response = ask(&rig, ELSEWHERE, &query(name, RecordType::A)).await;
        assert_eq!(addresses(&response), [ip(GATEWAY_V4)], "{name}");
        let response = ask(&rig, ELSEWHERE, &query(name, RecordType::AAAA)).await;
        assert_eq!(addresses(&response), [ip(GATEWAY_V6)], "{name}");
    }
    let response = ask(&rig, ELSEWHERE, &query("db.example.test.", RecordType::A)).await;
    assert_eq!(addresses(&response), [ip("10.9.8.7")]);
    let response = ask(
        &rig,
        ELSEWHERE,
        &query("db.example.test.", RecordType::AAAA),
    )
    .await;
    assert_eq!(response.metadata.response_code, ResponseCode::NoError);
    assert!(response.answers.is_empty());
    assert_eq!(asked.load(Ordering::Relaxed), 0);

    let port = echo_service().await;
    let _socket = rig.guest.connect(gateway(port)).await.unwrap();
    let flow = soon(rig.flows.recv()).await.unwrap();
    let names: Vec<_> = flow.names.iter().map(|name| name.as_str()).collect();
    assert_eq!(names, ["api.example.test", "host.msb.internal"]);
    assert!(flow.to_host);
    assert_eq!(flow.upstream.peer_addr().unwrap().port(), port);
}

/// Attack 8: a query is a message to whoever runs the zone.
#[tokio::test]
async fn no_query_leaves_the_host_where_no_name_could_be_of_use() {
    for (policy, permitted) in [("none", false), ("host", false), ("public", true)] {
        let (server, asked) = upstream(zone).await;
        let mut rig = Rig::with(policy, |config| {
            config.nameservers = Some(vec![server]);
            let name = "api.example.test".parse().unwrap();
            config.hosts = vec![(name, HostEntry::Ip(ip("198.51.100.7")))];
        });
        let local = ask(&rig, ELSEWHERE, &query("api.example.test.", RecordType::A)).await;
        assert_eq!(local.metadata.response_code, ResponseCode::NoError);
        assert_eq!(local.answers.len(), 1, "{policy}");
        for (name, kind) in [
            ("www.example.org.", RecordType::A),
            ("c2VjcmV0.example.org.", RecordType::TXT),
            ("_ldap._tcp.example.org.", RecordType::SRV),
        ] {
            let answer = ask(&rig, ELSEWHERE, &query(name, kind)).await;
            if permitted {
                continue;
            }
            assert_eq!(
                answer.metadata.response_code,
                ResponseCode::NXDomain,
                "{policy}: {name}"
            );
            let event = rig.event().await;
            assert!(matches!(event, Event::NameDenied { .. }), "{event:?}");
        }
        let expected = if permitted { 3 } else { 0 };
        assert_eq!(asked.load(Ordering::Relaxed), expected, "{policy}");
    }
}

/// Attack 8, SPEC D2.
#[tokio::test]
async fn denied_names_never_leave_the_host() {
    let barred = ["deny@*.evil.test"];
    let listed = ["allow@www.example.org:tcp:443"];
    for (rules, profiles, denied, asked_for) in [
        (&barred, "public", "c2VjcmV0.evil.test.", "www.example.org."),
        (&listed, "none", "c2VjcmV0.example.org.", "www.example.org."),
    ] {
        let (server, asked) = upstream(zone).await;
        let mut rig = Rig::with("none", |config| {
            config.nameservers = Some(vec![server]);
            config.policy = crate::rig::rules(rules, profiles);
        });
        // The second is no host's name, and could carry a message past rules about names.
        for name in [denied, "c2VjcmV0.evil.7."] {
            let answer = ask(&rig, ELSEWHERE, &query(name, RecordType::TXT)).await;
            assert_eq!(
                answer.metadata.response_code,
                ResponseCode::NXDomain,
                "{name}"
            );
            let event = rig.event().await;
            assert!(matches!(event, Event::NameDenied { .. }), "{event:?}");
        }
        assert_eq!(asked.load(Ordering::Relaxed), 0, "{denied}");
        let answer = ask(&rig, ELSEWHERE, &query(asked_for, RecordType::A)).await;
        assert_eq!(addresses(&answer).len(), 2);
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }
}

#[tokio::test]
async fn the_host_has_no_name_where_it_is_denied() {
    let (mut rig, asked) = rig_with_upstream("public").await;
    let response = ask(&rig, ELSEWHERE, &query("host.msb.internal.", RecordType::A)).await;
    assert_eq!(response.metadata.response_code, ResponseCode::NXDomain);
    assert!(matches!(rig.event().await, Event::NameDenied { .. }));
    assert_eq!(asked.load(Ordering::Relaxed), 0);
}

/// The answer is given; the connection is still denied, whatever name it was resolved for.
#[tokio::test]
async fn without_rebinding_protection_the_policy_for_connections_is_left() {
    let (server, _) = upstream(zone).await;
    let mut rig = Rig::with("public", |config| {
        config.nameservers = Some(vec![server]);
        config.rebind_protection = false;
        config.policy = rules(&["allow@inner.example.org"], "public");
    });
    let response = ask(&rig, ELSEWHERE, &query("inner.example.org.", RecordType::A)).await;
    assert_eq!(addresses(&response), [ip("10.0.0.1")]);
    let inner = SocketAddr::new(ip("10.0.0.1"), 443);
    let error = rig.guest.connect(inner).await.err().unwrap();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    assert!(matches!(rig.event().await, Event::Denied { .. }));
}

#[tokio::test]
async fn the_time_for_a_query_is_what_was_asked_for() {
    let silent = silent_server().await;
    let mut rig = Rig::with("public", |config| {
        config.nameservers = Some(vec![silent.local_addr().unwrap()]);
        config.query_timeout = Duration::from_millis(50);
    });
    let response = ask(&rig, ELSEWHERE, &query("www.example.org.", RecordType::A)).await;
    assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
    // Either all servers have been tried by then, or the time is up; five seconds are not waited for.
    match rig.event().await {
        Event::NameFailed { reason, .. } => {
            assert!(
                reason.contains("50ms") || reason.contains("timed out"),
                "{reason}"
            );
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_unreachable_name_server_is_a_servfail_and_an_event() {
    let silent = silent_server().await;
    let mut rig = Rig::with("public", |config| {
        config.nameservers = Some(vec![silent.local_addr().unwrap()]);
    });
    let response = ask(&rig, ELSEWHERE, &query("www.example.org.", RecordType::A)).await;
    assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
    assert!(
        matches!(rig.event().await, Event::NameFailed { name, .. } if name == "www.example.org.")
    );
}

#[tokio::test]
async fn a_second_name_server_stands_in_for_a_dead_one() {
    let (server, _) = upstream(zone).await;
    let silent = silent_server().await;
    let rig = Rig::with("public", |config| {
        config.nameservers = Some(vec![silent.local_addr().unwrap(), server]);
    });
    let response = ask(&rig, ELSEWHERE, &query("www.example.org.", RecordType::A)).await;
    assert_eq!(addresses(&response).len(), 2);
}

#[tokio::test]
async fn malformed_and_unsupported_queries_get_their_error() {
    let (rig, _) = rig_with_upstream("public").await;
    let check = async |bytes: &[u8], code: ResponseCode| {
        let response = rig.guest.ask(gateway(53), bytes).await;
        let response = Message::from_vec(&response).unwrap();
        assert_eq!(response.metadata.response_code, code, "{bytes:?}");
    };
    let valid = query("www.example.org.", RecordType::A);
    check(&valid.to_vec().unwrap()[..20], ResponseCode::FormErr).await;
    check(
        &query("www.example.org.", RecordType::ANY).to_vec().unwrap(),
        ResponseCode::NotImp,
    )
    .await;
    check(
        &query("example.org.", RecordType::AXFR).to_vec().unwrap(),
        ResponseCode::NotImp,
    )
    .await;
    let mut two = valid.clone();
    two.add_query(two.queries[0].clone());
    check(&two.to_vec().unwrap(), ResponseCode::FormErr).await;
    let mut update = valid.clone();
    update.metadata.op_code = OpCode::Update;
    check(&update.to_vec().unwrap(), ResponseCode::NotImp).await;
}
