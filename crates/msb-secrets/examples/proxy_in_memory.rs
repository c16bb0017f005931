//! One request and its response through the engine, without a network: what a proxy around it does.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;

use bytes::Bytes;
use msb_secrets::name::{Authority, HostName};
use msb_secrets::policy::InterceptedConnection;
use msb_secrets::{BodyKind, LengthPlan, SecretBuilder, SecretSet};

fn main() -> Result<(), Box<dyn Error>> {
    let secret = SecretBuilder::new()
        .env("API_KEY")
        .value("s3cr3t")
        .allow_host("api.example.com")
        .inject_query(true)
        .inject_body(true);
    let secrets = SecretSet::new(vec![secret.build()?])?;
    let connection = InterceptedConnection::dialled(HostName::parse("api.example.com")?);
    let mut request = secrets.request(&connection, &Authority::parse("api.example.com")?);

    let target = request.rewrite_target("/v1/items?key=$MSB_API_KEY")?;
    let header = request.header_value("authorization", b"Bearer $MSB_API_KEY")?;
    let chunks = [r#"{"key": "$MSB_"#, r#"API_KEY"}"#].map(|chunk| Bytes::from(chunk.as_bytes()));
    let mut rewriter = request.rewrite_body(BodyKind::Json);
    let plan = LengthPlan::decide(
        Some(23),
        rewriter.length_change(),
        LengthPlan::DEFAULT_LIMIT,
    );
    let mut body = Vec::new();
    for chunk in chunks {
        body.extend(rewriter.push(chunk)?.flatten());
    }
    body.extend(rewriter.finish()?.flatten());

    println!("to the server:");
    for changed in [target, header].into_iter().flatten() {
        println!("  {}", String::from_utf8_lossy(&changed.into_bytes()));
    }
    println!(
        "  {} ({plan:?}: {} bytes)",
        String::from_utf8_lossy(&body),
        body.len()
    );

    let mut scrubber = secrets.response().body(BodyKind::Json);
    let mut answer: Vec<u8> = scrubber.push(Bytes::from(body)).flatten().collect();
    answer.extend(scrubber.finish().flatten());
    println!("back in the guest, from a server that echoes:");
    println!("  {}", String::from_utf8_lossy(&answer));
    for note in request
        .take_notes()
        .into_iter()
        .chain(scrubber.take_notes())
    {
        println!("note: {note}");
    }

    let elsewhere = InterceptedConnection::dialled(HostName::parse("evil.example")?);
    let mut request = secrets.request(&elsewhere, &Authority::parse("evil.example")?);
    if let Err(violation) = request.header_value("x", b"%24MSB_API_KEY") {
        println!("violation: {violation}");
    }
    Ok(())
}
