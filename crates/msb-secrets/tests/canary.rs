//! Hygiene: no public type shows a value when formatted, and a value is readable with the right grant only.

use bytes::Bytes;
use msb_name::{Authority, HostName};
use msb_policy::{Destination, InterceptedConnection, UpstreamTrust, grant_injection};
use msb_secrets::{
    BodyKind, CodedBody, ContentCoding, DecodeLimits, LiveSecrets, SecretBuilder, SecretSet,
};

const CANARY: &str = "cAnArY-8d1f";

fn builder(env: &str, value: &str) -> SecretBuilder {
    SecretBuilder::new()
        .env(env)
        .value(value)
        .allow_host("a.test")
}

fn connection() -> (InterceptedConnection, Authority) {
    let name: HostName = "a.test".parse().expect("a name");
    let connection = InterceptedConnection::new(
        name.clone(),
        Destination::DialledByName(name.clone()),
        UpstreamTrust::Verified(name.into()),
    );
    (
        connection,
        Authority::parse("a.test").expect("an authority"),
    )
}

/// Attack 25.
#[test]
fn no_public_type_shows_a_value() {
    let (connection, authority) = connection();
    let mut shown = vec![format!("{:?}", builder("A", CANARY))];
    let secret = builder("A", CANARY).build().unwrap();
    shown.push(format!("{secret:?} {secret:#?}"));
    let other = builder("B", "another")
        .allow_host("b.test")
        .placeholder(format!("<{CANARY}>"))
        .build()
        .unwrap();
    shown.push(SecretSet::new(vec![secret, other]).unwrap_err().to_string());
    for bad in [
        builder("A", &format!("{CANARY}\n")),
        builder("PATH", CANARY),
        builder("A", &format!("{CANARY} and more")).placeholder_like_value(),
        builder("A", CANARY).allow_host("*"),
    ] {
        let error = bad.build().unwrap_err();
        shown.push(format!("{error} {error:?}"));
    }

    let foreign = SecretBuilder::new()
        .env("B")
        .value(CANARY)
        .allow_host("b.test")
        .build()
        .unwrap();
    let set = SecretSet::new(vec![builder("A", CANARY).build().unwrap(), foreign]).unwrap();
    let mut request = set.request(&connection, &authority);
    let rewritten = request
        .header_value("authorization", b"Bearer $MSB_A")
        .unwrap()
        .unwrap();
    shown.push(format!(
        "{set:?} {set:#?} {request:?} {rewritten:?} {:?}",
        set.scope("A")
    ));
    shown.push(format!("{:?}", request.take_notes()));
    let mut body = request.body();
    let pieces = body.push(Bytes::from_static(b"$MSB_A and more")).unwrap();
    shown.push(format!("{pieces:?} {body:?} {:?}", body.take_notes()));
    let violation = request.header_value("x", b"$MSB_B").unwrap_err();
    shown.push(format!("{violation} {violation:?} {:?}", set.plain()));
    let (id, scope) = set.scope("A").unwrap();
    shown.push(format!(
        "{:?}",
        grant_injection(id, scope, &connection, &authority)
    ));

    let injected = SecretSet::new(vec![
        builder("A", CANARY).inject_body(true).build().unwrap(),
    ])
    .unwrap();
    let mut body = injected
        .request(&connection, &authority)
        .rewrite_body(BodyKind::Json);
    let pieces = body.push(Bytes::from_static(b"$MSB_A and more")).unwrap();
    shown.push(format!("{pieces:?} {body:?} {:?}", body.length_change()));
    let mut response = injected.response();
    response.header_value("x", CANARY.as_bytes());
    let mut scrubber = response.body(BodyKind::Text);
    let pieces = scrubber.push(Bytes::from_static(CANARY.as_bytes()));
    let notes = response.take_notes();
    shown.push(format!(
        "{response:?} {scrubber:?} {pieces:?} {notes:?} {notes:#?}"
    ));
    let mut coded = CodedBody::new(
        ContentCoding::Gzip,
        body,
        ContentCoding::Zstd,
        DecodeLimits::default(),
    )
    .unwrap();
    coded.push(Bytes::from_static(CANARY.as_bytes()));
    shown.push(format!("{coded:?} {:?}", coded.output().unwrap_err()));
    let live = LiveSecrets::new(injected);
    let error = live.rotate("A", format!("{CANARY}\n")).unwrap_err();
    shown.push(format!("{live:?} {error} {error:?}"));

    for text in shown {
        assert!(!text.contains(CANARY), "{text}");
    }
}

#[test]
fn a_grant_opens_its_own_secret_only() {
    let (connection, authority) = connection();
    let set = SecretSet::new(vec![
        builder("A", CANARY).build().unwrap(),
        builder("B", "another").build().unwrap(),
    ])
    .unwrap();
    let (a, scope) = set.scope("A").unwrap();
    let (b, _) = set.scope("B").unwrap();
    let grant = grant_injection(a, scope, &connection, &authority).unwrap();
    assert_eq!(
        set.value(a).unwrap().expose(&grant),
        Some(CANARY.as_bytes())
    );
    assert_eq!(set.value(b).unwrap().expose(&grant), None);
}
