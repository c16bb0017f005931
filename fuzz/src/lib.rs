//! What the targets have in common: sets of secrets, requests, ways to cut, and a slow reference.

pub mod proxy;
pub mod reference;
/// What the tests of the proxy read requests with.
#[path = "../../crates/msb-tls-proxy/tests/common/strict.rs"]
pub mod strict;

use std::sync::LazyLock;

use bytes::Bytes;
use msb_policy::{Destination, InterceptedConnection, UpstreamTrust};
use msb_secrets::{RequestRewriter, SecretBuilder, SecretSet, StreamRewriter};

/// The value of `A`, with what each place has to escape.
pub const VALUE: &str = "s3\"c\\r&=t %é+";

/// The value of `A_LONG`.
pub const LONG_VALUE: &str = "sk-0123456789";

/// The value of `ODD`.
pub const ODD_VALUE: &str = "odd-value";

/// Placeholders and values of [`PLAIN`].
pub const TOKENS: [(&str, &str); 2] = [("$MSB_A", VALUE), ("$MSB_A_LONG", LONG_VALUE)];

/// Two with the default placeholder.
pub static PLAIN: LazyLock<SecretSet> = LazyLock::new(|| set([]));

/// Those, and one whose placeholder holds what escapes are made of.
pub static SECRETS: LazyLock<SecretSet> = LazyLock::new(|| {
    let odd = secret("ODD")
        .placeholder("{{ %odd\\+ }}")
        .value(ODD_VALUE)
        .passthrough_host("likes.test");
    set([odd])
});

fn secret(env: &str) -> SecretBuilder {
    SecretBuilder::new()
        .env(env)
        .value(VALUE)
        .allow_host("a.test")
        .passthrough_host("likes.test")
        .inject_query(true)
        .inject_body(true)
}

fn set(more: impl IntoIterator<Item = SecretBuilder>) -> SecretSet {
    let usual = [secret("A"), secret("A_LONG").value(LONG_VALUE)];
    let secrets = usual.into_iter().chain(more);
    let secrets = secrets.map(|secret| secret.build().expect("a good secret"));
    SecretSet::new(secrets.collect()).expect("a good set")
}

/// To the host that gets every value.
pub fn request(set: &SecretSet) -> RequestRewriter {
    to(set, "a.test")
}

/// To a host with every gate but the secrets' own open.
pub fn to(set: &SecretSet, host: &str) -> RequestRewriter {
    let connection = InterceptedConnection::dialled(host.parse().expect("a name"));
    set.request(&connection, &host.parse().expect("an authority"))
}

/// Requests that no value may go into, each for another reason.
pub fn refused(set: &SecretSet) -> [RequestRewriter; 6] {
    let name = || "a.test".parse().expect("a name");
    let dialled = || Destination::DialledByName(name());
    let verified = || UpstreamTrust::Verified(name().into());
    let open = InterceptedConnection::dialled(name());
    let closed = [
        InterceptedConnection::new(name(), dialled(), UpstreamTrust::VerificationOff),
        InterceptedConnection::new(name(), dialled(), UpstreamTrust::Plaintext),
        InterceptedConnection::new(
            name(),
            Destination::Unpinned([192, 0, 2, 1].into()),
            verified(),
        ),
        InterceptedConnection::new(
            name(),
            dialled(),
            UpstreamTrust::Verified(msb_name::Host::Ip([192, 0, 2, 1].into())),
        ),
    ];
    let authority = "a.test".parse().expect("an authority");
    let [unverified, plaintext, unpinned, other] = closed.map(|it| set.request(&it, &authority));
    let misdirected = set.request(&open, &"b.test".parse().expect("an authority"));
    let elsewhere = to(set, "b.test");
    [
        unverified,
        plaintext,
        unpinned,
        other,
        misdirected,
        elsewhere,
    ]
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

/// All that comes out; `None` where it is refused.
pub fn streamed(
    mut rewriter: StreamRewriter,
    chunks: impl IntoIterator<Item = Bytes>,
) -> Option<Vec<u8>> {
    let mut output = Vec::new();
    for chunk in chunks {
        output.extend(rewriter.push(chunk).ok()?.flatten());
    }
    output.extend(rewriter.finish().ok()?.flatten());
    Some(output)
}

/// As [`streamed`], where every secret is for the host.
pub fn stream(rewriter: StreamRewriter, chunks: impl IntoIterator<Item = Bytes>) -> Vec<u8> {
    streamed(rewriter, chunks).expect("every secret is for this host")
}
