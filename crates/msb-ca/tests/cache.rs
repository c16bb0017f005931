//! The leaf cache: one mint for a name, bounded, fresh, and silent about its keys.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::num::NonZeroUsize;
use std::sync::{Arc, Barrier};
use std::time::{Duration, SystemTime};

use msb_ca::{LeafCache, LeafMinter, SandboxCa};
use msb_name::Host;

const HOUR: Duration = Duration::from_secs(60 * 60);

fn noon() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn cache(capacity: usize) -> LeafCache {
    let ca = SandboxCa::generate("worker", noon()).unwrap();
    LeafCache::with_capacity(
        LeafMinter::new(ca).unwrap(),
        NonZeroUsize::new(capacity).unwrap(),
    )
}

fn host(text: &str) -> Host {
    text.parse().unwrap()
}

#[test]
fn one_name_is_minted_once() {
    let cache = cache(10);
    let first = cache.leaf(&host("a.test"), noon()).unwrap();
    let again = cache.leaf(&host("A.TEST."), noon() + HOUR).unwrap();
    assert!(Arc::ptr_eq(&first, &again));
}

#[test]
fn concurrent_asks_for_one_name_get_one_leaf() {
    let cache = cache(10);
    let barrier = Barrier::new(8);
    let leaves: Vec<_> = std::thread::scope(|scope| {
        let asks: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    cache.leaf(&host("a.test"), noon()).unwrap()
                })
            })
            .collect();
        asks.into_iter().map(|ask| ask.join().unwrap()).collect()
    });
    assert!(leaves.iter().all(|leaf| Arc::ptr_eq(leaf, &leaves[0])));
}

#[test]
fn a_leaf_is_replaced_before_it_expires() {
    let cache = cache(10);
    let first = cache.leaf(&host("a.test"), noon()).unwrap();
    let kept = cache.leaf(&host("a.test"), noon() + HOUR * 21).unwrap();
    assert!(Arc::ptr_eq(&first, &kept));
    let now = noon() + HOUR * 23;
    let renewed = cache.leaf(&host("a.test"), now).unwrap();
    assert!(!Arc::ptr_eq(&first, &renewed));
    assert_eq!(renewed.not_after(), now + HOUR * 24);
}

#[test]
fn ever_new_names_do_not_grow_the_cache() {
    let cache = cache(3);
    for index in 0..50 {
        cache
            .leaf(&host(&format!("h{index}.test")), noon())
            .unwrap();
        assert!(cache.len() <= 3);
    }
}

#[test]
fn the_least_recently_used_name_goes_first() {
    let cache = cache(2);
    let a = cache.leaf(&host("a.test"), noon()).unwrap();
    let b = cache.leaf(&host("b.test"), noon()).unwrap();
    cache.leaf(&host("a.test"), noon()).unwrap();
    cache.leaf(&host("c.test"), noon()).unwrap();
    assert!(Arc::ptr_eq(
        &a,
        &cache.leaf(&host("a.test"), noon()).unwrap()
    ));
    assert!(!Arc::ptr_eq(
        &b,
        &cache.leaf(&host("b.test"), noon()).unwrap()
    ));
}

#[test]
fn debug_text_holds_no_key() {
    let cache = cache(2);
    let leaf = cache.leaf(&host("a.test"), noon()).unwrap();
    let key = leaf.key();
    // Any eight bytes of the key, as a list of numbers, would betray it.
    let key = format!("{:?}", &key.secret_pkcs8_der()[40..48]);
    let canary = key.trim_matches(['[', ']']);
    let shown = format!("{cache:?} {leaf:?} {:?}", cache.minter().ca());
    assert!(!shown.contains(canary), "{shown}");
    assert!(shown.contains("[hidden]"));
}
