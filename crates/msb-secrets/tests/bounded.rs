//! The memory of a stream does not grow with its length: asserted at 1 GiB of input.

use allocation_counter::measure;
use bytes::Bytes;
use msb_name::HostName;
use msb_policy::{Destination, InterceptedConnection, UpstreamTrust};
use msb_secrets::{BodyKind, SecretBuilder, SecretSet};

const CHUNK: usize = 1 << 20;
const CHUNKS: usize = 1 << 10;

#[test]
fn a_long_stream_needs_no_more_memory_than_a_short_one() {
    let secret = SecretBuilder::new()
        .env("KEY")
        .value("the-value-of-a-secret")
        .allow_host("a.test")
        .inject_body(true);
    let set = SecretSet::new(vec![secret.build().unwrap()]).unwrap();
    let name: HostName = "a.test".parse().unwrap();
    let connection = InterceptedConnection::new(
        name.clone(),
        Destination::DialledByName(name.clone()),
        UpstreamTrust::Verified(name.into()),
    );
    let request = set.request(&connection, &"a.test".parse().unwrap());
    // A placeholder in every chunk, one across each border, and a beginning that leads nowhere.
    let mut chunk = b"_KEY. ".to_vec();
    while chunk.len() < CHUNK - 500 {
        chunk.extend_from_slice(b"price in $, 100%, \\n, JE1U. ");
        chunk.resize(chunk.len() + 400, b'x');
    }
    chunk.extend_from_slice(b" $MSB_KEY $MSB");
    let chunk = Bytes::from(chunk);

    let most_held = |chunks: usize| {
        let (mut sent, mut received) = (0, 0);
        let allocations = measure(|| {
            let mut body = request.rewrite_body(BodyKind::Text);
            let mut scrubber = set.response().body(BodyKind::Text);
            for _ in 0..chunks {
                for piece in body.push(chunk.clone()).unwrap() {
                    sent += piece.len();
                    received += scrubber.push(piece).map(|piece| piece.len()).sum::<usize>();
                }
            }
            for piece in body.finish().unwrap() {
                sent += piece.len();
                received += scrubber.push(piece).map(|piece| piece.len()).sum::<usize>();
            }
            received += scrubber.finish().map(|piece| piece.len()).sum::<usize>();
        });
        assert_eq!(received, chunks * chunk.len());
        assert!(sent > received);
        allocations.bytes_max
    };
    let (little, much) = (most_held(4), most_held(CHUNKS));
    assert!(
        much <= little + 1024,
        "{little} bytes for 4 chunks, {much} for {CHUNKS}"
    );
    assert!(much < 64 << 10, "{much}");
}
