//! Searching allocates nothing where nothing is found.

use allocation_counter::measure;
use bytes::Bytes;
use msb_name::{Authority, HostName};
use msb_policy::{Destination, InterceptedConnection, UpstreamTrust};
use msb_secrets::{SecretBuilder, SecretSet};

#[test]
fn nothing_found_allocates_nothing() {
    let secrets = (0..16).map(|i| {
        SecretBuilder::new()
            .env(format!("KEY_{i}"))
            .value("value")
            .allow_host("a.test")
            .build()
            .unwrap()
    });
    let set = SecretSet::new(secrets.collect()).unwrap();
    let name: HostName = "b.test".parse().unwrap();
    let connection = InterceptedConnection::new(
        name.clone(),
        Destination::Unpinned([1, 1, 1, 1].into()),
        UpstreamTrust::Verified(name.into()),
    );
    let mut request = set.request(&connection, &Authority::parse("b.test").unwrap());
    let mut body = request.body();
    let chunks: Vec<Bytes> = (0..64)
        .map(|i| Bytes::from("price in $, 100%, \\n, JE1U. ".repeat(100 + i)))
        .collect();

    let mut bytes = 0;
    let allocations = measure(|| {
        for chunk in chunks {
            bytes += body
                .push(chunk)
                .unwrap()
                .map(|piece| piece.len())
                .sum::<usize>();
        }
        assert!(
            request
                .header_value("user-agent", b"curl/8.5.0 (100% $5)")
                .unwrap()
                .is_none()
        );
        request.target("/v1/models?limit=20%25").unwrap();
    });
    assert!(bytes > 0);
    assert_eq!(allocations.count_total, 0);
}
