//! Fixtures for msb's tests: a root CA, TLS origins that record what reaches them, TLS clients, and guests made of
//! network namespaces.
//!
//! Only ever a dev-dependency. It knows none of the crates whose tests use it, so that a fault in
//! one of them cannot hide behind a fixture that shares it. What cannot be set up panics: a test
//! without its fixture has nothing to say.
//!
//! ```
//! use msb_testkit::{CertificateKind, Origin, TestRoot};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let root = TestRoot::new();
//! let origin = Origin::start(root.server(&["api.example.test"], CertificateKind::Good)).await;
//! let mut stream = msb_testkit::connect_tls(origin.address(), "api.example.test", &root.der()).await.unwrap();
//! let answer = msb_testkit::exchange(&mut stream, b"GET / HTTP/1.1\r\nHost: api.example.test\r\nConnection: close\r\n\r\n").await;
//! assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
//! assert_eq!(origin.requests()[0].target, "/");
//! # }
//! ```

#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    reason = "a fixture that cannot be set up fails its test"
)]

mod client;
mod netns;
mod origin;
mod record;
mod root;

pub use client::{client_config, connect_tls, connect_tls_over, exchange, tcp_pair};
pub use netns::{NetnsGuest, NetnsSettings};
pub use origin::{Handler, Origin, RawOrigin};
pub use record::RecordedRequest;
pub use root::{CertificateKind, TestRoot};
