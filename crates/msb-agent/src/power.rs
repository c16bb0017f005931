//! The end of the machine.

use std::time::Duration;

use rustix::process::{Pid, Signal};
use rustix::system::{RebootCommand, reboot};

/// How long processes may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(2);

/// Asks every process to end, and makes those end that do not.
pub(crate) async fn end_processes() {
    broadcast(Signal::TERM);
    let deadline = tokio::time::Instant::now() + GRACE;
    while others_exist() && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    broadcast(Signal::KILL);
}

/// Flushes and powers off. Does not return when it runs as process 1 of a machine.
pub(crate) fn off() {
    rustix::fs::sync();
    // With `-no-reboot` on the host either ends the machine; restart is what a kernel without ACPI can do.
    let _ = reboot(RebootCommand::PowerOff);
    let _ = reboot(RebootCommand::Restart);
}

/// Signals every process but process 1 itself: the group numbered 1 is `kill(-1)` (kill(2)).
fn broadcast(signal: Signal) {
    // Fails only when there is nobody.
    let _ = rustix::process::kill_process_group(Pid::INIT, signal);
}

fn others_exist() -> bool {
    std::fs::read_to_string("/proc/1/task/1/children").is_ok_and(|list| !list.trim().is_empty())
}
