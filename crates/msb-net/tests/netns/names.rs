//! Tools that ask for names, and that look for the way to hosts.

use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use msb_net::{Config, HostEntry, SecureNames};
use msb_testkit::{CertificateKind, TestRoot};
use tokio_rustls::TlsAcceptor;

use crate::rig::{Rig, output, tool};

/// Addresses of `many.test`: an answer of more than 512 octets (RFC 1035, 4.2.1), and of less than 1232.
const MANY: u8 = 60;

fn named(config: &mut Config) {
    let mut add = |name: &str, address: IpAddr| {
        let name = name.parse().unwrap();
        config.hosts.push((name, HostEntry::Ip(address)));
    };
    add("one.test", [8, 8, 4, 4].into());
    for last in 1..=MANY {
        add("many.test", [8, 8, 8, last].into());
    }
}

/// What the tool says to a question put to the gateway, or to a server that is not there.
#[track_caller]
fn asked(rig: &Rig, tool: &Path, server: &str, question: &[&str]) -> String {
    let mut command: Command = rig.guest.command(tool);
    command.arg(format!("@{server}")).args(question);
    let output = output(&mut command);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let failure = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}{failure}");
    said
}

fn count(said: &str, part: &str) -> usize {
    said.matches(part).count()
}

#[test]
fn dig_and_kdig_get_answers_over_udp_and_tcp_whichever_server_they_ask() {
    let Some(rig) = Rig::with("public", named) else {
        return;
    };
    for name in ["dig", "kdig"] {
        let Some(tool) = tool(name) else {
            return;
        };
        // D1: every server is the gateway's.
        for server in ["192.0.0.1", "fd00:6d:7362::1", "8.8.8.8"] {
            for over in ["+notcp", "+tcp"] {
                let said = asked(&rig, &tool, server, &["one.test", "A", over, "+short"]);
                assert_eq!(said, "8.8.4.4\n", "{name} @{server} {over}");
            }
        }
        let said = asked(&rig, &tool, "192.0.0.1", &["one.test", "AAAA"]);
        assert!(
            said.contains("NOERROR") && !said.contains("8.8.4.4"),
            "{said}"
        );
        let said = asked(&rig, &tool, "192.0.0.1", &["-x", "8.8.4.4"]);
        assert!(said.contains("status: "), "{said}");
    }
}

#[test]
fn long_answers_are_cut_and_asked_for_again_over_tcp_or_fit_where_edns_makes_room() {
    let Some(rig) = Rig::with("public", named) else {
        return;
    };
    for name in ["dig", "kdig"] {
        let Some(tool) = tool(name) else {
            return;
        };
        let ask = |options: &[&str]| {
            asked(
                &rig,
                &tool,
                "192.0.0.1",
                &[&["many.test", "A"], options].concat(),
            )
        };
        let all = usize::from(MANY);
        let cut = ask(&["+noedns", "+ignore"]);
        assert!(
            cut.contains(" tc") && count(&cut, "8.8.8.") < all,
            "{name}: {cut}"
        );
        let again = ask(&["+noedns"]);
        assert!(
            again.contains("TCP") && count(&again, "8.8.8.") == all,
            "{name}: {again}"
        );
        let room = ask(&["+edns=0", "+bufsize=1232", "+ignore"]);
        assert!(
            !room.contains(" tc") && count(&room, "8.8.8.") == all,
            "{name}: {room}"
        );
        assert!(room.contains("EDNS"), "{name}: {room}");
    }
}

/// SPEC D5: what kdig sends over TLS has the same answers, under a certificate that it verifies; who ends the TLS in a
/// sandbox is its interception, and here a stand-in.
#[test]
fn dns_over_tls_is_answered_whichever_server_is_asked_once_its_tls_is_ended() {
    let root = TestRoot::new();
    let mut server = (*root.server(&["dns.test"], CertificateKind::Good)).clone();
    server.alpn_protocols = vec![b"dot".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let rig = Rig::with("public", |config| {
        named(config);
        config.secure_names = Some(Arc::new(move |secure: SecureNames| {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let stream = acceptor.accept(secure.guest).await?;
                secure.names.serve(stream).await
            });
        }));
    });
    let (Some(kdig), Some(rig)) = (tool("kdig"), rig) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, root.pem()).unwrap();
    let (ca, host) = (
        format!("+tls-ca={}", ca.display()),
        "+tls-hostname=dns.test",
    );
    for at in ["192.0.0.1", "fd00:6d:7362::1", "198.51.100.9"] {
        let said = asked(
            &rig,
            &kdig,
            at,
            &["+tls", &ca, host, "one.test", "many.test", "A"],
        );
        assert!(said.contains("TLS session (TLS1.3)"), "{said}");
        assert_eq!(count(&said, "8.8.4.4"), 1, "{at}: {said}");
        assert_eq!(count(&said, "8.8.8."), usize::from(MANY), "{at}: {said}");
    }
}

/// SPEC D5: where nothing intercepts, the port is one like any other.
#[test]
fn dns_over_tls_is_refused_at_once_where_the_policy_denies_it() {
    let (Some(kdig), Some(rig)) = (tool("kdig"), Rig::with("none", named)) else {
        return;
    };
    let mut command = rig.guest.command(&kdig);
    command.args(["@8.8.8.8", "+tls", "+retry=0", "+timeout=20", "one.test"]);
    let said = output(&mut command);
    let said = [said.stdout, said.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(
        said.contains("refused") || said.contains("failed"),
        "{said}"
    );
    assert!(
        !said.contains("timed out") && !said.contains("timeout"),
        "{said}"
    );
}

#[test]
fn traceroute_is_refused_and_ends() {
    let (Some(traceroute), Some(rig)) = (tool("traceroute"), Rig::start("none")) else {
        return;
    };
    for how in ["--udp", "--icmp", "--tcp"] {
        let mut command = rig.guest.command(&traceroute);
        command.args(["-n", "-q", "1", "-m", "5", how, "8.8.8.8"]);
        let said = output(&mut command);
        let said = [said.stdout, said.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        // One hop, which is the last: the gateway says no, or what is asked for refuses.
        let hops = said.lines().skip(1).count();
        assert_eq!(hops, 1, "{how}: {said}");
        assert!(!said.contains('*'), "{how}: {said}");
    }
}
