//! How a test on a guest runs: bounded in time, and skipped only where no guest can run.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use msb::image::{Error, GuestPaths, Store};

/// What one test may take: the longest take 40 s on two idle cores. The test runner's own limit is behind it.
const LIMIT: Duration = Duration::from_secs(220);

/// Runs `test` to its end, unless this machine has no QEMU or no images: then it says so in a line `skipped: WHY`.
///
/// # Panics
/// When `test` takes longer than 220 s.
pub fn on_guests(test: impl Future<Output = ()>) {
    on_guests_within(LIMIT, test);
}

/// As [`on_guests`], with another bound: for numbers that somebody asked for.
///
/// # Panics
/// When `test` takes longer.
pub fn on_guests_within(limit: Duration, test: impl Future<Output = ()>) {
    if let Some(reason) = missing() {
        eprintln!("skipped: {reason}");
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let outcome = runtime.block_on(async { tokio::time::timeout(limit, test).await });
    assert!(outcome.is_ok(), "not finished after {limit:?}");
}

/// What a guest needs and is truly not there. Anything else that is wrong is for the test to fail at.
fn missing() -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let qemu = |dir: PathBuf| dir.join("qemu-system-x86_64").exists();
    if !std::env::split_paths(&path).any(qemu) {
        return Some("qemu-system-x86_64 is not installed: run `cargo xtask setup`".into());
    }
    let store = Store::open_default().ok()?;
    match (store.guest(&GuestPaths::default()), store.root_disk("base")) {
        (Err(error @ Error::Missing { .. }), _) | (_, Err(error @ Error::UnknownImage { .. })) => {
            Some(error.to_string())
        }
        _ => None,
    }
}
