//! How the guest is doing, from `/proc` and its root file system.

use std::fs;

use msb_agent_proto::v1::Measurements;

pub(crate) fn measure() -> Measurements {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let mut measured = parse(&Texts {
        uptime: &read("/proc/uptime"),
        memory: &read("/proc/meminfo"),
        load: &read("/proc/loadavg"),
        events: &read("/proc/vmstat"),
    });
    if let Ok(disk) = rustix::fs::statvfs("/") {
        measured.disk_total_bytes = disk.f_blocks.saturating_mul(disk.f_frsize);
        measured.disk_available_bytes = disk.f_bavail.saturating_mul(disk.f_frsize);
    }
    measured
}

struct Texts<'a> {
    uptime: &'a str,
    memory: &'a str,
    load: &'a str,
    events: &'a str,
}

fn parse(texts: &Texts<'_>) -> Measurements {
    let mut load = texts.load.split_ascii_whitespace();
    let load_milli = milli(load.next().unwrap_or_default());
    // "running/all".
    let processes = load.nth(2).and_then(|field| field.split_once('/'));
    Measurements {
        uptime_ms: milli(
            texts
                .uptime
                .split_ascii_whitespace()
                .next()
                .unwrap_or_default(),
        ),
        memory_total_bytes: field(texts.memory, "MemTotal:").saturating_mul(1024),
        memory_available_bytes: field(texts.memory, "MemAvailable:").saturating_mul(1024),
        load_milli,
        processes: processes
            .and_then(|(_, all)| all.parse().ok())
            .unwrap_or_default(),
        killed_for_memory: field(texts.events, "oom_kill"),
        ..Measurements::default()
    }
}

/// The number behind a name at the beginning of a line.
fn field(text: &str, name: &str) -> u64 {
    let mut lines = text.lines().map(str::split_ascii_whitespace);
    let number = lines.find_map(|mut words| (words.next() == Some(name)).then(|| words.next()));
    number
        .flatten()
        .and_then(|number| number.parse().ok())
        .unwrap_or_default()
}

/// "12.34" in thousandths.
fn milli(text: &str) -> u64 {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let part = format!("{part:0<3}");
    let parse = |digits: &str| digits.parse::<u64>().unwrap_or_default();
    parse(whole)
        .saturating_mul(1000)
        .saturating_add(parse(part.get(..3).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measurements_are_those_of_the_kernel() {
        let measured = parse(&Texts {
            uptime: "12.34 11.00\n",
            memory: "MemTotal:  512 kB\nMemFree: 3 kB\nMemAvailable:  400 kB\n",
            load: "0.05 0.10 1.00 2/57 900\n",
            events: "oom_kill_x 9\noom_kill 2\n",
        });
        let expected = Measurements {
            uptime_ms: 12_340,
            memory_total_bytes: 512 * 1024,
            memory_available_bytes: 400 * 1024,
            load_milli: 50,
            processes: 57,
            killed_for_memory: 2,
            ..Measurements::default()
        };
        assert_eq!(measured, expected);
        let nothing = Texts {
            uptime: "",
            memory: "x",
            load: "1",
            events: "oom_kill",
        };
        assert_eq!(parse(&nothing).load_milli, 1000);
    }
}
