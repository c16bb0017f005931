//! What the targets have in common: one set of secrets, and one connection.

use std::sync::LazyLock;

use bytes::Bytes;
use msb_name::HostName;
use msb_policy::{Destination, InterceptedConnection, UpstreamTrust};
use msb_secrets::{RequestRewriter, SecretBuilder, SecretSet, StreamRewriter};

/// The value of `A`, with what each place has to escape.
pub const VALUE: &str = "s3\"c\\r&=t %é+";

/// Two with the default placeholder, and one that holds what escapes are made of.
pub static SECRETS: LazyLock<SecretSet> = LazyLock::new(|| {
    let secret = |env: &str| {
        SecretBuilder::new()
            .env(env)
            .value(VALUE)
            .allow_host("a.test")
            .inject_query(true)
            .inject_body(true)
    };
    let secrets = [
        secret("A"),
        secret("A_LONG").value("sk-0123456789"),
        secret("ODD")
            .placeholder("{{ %odd\\+ }}")
            .value("odd-value"),
    ];
    let secrets = secrets.map(|secret| secret.build().expect("a good secret"));
    SecretSet::new(secrets.into()).expect("a good set")
});

pub fn request() -> RequestRewriter {
    let name: HostName = "a.test".parse().expect("a name");
    let connection = InterceptedConnection::new(
        name.clone(),
        Destination::DialledByName(name.clone()),
        UpstreamTrust::Verified(name.into()),
    );
    SECRETS.request(&connection, &"a.test".parse().expect("an authority"))
}

/// The first bytes say where to cut the rest.
pub fn cut(data: &[u8]) -> (Bytes, Vec<Bytes>) {
    let (cuts, text) = data.split_at(data.len().min(4));
    let text = Bytes::copy_from_slice(text);
    let mut places: Vec<usize> = cuts
        .iter()
        .map(|cut| usize::from(*cut) % (text.len() + 1))
        .collect();
    places.extend([0, text.len()]);
    places.sort_unstable();
    let chunks = places
        .windows(2)
        .map(|pair| text.slice(pair[0]..pair[1]))
        .collect();
    (text, chunks)
}

pub fn stream(mut rewriter: StreamRewriter, chunks: impl IntoIterator<Item = Bytes>) -> Vec<u8> {
    let mut output = Vec::new();
    for chunk in chunks {
        output.extend(
            rewriter
                .push(chunk)
                .expect("every secret is for this host")
                .flatten(),
        );
    }
    output.extend(
        rewriter
            .finish()
            .expect("every secret is for this host")
            .flatten(),
    );
    output
}
