//! A guest calls an API with a key that it does not hold.
//!
//! `cargo run -p msb --example call_an_api`
//!
//! The API is a real TLS server on this host, on a port of its own and under a root that only the proxy is told to
//! trust. An API on the internet needs none of `profiles`, `add_host`, `intercepted_ports` and `upstream_ca_cert`.
//! The program fails if the guest saw the key or the server did not.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "this program shows what happens")]

use std::error::Error;

use msb::{HostAddress, Sandbox};
use msb_testkit::{CertificateKind, Origin, TestRoot};

const KEY: &str = "sk-the-real-key";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let root = TestRoot::new();
    let root_file = tempfile::NamedTempFile::new()?;
    std::fs::write(&root_file, root.pem())?;
    let server = root.server(&["api.example.test"], CertificateKind::Good);
    let api = Origin::start(server).await;
    let port = api.address().port();

    let sb = Sandbox::builder("worker")
        .image("base")
        .secret(|s| s.env("API_KEY").value(KEY).allow_host("api.example.test"))
        .secret_env("OTHER_KEY", "sk-another", "other.example.test")
        .network(|n| {
            n.profiles("public,host")
                .add_host("api.example.test", HostAddress::HostGateway)
                .tls(|t| {
                    t.bypass("pinned.example.test")
                        .intercepted_ports([443, port])
                        .upstream_ca_cert(root_file.path())
                })
        })
        .create()
        .await?;

    let line = format!(
        "env | grep _KEY= | sort; \
         curl -sS https://api.example.test:{port}/v1 -H \"Authorization: Bearer $API_KEY\""
    );
    let out = sb.exec("/bin/sh", ["-c", &line]).await?;
    println!("{}{}{}", out.stdout()?, out.stderr()?, out.status());
    sb.stop().await?;

    assert!(out.status().success());
    assert_eq!(
        out.stdout()?,
        "API_KEY=$MSB_API_KEY\nOTHER_KEY=$MSB_OTHER_KEY\nhello\n"
    );
    let requests = api.requests();
    let authorization = requests[0].only_header("authorization");
    println!("the server received: {authorization:?}");
    assert_eq!(authorization, Some(format!("Bearer {KEY}")));
    Ok(())
}
