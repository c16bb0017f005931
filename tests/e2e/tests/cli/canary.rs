//! The value of a secret is nowhere but in `msb` itself and in the request that may have it.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::process::Stdio;

use msb_e2e::{API, HostProcess, OTHER, Origins, on_guests};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

use crate::{Place, process, qemu_of};

const VALUE: &str = "sk-canary-e2b7745d90aa41";
const VALUE_BASE64: &str = "c2stY2FuYXJ5LWUyYjc3NDVkOTBhYTQx";
/// What the guest tells, between its own end and its last words.
const READY: &str = "READY";

#[test]
fn the_value_of_a_secret_is_nowhere_it_should_not_be() {
    on_guests(async {
        let origins = Origins::start(0).await;
        let place = Place::new();
        let mut child = command(&place, &origins).spawn().expect("msb starts");
        let mut stdin = child.stdin.take().expect("piped");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut stderr = child.stderr.take().expect("piped");
        let log = tokio::spawn(async move {
            let mut log = Vec::new();
            stderr.read_to_end(&mut log).await.expect("read");
            log
        });
        let mut told = Vec::new();
        while !told.ends_with(format!("{READY}\n").as_bytes()) {
            let more = stdout.read_until(b'\n', &mut told).await.expect("read");
            assert!(more > 0, "the guest ended early");
        }
        let told = String::from_utf8_lossy(&told).into_owned();
        assert!(told.contains("API_KEY=$MSB_API_KEY"), "{told}");
        assert!(told.contains(&format!("hello from {API}")), "{told}");
        absent(told.as_bytes(), "what the guest can read of its processes");
        let received = origins.api.received();
        assert!(
            String::from_utf8_lossy(&received).contains(VALUE),
            "it was sent"
        );
        assert!(origins.other.received().is_empty());

        let qemu = qemu_of(&process(&child)).await;
        absent(&qemu.read("cmdline"), "QEMU's arguments");
        absent(&qemu.read("environ"), "QEMU's environment");
        scan_memory(&qemu);
        // The variable that it was read from, and the value that is put in.
        let copies = count_in_memory(&process(&child));
        assert!(copies.is_none_or(|copies| copies <= 2), "{copies:?} copies");

        stdin.write_all(b"done\n").await.expect("written");
        let status = child.wait().await.expect("an end");
        assert_eq!(status.code(), Some(0));
        let log = log.await.expect("the log");
        let text = String::from_utf8_lossy(&log);
        assert!(
            text.contains("TRACE"),
            "the log is not at trace: {text:.500}"
        );
        assert!(text.contains("Substituted"), "{text:.500}");
        let warning = text
            .lines()
            .find(|line| line.contains("WARN") && line.contains("blocked"));
        let warning = warning.expect("a warning");
        for part in [OTHER, "POST", "/v1", "API_KEY", "authorization"] {
            assert!(warning.contains(part), "{part} is not in {warning}");
        }
        assert!(!warning.contains("q=1"), "the query is in {warning}");
        absent(&log, "the log at trace");
        place.check_nothing_is_left("after the end");
    });
}

fn command(place: &Place, origins: &Origins) -> tokio::process::Command {
    let root = origins.root_file();
    let ports = [
        origins.port(API).to_string(),
        origins.port(OTHER).to_string(),
    ];
    let header = "-H \"Authorization: Bearer $API_KEY\"";
    let line = format!(
        "curl -sS '{}/v1?[1-100]' {header} > /tmp/said; sort -u /tmp/said; curl -s {}/v1?q=1 -d x {header}; \
         cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline /proc/cmdline | tr '\\0' '\\n'; dmesg; echo; \
         echo {READY}; read word; true",
        origins.url(API),
        origins.url(OTHER),
    );
    let secret = format!("API_KEY@{API}");
    let hosts = [API, OTHER].map(|name| format!("{name}:host-gateway"));
    let mut command = place.msb([
        "run",
        "--log=trace",
        "--on-secret-violation=block-and-log",
        "--secret",
        &secret,
        "--add-host",
        &hosts[0],
        "--add-host",
        &hosts[1],
        "--net=public,host",
        "--tls-intercept-port",
        &ports[0],
        "--tls-intercept-port",
        &ports[1],
        "--tls-upstream-ca-cert",
        root.to_str().expect("UTF-8"),
        "-i",
        "base",
        "--",
        "sh",
        "-c",
        &line,
    ]);
    command.env("API_KEY", VALUE).stdin(Stdio::piped());
    command
}

#[track_caller]
fn absent(bytes: &[u8], place: &str) {
    // Text search, since that is fast without optimization; what is no UTF-8 cannot be a part of the value.
    let text = String::from_utf8_lossy(bytes);
    for form in [VALUE, VALUE_BASE64] {
        assert!(!text.contains(form), "the value is in {place}");
    }
}

/// Looks for the value in all of QEMU's memory, the guest's included, where the host lets a process look.
fn scan_memory(qemu: &HostProcess) {
    let mut placeholder = false;
    let read = each_touched(qemu, |bytes| {
        absent(bytes, "QEMU's memory");
        placeholder |= String::from_utf8_lossy(bytes).contains("$MSB_API_KEY");
    });
    assert!(
        !read || placeholder,
        "what is scanned is not the guest's memory"
    );
}

/// How often the value is in a process's memory, where the host lets a process look.
fn count_in_memory(process: &HostProcess) -> Option<usize> {
    let mut count = 0;
    let read = each_touched(process, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        count += [VALUE, VALUE_BASE64]
            .map(|form| text.matches(form).count())
            .iter()
            .sum::<usize>();
    });
    read.then_some(count)
}

/// Shows `look` all memory that the process may write and has touched; `false`: the host does not let us.
fn each_touched(process: &HostProcess, mut look: impl FnMut(&[u8])) -> bool {
    let Ok(memory) = File::open(format!("/proc/{}/mem", process.pid())) else {
        eprintln!("skipped: this host does not let a process read another's memory");
        return false;
    };
    let maps = String::from_utf8(process.read("maps")).expect("ASCII");
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let range = line
            .split(' ')
            .next()
            .and_then(|range| range.split_once('-'));
        let (from, to) = range.expect("a range");
        let parse = |text| u64::from_str_radix(text, 16).expect("hexadecimal");
        each_touched_of(&memory, parse(from), parse(to), &mut look);
    }
    true
}

fn each_touched_of(memory: &File, mut at: u64, to: u64, look: &mut impl FnMut(&[u8])) {
    const PAGE: usize = 4096;
    let mut page = [0; PAGE];
    // Pages between two untouched ones: a value may lie across their borders.
    let mut touched = Vec::new();
    while at < to && memory.read_exact_at(&mut page, at).is_ok() {
        at += PAGE as u64;
        if page != [0; PAGE] {
            touched.extend_from_slice(&page);
        }
        if page == [0; PAGE] || at >= to {
            look(&touched);
            touched.clear();
        }
    }
}
