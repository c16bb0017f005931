//! Programs that people run, in a guest whose kernel nobody here wrote, against services on the host.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::rig::{Rig, authority, gateways, output, pattern, tool, web_server};

/// A program that ends with this value.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        // Both fail only when it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port on the loopback that was free just now: for services that cannot choose one and tell.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// Waits until the service accepts connections, or has ended.
#[track_caller]
fn serves(service: Child, port: u16) -> Service {
    let mut service = Service(service);
    while std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        let ended = service.0.try_wait().unwrap();
        assert!(ended.is_none(), "the service did not start: {ended:?}");
        std::thread::yield_now();
    }
    service
}

/// What a command says that must succeed.
#[track_caller]
fn said(command: &mut Command) -> String {
    let output = output(command);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let failure = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}{failure}");
    said
}

#[test]
fn iperf3_moves_data_both_ways_over_parallel_streams() {
    let (Some(iperf3), Some(rig)) = (tool("iperf3"), Rig::start("host")) else {
        return;
    };
    for (streams, direction) in [
        ("1", None),
        ("4", None),
        ("1", Some("--reverse")),
        ("4", Some("--bidir")),
    ] {
        let port = free_port().to_string();
        let mut server = Command::new(&iperf3)
            .args([
                "--server",
                "--one-off",
                "--forceflush",
                "--bind",
                "127.0.0.1",
            ])
            .args(["--port", &port])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
        let _server = Service(server);
        assert!(
            lines
                .by_ref()
                .any(|line| line.unwrap().contains("listening"))
        );
        std::thread::spawn(move || lines.for_each(drop));
        let mut client = rig.guest.command(&iperf3);
        client
            .args(["--client", "192.0.0.1", "--port", &port])
            .args(["--bytes", "8M", "--parallel", streams])
            .args(direction);
        let report = said(&mut client);
        assert!(report.contains("receiver"), "{report}");
    }
}

#[test]
fn nc_sees_an_open_port_a_closed_one_and_the_end_of_a_half() {
    let (Some(nc), Some(rig)) = (tool("nc"), Rig::start("host")) else {
        return;
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let service = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        all.reverse();
        stream.write_all(&all).unwrap();
    });
    // The end of its input closes the guest's half; the answer comes on the other.
    let mut client = rig.guest.command(&nc);
    let mut client = client
        .args(["-N", "192.0.0.1", &port.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    client.stdin.take().unwrap().write_all(b"stressed").unwrap();
    assert_eq!(client.wait_with_output().unwrap().stdout, b"desserts");
    service.join().unwrap();
    let mut closed = rig.guest.command(&nc);
    closed.args(["-zv", "192.0.0.1", &port.to_string()]);
    let refused = output(&mut closed);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("refused"), "{said}");
}

#[test]
fn nc_gets_answers_to_datagrams_from_the_host() {
    let (Some(nc), Some(rig)) = (tool("nc"), Rig::start("host")) else {
        return;
    };
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = socket.local_addr().unwrap().port().to_string();
    std::thread::spawn(move || {
        let mut datagram = [0; 2_000];
        while let Ok((len, asker)) = socket.recv_from(&mut datagram) {
            datagram[..len].reverse();
            // The guest may be gone.
            let _ = socket.send_to(&datagram[..len], asker);
        }
    });
    let mut client = rig.guest.command(&nc);
    let mut client = client
        .args(["-u", "192.0.0.1", &port])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = client.stdin.take().unwrap();
    let mut stdout = client.stdout.take().unwrap();
    let _client = Service(client);
    for (sent, expected) in [(&b"drawer"[..], b"reward"), (b"diaper", b"repaid")] {
        stdin.write_all(sent).unwrap();
        let mut answer = [0; 6];
        stdout.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, expected);
    }
}

#[test]
fn ping_reaches_the_gateway_in_both_families() {
    let (Some(ping), Some(rig)) = (tool("ping"), Rig::start("none")) else {
        return;
    };
    for gateway in gateways() {
        for len in ["56", "8000", "60000"] {
            let mut command = rig.guest.command(&ping);
            command.args([
                "-n",
                "-c",
                "3",
                "-i",
                "0.01",
                "-s",
                len,
                &gateway.to_string(),
            ]);
            let report = said(&mut command);
            assert!(report.contains(" 0% packet loss"), "{report}");
        }
    }
}

#[test]
fn nmap_of_the_gateway_finishes_and_other_connections_live_on() {
    let (Some(nmap), Some(curl)) = (tool("nmap"), tool("curl")) else {
        return;
    };
    let Some(rig) = Rig::start("host") else {
        return;
    };
    let port = web_server();
    let url = format!("http://{}/5", authority(gateways()[0], port));
    let ports = format!("{port},1-500");
    for scan in ["-sS", "-sT", "-sF", "-sX", "-sA"] {
        let mut command = rig.guest.command(&nmap);
        command.args([
            "-n",
            "-Pn",
            "-T5",
            "--max-retries",
            "1",
            "-p",
            &ports,
            scan,
            "192.0.0.1",
        ]);
        let report = said(&mut command);
        assert!(report.contains("1 host up"), "{report}");
        if matches!(scan, "-sS" | "-sT") {
            assert!(report.contains(&format!("{port}/tcp")), "{report}");
        }
        let got = output(rig.guest.command(&curl).args(["-sS", &url]));
        assert_eq!(got.stdout, pattern(5), "after {scan}");
    }
}

#[test]
fn redis_cli_talks_to_a_redis_on_the_host() {
    let (Some(cli), Some(server)) = (tool("redis-cli"), tool("redis-server")) else {
        return;
    };
    let Some(rig) = Rig::start("host") else {
        return;
    };
    let port = free_port();
    let service = Command::new(server)
        .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
        .args(["--save", "", "--appendonly", "no"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let _service = serves(service, port);
    let redis = |arguments: &[&str]| {
        let mut command = rig.guest.command(&cli);
        command.args(["-h", "192.0.0.1", "-p", &port.to_string()]);
        said(command.args(arguments))
    };
    let long = "x".repeat(100_000);
    assert_eq!(redis(&["ping"]), "PONG\n");
    assert_eq!(redis(&["set", "key", &long]), "OK\n");
    assert_eq!(redis(&["get", "key"]).trim_end(), long);
    assert_eq!(
        redis(&["--raw", "-r", "200", "incr", "n"]).lines().last(),
        Some("200")
    );
}

/// The programs of the newest PostgreSQL that is installed; outside of `PATH` on Debian.
fn postgresql() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let mut found: Vec<_> = versions
        .flatten()
        .map(|version| version.path().join("bin"))
        .filter(|bin| {
            ["initdb", "postgres", "psql"]
                .iter()
                .all(|name| bin.join(name).is_file())
        })
        .collect();
    found.sort();
    if found.is_empty() {
        eprintln!("skipped: PostgreSQL is not installed");
    }
    found.pop()
}

/// A certificate for itself, as files that only their owner reads.
fn certificate(dir: &Path) {
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    fs::write(dir.join("server.crt"), certified.cert.pem()).unwrap();
    fs::write(
        dir.join("server.key"),
        certified.signing_key.serialize_pem(),
    )
    .unwrap();
    said(Command::new("chmod").arg("600").arg(dir.join("server.key")));
}

#[test]
fn psql_talks_to_a_postgresql_on_the_host_plain_and_by_tls() {
    let (Some(bin), Some(rig)) = (postgresql(), Rig::start("host")) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    // It refuses to run as root.
    said(Command::new("chown").arg("nobody").arg(dir.path()));
    let nobody = |program: &str| {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", "nobody", "--regid", "nogroup", "--clear-groups"])
            .arg(bin.join(program))
            .current_dir(dir.path());
        command
    };
    let options = [
        "--auth",
        "trust",
        "--username",
        "tester",
        "--no-sync",
        "--pgdata",
    ];
    said(nobody("initdb").args(options).arg(&data));
    certificate(&data);
    said(
        Command::new("chown")
            .arg("nobody")
            .args(["server.crt", "server.key"].map(|file| data.join(file))),
    );
    let port = free_port();
    let service = nobody("postgres")
        .arg("-D")
        .arg(&data)
        .args(["-h", "127.0.0.1", "-p", &port.to_string()])
        .args([
            "-c",
            "ssl=on",
            "-c",
            "unix_socket_directories=",
            "-c",
            "fsync=off",
        ])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _service = serves(service, port);
    for (mode, encrypted) in [("disable", "f"), ("require", "t")] {
        let target =
            format!("host=192.0.0.1 port={port} user=tester dbname=postgres sslmode={mode}");
        // It may still be starting up, and says so.
        let query = "select ssl from pg_stat_ssl where pid = pg_backend_pid(); select md5(string_agg(i::text, ',')) from generate_series(1, 200000) i; select repeat('x', 3000000)";
        let answer = loop {
            let mut psql = rig.guest.command(bin.join("psql"));
            let answer = output(psql.args(["-XqAt", "-c", query, &target]));
            let failure = String::from_utf8_lossy(&answer.stderr).into_owned();
            if answer.status.success() {
                break String::from_utf8(answer.stdout).unwrap();
            }
            assert!(failure.contains("starting up"), "{failure}");
        };
        let lines: Vec<_> = answer.lines().collect();
        assert_eq!(
            (lines.len(), lines[0], lines[2].len()),
            (3, encrypted, 3_000_000),
            "{mode}"
        );
    }
}

/// Lets OpenSSH's server run without its user and directory, which only installing it makes.
const SSHD: &str = r#"set -e
mount --bind "$1/passwd" /etc/passwd
mount -t tmpfs tmpfs /run
mkdir /run/sshd
exec "$2" -D -e -f "$1/sshd_config""#;

#[test]
fn ssh_runs_commands_on_the_host_with_keys_and_much_output() {
    let (Some(ssh), Some(sshd), Some(keygen)) = (tool("ssh"), tool("sshd"), tool("ssh-keygen"))
    else {
        return;
    };
    let Some(rig) = Rig::start("host") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    for key in ["host_key", "user_key"] {
        said(Command::new(&keygen).args(["-q", "-t", "ed25519", "-N", "", "-f", &path(key)]));
    }
    fs::copy(path("user_key.pub"), path("authorized_keys")).unwrap();
    let users = "root:x:0:0::/root:/bin/sh\ntester:x:0:0::/tmp:/bin/sh\nsshd:x:65534:65534::/run/sshd:/bin/false\n";
    fs::write(path("passwd"), users).unwrap();
    let port = free_port();
    let config = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nPermitRootLogin yes\n\
         PasswordAuthentication no\nUsePAM no\nPidFile none\n",
        path("host_key"),
        path("authorized_keys"),
    );
    fs::write(path("sshd_config"), config).unwrap();
    let service = Command::new("unshare")
        .args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            SSHD,
            "sh",
        ])
        .arg(dir.path())
        .arg(sshd)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _service = serves(service, port);
    let mut command = rig.guest.command(&ssh);
    command
        .args([
            "-F",
            "none",
            "-i",
            &path("user_key"),
            "-p",
            &port.to_string(),
        ])
        .args([
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "BatchMode=yes",
        ])
        .args([
            "tester@192.0.0.1",
            "tr a-z A-Z; head -c 3000000 /dev/zero; exit 7",
        ]);
    let mut client = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    client.stdin.take().unwrap().write_all(b"shout\n").unwrap();
    let done = client.wait_with_output().unwrap();
    let failure = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(7), "{failure}");
    assert!(
        done.stdout.starts_with(b"SHOUT\n") && done.stdout.len() == 3_000_006,
        "{failure}"
    );
}
