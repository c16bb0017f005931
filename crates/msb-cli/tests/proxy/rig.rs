//! A running `msb proxy`, a server behind it, and clients in front of it.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use msb_testkit::{CertificateKind, Origin, TestRoot};
use rustix::process::{Pid, Signal, kill_process};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio_rustls::client::TlsStream;

pub(crate) const HOST: &str = "api.example.test";
pub(crate) const OTHER: &str = "other.example.test";
pub(crate) const VALUE: &str = "sk-canary-7f3a";
pub(crate) const PLACEHOLDER: &str = "$MSB_API_KEY";
/// The exit status of msb's own failures.
pub(crate) const OWN_FAILURE: i32 = 125;

/// The future's output, or a failed test: nothing here takes half a minute.
pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(30), future)
        .await
        .expect("this should have ended long ago")
}

/// Files of a test, and the authority of its servers.
pub(crate) struct Rig {
    dir: TempDir,
    pub(crate) root: TestRoot,
}

impl Rig {
    pub(crate) fn new() -> Self {
        let rig = Self {
            dir: tempfile::tempdir().unwrap(),
            root: TestRoot::new(),
        };
        rig.write("root.pem", rig.root.pem());
        rig
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// A server for [`HOST`] and [`OTHER`].
    pub(crate) async fn origin(&self) -> Origin {
        Origin::start(self.root.server(&[HOST, OTHER], CertificateKind::Good)).await
    }

    /// `msb` in the directory of the rig's files, with the secret's value in its environment.
    pub(crate) fn msb(&self, args: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_msb"));
        command
            .args(args.split_whitespace())
            .current_dir(self.dir.path())
            .env("API_KEY", VALUE)
            .env_remove("MSB_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// A proxy with one secret for [`HOST`], both hosts being at `origin`, and more flags.
    pub(crate) async fn proxy(&self, mode: &str, origin: SocketAddr, flags: &str) -> Running {
        let args = format!(
            "--mode {mode} --secret API_KEY@{HOST} --tls-upstream-ca-cert root.pem \
             --add-host {HOST}:{origin} --add-host {OTHER}:{origin} {flags}"
        );
        self.bare_proxy(&args).await
    }

    /// A proxy with these flags besides the needed ones.
    pub(crate) async fn bare_proxy(&self, flags: &str) -> Running {
        self.ruled_proxy(flags, &[]).await
    }

    /// A proxy with these flags, and these rules about requests.
    pub(crate) async fn ruled_proxy(&self, flags: &str, rules: &[&str]) -> Running {
        let args = format!("proxy --listen 127.0.0.1:0 --ca-out ca.pem --events events {flags}");
        let mut command = self.msb(&args);
        for rule in rules {
            command.args(["--http-rule", rule]);
        }
        let mut child = command.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = within(stdout.next_line()).await.unwrap();
        let Some(line) = line else {
            let why = within(stderr.next_line()).await.unwrap();
            panic!("msb proxy {flags} did not start: {why:?}");
        };
        let address = line.strip_prefix("listening on ").unwrap().parse().unwrap();
        Running {
            child,
            address,
            stdout,
            stderr,
            ca: CertificateDer::from_pem_file(self.path("ca.pem")).unwrap(),
            ca_file: self.path("ca.pem"),
            events: self.path("events"),
        }
    }

    /// Runs `msb` to its end.
    pub(crate) async fn finish(&self, args: &str) -> (Option<i32>, String) {
        let output = within(self.msb(args).output()).await.unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), stderr)
    }
}

pub(crate) struct Running {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) stdout: Lines<BufReader<ChildStdout>>,
    stderr: Lines<BufReader<ChildStderr>>,
    pub(crate) ca: CertificateDer<'static>,
    pub(crate) ca_file: PathBuf,
    events: PathBuf,
}

impl Running {
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    /// The next line it says on standard error.
    pub(crate) async fn says(&mut self) -> String {
        within(self.stderr.next_line()).await.unwrap().unwrap()
    }

    /// Waits for its end; the exit status and what it said.
    pub(crate) async fn end(mut self) -> (Option<i32>, String) {
        let status = within(self.child.wait()).await.unwrap();
        let mut said = String::new();
        while let Some(line) = within(self.stderr.next_line()).await.unwrap() {
            said += &line;
            said.push('\n');
        }
        (status.code(), said)
    }

    /// The file of events so far.
    pub(crate) fn events_text(&self) -> String {
        std::fs::read_to_string(&self.events).unwrap()
    }

    /// Waits for an event of this type; its line as JSON.
    pub(crate) async fn event(&self, kind: &str) -> serde_json::Value {
        within(async {
            loop {
                for line in self.events_text().lines() {
                    // A line that is being written has no end yet.
                    if let Ok(event) = serde_json::from_str::<serde_json::Value>(line)
                        && event["type"] == kind
                    {
                        return event;
                    }
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// What the proxy answers to `request`, up to the end of its head, and the stream.
    pub(crate) async fn ask(&self, request: &[u8]) -> (String, TcpStream) {
        let mut stream = self.connect().await;
        stream.write_all(request).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(within(stream.read_u8()).await.unwrap());
        }
        (String::from_utf8(head).unwrap(), stream)
    }

    /// A TLS connection that names `named` through a tunnel to `authority`.
    pub(crate) async fn tunnel(
        &self,
        authority: &str,
        named: &str,
    ) -> io::Result<TlsStream<TcpStream>> {
        let request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
        let (head, stream) = self.ask(request.as_bytes()).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        within(msb_testkit::connect_tls_over(stream, named, &self.ca)).await
    }

    /// The answer to a request with a placeholder in `Authorization`, or how the connection ended.
    pub(crate) async fn get(&self, host: &str) -> io::Result<String> {
        let stream = self.tunnel(&format!("{host}:443"), host).await?;
        get(stream, host).await
    }

    /// curl with the proxy's certificate; `None` where it is not installed.
    pub(crate) async fn curl(&self, flags: &[&str]) -> Option<(Option<i32>, String)> {
        let mut command = Command::new("curl");
        command
            .args(["--silent", "--show-error", "--max-time", "20", "--cacert"])
            .arg(&self.ca_file)
            .args(flags)
            .env_remove("HTTPS_PROXY")
            .env_remove("https_proxy")
            .env_remove("NO_PROXY")
            .env_remove("no_proxy")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        match within(command.output()).await {
            Ok(output) => {
                let all = [output.stdout, output.stderr].concat();
                Some((output.status.code(), String::from_utf8(all).unwrap()))
            }
            Err(error) => {
                eprintln!("skipped: curl does not run here: {error}");
                None
            }
        }
    }
}

/// A request with a placeholder in `Authorization`: the answer, or how the connection ended.
pub(crate) async fn get(mut stream: TlsStream<TcpStream>, host: &str) -> io::Result<String> {
    let request = format!(
        "GET /v1?token=in-the-query HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {PLACEHOLDER}\r\n\
         Connection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    within(stream.read_to_end(&mut answer)).await?;
    Ok(String::from_utf8(answer).unwrap())
}

#[track_caller]
pub(crate) fn check_reset<T: std::fmt::Debug>(ended: io::Result<T>) {
    let error = ended.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
}
