//! When each step of the boot was done, told on the console if the kernel command line says `msb.timings`.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

const ASKED_BY: &str = "msb.timings";

/// Steps done so far, with the time since the machine's start.
static MARKS: Mutex<Vec<(Cow<'static, str>, Duration)>> = Mutex::new(Vec::new());

/// Notes that `step` is done.
pub(crate) fn mark(step: impl Into<Cow<'static, str>>) {
    let now = Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap_or_default();
    let mut marks = MARKS.lock().unwrap_or_else(PoisonError::into_inner);
    marks.push((step.into(), now));
}

/// Tells what was noted since the last report, if it is asked for.
pub(crate) fn report() {
    let marks = std::mem::take(&mut *MARKS.lock().unwrap_or_else(PoisonError::into_inner));
    let cmdline = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    if cmdline
        .split_ascii_whitespace()
        .any(|word| word == ASKED_BY)
    {
        // Standard error is the console; if it is gone nobody is left to tell.
        let _ = std::io::stderr().write_all(table(&marks).as_bytes());
    }
}

fn table(marks: &[(Cow<'static, str>, Duration)]) -> String {
    let mut text = String::new();
    let mut last = None;
    for (step, at) in marks {
        let took = at.saturating_sub(last.unwrap_or(*at));
        last = Some(*at);
        let _ = writeln!(
            text,
            "msb-agent: {:>6.1} ms (+{:.1}) {step}",
            at.as_secs_f64() * 1000.0,
            took.as_secs_f64() * 1000.0
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_is_told_with_what_it_took() {
        let ms = Duration::from_millis;
        assert_eq!(
            table(&[("start".into(), ms(1000)), ("modules".into(), ms(1250))]),
            "msb-agent: 1000.0 ms (+0.0) start\nmsb-agent: 1250.0 ms (+250.0) modules\n"
        );
    }
}
