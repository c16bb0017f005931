//! Three real TLS servers on this host, under a root that only the proxy is given.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use msb::{HostAddress, NetworkBuilder};
use msb_testkit::{CertificateKind, Handler, Origin, TestRoot};
use tempfile::TempDir;

/// The host that may have the secret.
pub const API: &str = "api.example.test";
/// A host that may not.
pub const OTHER: &str = "other.example.test";
/// A host that is bypassed.
pub const PINNED: &str = "pinned.example.test";

/// The servers, and their root as a file for the proxy. Dropping it ends them and removes the file.
#[derive(Debug)]
pub struct Origins {
    /// What signed the servers' certificates.
    pub root: TestRoot,
    /// Serves [`API`].
    pub api: Origin,
    /// Serves [`OTHER`].
    pub other: Origin,
    /// Serves [`PINNED`].
    pub pinned: Origin,
    dir: TempDir,
}

impl Origins {
    /// Starts the servers on loopback, on free ports. [`API`] gets `port` unless that is 0.
    ///
    /// # Panics
    /// When a port or a directory cannot be had.
    pub async fn start(port: u16) -> Self {
        let root = TestRoot::new();
        let dir = tempfile::tempdir().expect("a temporary directory");
        let serve = async |name: &str, port: u16| {
            let answer = Arc::new(hello(name)) as Handler;
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            Origin::listen(address, root.server(&[name], CertificateKind::Good), answer).await
        };
        let (api, other, pinned) =
            tokio::join!(serve(API, port), serve(OTHER, 0), serve(PINNED, 0));
        let origins = Self {
            api,
            other,
            pinned,
            root,
            dir,
        };
        std::fs::write(origins.root_file(), origins.root.pem()).expect("a file for the root");
        origins
    }

    /// The root, as a PEM file.
    #[must_use]
    pub fn root_file(&self) -> PathBuf {
        self.dir.path().join("root.pem")
    }

    /// Where `name` is served.
    ///
    /// # Panics
    /// For a name that is not.
    #[must_use]
    pub fn port(&self, name: &str) -> u16 {
        let origin = match name {
            API => &self.api,
            OTHER => &self.other,
            PINNED => &self.pinned,
            _ => panic!("{name} is not served"),
        };
        origin.address().port()
    }

    /// `https://NAME:PORT`.
    #[must_use]
    pub fn url(&self, name: &str) -> String {
        format!("https://{name}:{}", self.port(name))
    }

    /// The configuration that makes the servers reachable from a guest, intercepted but for [`PINNED`].
    pub fn network(&self, network: NetworkBuilder) -> NetworkBuilder {
        let names = [API, OTHER, PINNED];
        let mut network = network.profiles("public,host");
        for name in names {
            network = network.add_host(name, HostAddress::HostGateway);
        }
        network.tls(|t| {
            t.intercepted_ports(names.map(|name| self.port(name)))
                .bypass(PINNED)
                .upstream_ca_cert(self.root_file())
        })
    }
}

/// A server's answer: who it is, or the body it got with its type.
fn hello(
    name: &str,
) -> impl Fn(&msb_testkit::RecordedRequest) -> http::Response<http_body_util::Full<bytes::Bytes>>
+ Send
+ Sync
+ use<> {
    let name = name.to_owned();
    move |request| {
        let body = match request.body.as_slice() {
            [] => format!("hello from {name}\n").into(),
            body => bytes::Bytes::copy_from_slice(body),
        };
        let content_type = request.only_header("content-type");
        let content_type = content_type.unwrap_or_else(|| "text/plain".to_owned());
        http::Response::builder()
            .header(http::header::CONTENT_TYPE, content_type)
            .body(http_body_util::Full::new(body))
            .expect("a field value that was one")
    }
}
