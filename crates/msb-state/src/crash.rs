//! Named moments at which a test can have this process killed, as `kill -9` does it. In release builds there are none.

/// The variable that names the moment: one of [`POINTS`], and with `#N` behind it the Nth time it is passed.
pub const VARIABLE: &str = "MSB_CRASH_AT";

/// Moments of this crate's own, in the order of a sandbox's life.
pub const OF_STATE: &[&str] = &[
    "create-begun",
    "create-locked",
    "create-recorded",
    "create-named",
    "record-opened",
    "record-written",
    "record-synced",
    "record-replaced",
    "log-half-written",
    "log-rotated",
    "repair-begun",
    "repair-cleaned",
    "remove-renamed",
    "remove-half-done",
];

/// Moments of the process that makes a sandbox and starts it.
pub const OF_STARTER: &[&str] = &[
    "start-created",
    "start-spawned",
    "start-handed-over",
    "start-told",
];

/// Moments of the process that holds it.
pub const OF_SUPERVISOR: &[&str] = &[
    "supervisor-begun",
    "supervisor-owning",
    "supervisor-values-read",
    "supervisor-starting",
    "supervisor-booted",
    "supervisor-listening",
    "supervisor-command-started",
    "supervisor-running",
    "supervisor-told",
    "supervisor-ending",
    "supervisor-machine-ended",
    "supervisor-recorded",
    "supervisor-socket-removed",
];

/// All of them.
pub const POINTS: [&[&str]; 3] = [OF_STATE, OF_STARTER, OF_SUPERVISOR];

/// Marks a moment. In debug builds the process kills itself here if [`VARIABLE`] says so; else nothing happens.
///
/// # Panics
/// In debug builds, for a moment that is not in [`POINTS`].
#[inline]
pub fn point(name: &str) {
    #[cfg(debug_assertions)]
    armed::pass(name);
    #[cfg(not(debug_assertions))]
    let _ = name;
}

/// Whether the process is to be killed at `name`: for moments that have to be prepared.
#[inline]
#[must_use]
pub fn is_armed(name: &str) -> bool {
    #[cfg(debug_assertions)]
    return armed::target().is_some_and(|(target, _)| target == name);
    #[cfg(not(debug_assertions))]
    {
        let _ = name;
        false
    }
}

#[cfg(debug_assertions)]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rustix::process::{Signal, getpid, kill_process};

    static TARGET: OnceLock<Option<(String, usize)>> = OnceLock::new();
    static PASSED: AtomicUsize = AtomicUsize::new(0);

    pub(super) fn target() -> Option<&'static (String, usize)> {
        let read = || {
            let text = std::env::var(super::VARIABLE).ok()?;
            let (name, count) = text.split_once('#').unwrap_or((&text, "1"));
            Some((name.to_owned(), count.parse().unwrap_or(1)))
        };
        TARGET.get_or_init(read).as_ref()
    }

    pub(super) fn pass(name: &str) {
        let known = super::POINTS.iter().any(|points| points.contains(&name));
        assert!(known, "{name} is not in POINTS");
        let Some((target, count)) = target() else {
            return;
        };
        if target == name && PASSED.fetch_add(1, Ordering::Relaxed) + 1 == *count {
            let _ = kill_process(getpid(), Signal::KILL);
            // Nothing may be done between the signal and the end.
            loop {
                std::thread::park();
            }
        }
    }
}
