//! What searching and rewriting cost, each beside a baseline of the same run; answers are asserted inside.
//!
//! After criterion's own figures a table of ratios is printed. There the two sides of a ratio take turns, so that a noisy
//! neighbour slows both: the median of the rounds is given with its quartiles.

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use msb_name::{Authority, HostName};
use msb_policy::{Destination, InterceptedConnection, UpstreamTrust};
use msb_secrets::{BodyKind, Pieces, SecretBuilder, SecretSet, StreamRewriter};

const CHUNK: usize = 1 << 20;
const GIB: f64 = (1u64 << 30) as f64;

/// Words as they stand in prompts and JSON, with the punctuation that could begin a placeholder now and then.
fn prose(len: usize) -> Vec<u8> {
    const WORDS: [&str; 16] = [
        "the ",
        "model ",
        "returns ",
        "JSON ",
        "\\n",
        "costs $5 ",
        "100% ",
        "of ",
        "\"role\": ",
        "content ",
        "and ",
        "key ",
        "Bearer ",
        "JavaScript ",
        "sk ",
        "a/b+c ",
    ];
    let mut text = Vec::with_capacity(len + 16);
    let mut state = 0x9e37_79b9_u32;
    while text.len() < len {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        text.extend_from_slice(WORDS[usize::try_from(state >> 28).unwrap_or(0)].as_bytes());
    }
    text.truncate(len);
    text
}

/// Placeholders without a prefix in common, of the length of usual API keys.
fn custom(i: u32) -> String {
    let mut state = i.wrapping_mul(2_654_435_761).wrapping_add(12345);
    let mut text = String::new();
    while text.len() < 40 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        text.push(char::from(
            b"abcdefghijklmnopqrstuvwxyz012345"[usize::try_from(state >> 27).unwrap_or(0)],
        ));
    }
    text
}

#[derive(Clone, Copy)]
enum Placeholders {
    Default,
    Custom,
}

fn secret(i: u32, placeholders: Placeholders) -> SecretBuilder {
    let builder = SecretBuilder::new()
        .env(format!("KEY_{i}"))
        .value(format!("value-of-the-secret-{i}"))
        .allow_host("a.test")
        .inject_body(true);
    match placeholders {
        Placeholders::Default => builder,
        Placeholders::Custom => builder.placeholder(custom(i)),
    }
}

fn set(count: u32, placeholders: Placeholders) -> SecretSet {
    let secrets = (0..count).map(|i| secret(i, placeholders).build().expect("a good secret"));
    SecretSet::new(secrets.collect()).expect("a good set")
}

fn connection() -> (InterceptedConnection, Authority) {
    let name: HostName = "a.test".parse().expect("a name");
    let connection = InterceptedConnection::new(
        name.clone(),
        Destination::DialledByName(name.clone()),
        UpstreamTrust::Verified(name.into()),
    );
    (
        connection,
        Authority::parse("a.test").expect("an authority"),
    )
}

fn body(set: &SecretSet) -> StreamRewriter {
    let (connection, authority) = connection();
    set.request(&connection, &authority)
        .rewrite_body(BodyKind::Json)
}

/// Feeds chunks and answers the length of the output.
fn stream(mut rewriter: StreamRewriter, chunks: &[Bytes]) -> usize {
    let mut len = 0;
    for chunk in chunks {
        let pieces = rewriter.push(chunk.clone()).expect("no violation");
        len += pieces.map(|piece| black_box(piece).len()).sum::<usize>();
    }
    len + rewriter
        .finish()
        .expect("no violation")
        .map(|piece| piece.len())
        .sum::<usize>()
}

fn chunks(text: Vec<u8>) -> Vec<Bytes> {
    let whole = Bytes::from(text);
    (0..whole.len())
        .step_by(CHUNK)
        .map(|at| whole.slice(at..whole.len().min(at + CHUNK)))
        .collect()
}

/// One placeholder in every 4 KiB.
fn with_placeholders(len: usize, placeholder: &str) -> Vec<u8> {
    let mut text = prose(len);
    for block in text.chunks_mut(4096).filter(|block| block.len() == 4096) {
        let at = 1000;
        block[at - 1] = b' ';
        block[at..at + placeholder.len()].copy_from_slice(placeholder.as_bytes());
        block[at + placeholder.len()] = b' ';
    }
    text
}

/// One side of a comparison: what it is called, how many bytes it goes through, and the work.
struct Case<'a> {
    name: String,
    len: usize,
    run: Box<dyn Fn() + 'a>,
}

fn case<'a>(name: impl Into<String>, len: usize, run: impl Fn() + 'a) -> Case<'a> {
    Case {
        name: name.into(),
        len,
        run: Box::new(run),
    }
}

#[expect(clippy::disallowed_methods, reason = "a bench measures time")]
fn time(run: &dyn Fn()) -> Duration {
    let begin = std::time::Instant::now();
    run();
    begin.elapsed()
}

fn quartiles(mut of: Vec<f64>) -> [f64; 3] {
    of.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| of[of.len() * quarter / 4])
}

/// Prints how fast `ours` is against `baseline`, the two taking turns.
fn compare(baseline: &Case<'_>, ours: &Case<'_>, goal: f64) {
    const ROUNDS: usize = 61;
    let (mut ratios, mut speeds, mut base_speeds) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let speed = |case: &Case<'_>| case.len as f64 / time(&*case.run).as_secs_f64() / GIB;
        let (theirs, own) = (speed(baseline), speed(ours));
        ratios.push(own / theirs);
        speeds.push(own);
        base_speeds.push(theirs);
    }
    let [low, median, high] = quartiles(ratios);
    let ([_, own, _], [_, theirs, _]) = (quartiles(speeds), quartiles(base_speeds));
    eprintln!(
        "{:<44} {own:>6.2} GiB/s against {:<22} {theirs:>6.2} GiB/s: {median:.3} ({low:.3}..{high:.3}), goal {goal}",
        ours.name, baseline.name
    );
}

/// Prints how fast `ours` is by itself.
fn absolute(ours: &Case<'_>, goal: f64) {
    let rounds = (0..31).map(|_| ours.len as f64 / time(&*ours.run).as_secs_f64() / GIB);
    let [low, median, high] = quartiles(rounds.collect());
    eprintln!(
        "{:<44} {median:>6.2} GiB/s ({low:.2}..{high:.2}), goal {goal}",
        ours.name
    );
}

/// A JSON body; every placeholder in it is replaced.
fn inject_case<'a>(
    name: &str,
    set: &'a SecretSet,
    text: &'a [Bytes],
    placeholder: &'a str,
    value: &'a str,
) -> Case<'a> {
    let len: usize = text.iter().map(Bytes::len).sum();
    let whole = text.concat();
    let count = memchr::memmem::find_iter(&whole, placeholder).count();
    let expected = len + count * value.len() - count * placeholder.len();
    case(name, len, move || {
        assert_eq!(stream(body(set), text), expected)
    })
}

fn scrub_case<'a>(name: &str, set: &'a SecretSet, text: &'a [Bytes], expected: usize) -> Case<'a> {
    let len = text.iter().map(Bytes::len).sum();
    case(name, len, move || {
        let mut body = set.response().body(BodyKind::Text);
        let count = |pieces: Pieces| pieces.map(|piece| black_box(piece).len()).sum::<usize>();
        let streamed: usize = text
            .iter()
            .map(|chunk| count(body.push(chunk.clone())))
            .sum();
        assert_eq!(streamed + count(body.finish()), expected);
    })
}

fn scan_case<'a>(name: &str, set: &'a SecretSet, text: &'a [Bytes]) -> Case<'a> {
    let len = text.iter().map(Bytes::len).sum();
    case(name, len, move || assert_eq!(stream(body(set), text), len))
}

fn memmem_case(text: &[Bytes]) -> Case<'_> {
    let len = text.iter().map(Bytes::len).sum();
    case("memmem, one needle", len, move || {
        let finder = memchr::memmem::Finder::new("$MSB_KEY_0");
        assert!(
            text.iter()
                .all(|chunk| finder.find(black_box(chunk)).is_none())
        );
    })
}

/// Headers of an ordinary request; the one with the placeholder is replaced.
fn headers(set: &SecretSet, connection: &InterceptedConnection, authority: &Authority) {
    const OTHERS: [(&str, &[u8]); 19] = [
        ("host", b"a.test"),
        ("user-agent", b"python-requests/2.32.3 (Linux x86_64)"),
        ("accept", b"application/json, text/plain;q=0.9, */*;q=0.5"),
        ("accept-encoding", b"gzip, deflate, br, zstd"),
        ("accept-language", b"en-GB,en;q=0.5"),
        ("content-type", b"application/json; charset=utf-8"),
        ("content-length", b"1234"),
        ("connection", b"keep-alive"),
        ("cache-control", b"no-cache"),
        ("pragma", b"no-cache"),
        ("origin", b"https://a.test"),
        ("referer", b"https://a.test/v1/models?limit=20"),
        (
            "cookie",
            b"session=0f8fad5b-d9cb-469f-a165-70867728950e; theme=dark",
        ),
        ("x-request-id", b"7c9e6679-7425-40de-944b-e07fc1f90ae7"),
        ("x-stainless-lang", b"python"),
        ("x-stainless-runtime-version", b"3.12.7"),
        ("sec-fetch-mode", b"cors"),
        (
            "traceparent",
            b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ),
        ("openai-organization", b"org-0123456789abcdef"),
    ];
    let mut request = set.request(connection, authority);
    for (name, value) in OTHERS {
        assert!(
            request
                .header_value(name, value)
                .expect("no violation")
                .is_none()
        );
    }
    let rewritten = request.header_value("authorization", b"Bearer $MSB_KEY_3");
    let rewritten = rewritten
        .expect("no violation")
        .expect("replaced")
        .into_bytes();
    assert_eq!(&black_box(rewritten)[..], b"Bearer value-of-the-secret-3");
}

fn criterion_run(criterion: &mut Criterion, cases: &[Case<'_>]) {
    let mut group = criterion.benchmark_group("rewrite");
    group
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    for case in cases {
        group.throughput(Throughput::Bytes(
            u64::try_from(case.len).unwrap_or(u64::MAX),
        ));
        group.bench_function(&case.name, |bencher| bencher.iter(|| (case.run)()));
    }
    group.finish();
}

fn main() {
    let plain = chunks(prose(8 * CHUNK));
    let baseline = memmem_case(&plain);
    let sets: Vec<_> = [16, 64]
        .into_iter()
        .flat_map(|count| {
            [
                (Placeholders::Default, "default"),
                (Placeholders::Custom, "custom"),
            ]
            .map(|(kind, name)| (count, name, set(count, kind)))
        })
        .collect();
    let scans: Vec<_> = sets
        .iter()
        .map(|(count, name, set)| scan_case(&format!("no match/{count} {name}"), set, &plain))
        .collect();
    let customs: Vec<_> = (0..4).map(custom).collect();
    let hit_texts = [("default", "$MSB_KEY_3".to_owned()), ("custom", custom(3))]
        .map(|(name, placeholder)| (name, chunks(with_placeholders(8 * CHUNK, &placeholder))));
    let hits: Vec<_> = sets
        .iter()
        .map(|(count, name, set)| {
            let text = &hit_texts
                .iter()
                .find(|(kind, _)| kind == name)
                .expect("a text for each")
                .1;
            let placeholder = if *name == "custom" {
                &customs[3]
            } else {
                "$MSB_KEY_3"
            };
            inject_case(
                &format!("one match in 4 KiB/{count} {name}"),
                set,
                text,
                placeholder,
                "value-of-the-secret-3",
            )
        })
        .collect();
    let sixteen = &sets[0].2;
    let json = chunks(with_placeholders(15 * CHUNK, "$MSB_KEY_3"));
    let json_twice = chunks(with_placeholders(30 * CHUNK, "$MSB_KEY_3"));
    let four = set(4, Placeholders::Default);
    let inject = |name, text| inject_case(name, &four, text, "$MSB_KEY_3", "value-of-the-secret-3");
    let injects = [
        inject("JSON body, 15 MiB", &json),
        inject("JSON body, 30 MiB", &json_twice),
    ];
    let echo = chunks(with_placeholders(8 * CHUNK, "value-of-the-secret-2"));
    let echoed = 8 * CHUNK - 8 * 256 * ("value-of-the-secret-2".len() - "$MSB_KEY_2".len());
    let scrubs = [
        scrub_case("scrubbing text without a value", &four, &plain, 8 * CHUNK),
        scrub_case("scrubbing text, one value in 4 KiB", &four, &echo, echoed),
    ];
    let (connection, authority) = connection();
    let heads = case("20 headers, one placeholder", 1, || {
        headers(sixteen, &connection, &authority)
    });

    let mut criterion = Criterion::default().configure_from_args();
    criterion_run(&mut criterion, std::slice::from_ref(&baseline));
    criterion_run(&mut criterion, &scans);
    criterion_run(&mut criterion, &hits);
    criterion_run(&mut criterion, &injects);
    criterion_run(&mut criterion, &scrubs);
    criterion_run(&mut criterion, std::slice::from_ref(&heads));
    criterion.final_summary();
    if std::env::args().any(|arg| arg == "--test") {
        return;
    }
    for (scan, (count, ..)) in scans.iter().zip(&sets) {
        compare(&baseline, scan, if *count == 16 { 0.3 } else { 0.2 });
    }
    for (scan, hit) in scans.iter().zip(&hits) {
        compare(scan, hit, 0.5);
    }
    let rounds = (0..2001).map(|_| time(&*heads.run).as_secs_f64() * 1e6);
    let [low, median, high] = quartiles(rounds.collect());
    eprintln!(
        "{:<44} {median:>6.2} µs ({low:.2}..{high:.2}), goal under 2",
        heads.name
    );
    for case in injects.iter().chain(&scrubs) {
        absolute(case, 1.0);
    }
    let rounds = (0..31)
        .map(|_| time(&*injects[1].run).as_secs_f64() / time(&*injects[0].run).as_secs_f64());
    let [low, median, high] = quartiles(rounds.collect());
    eprintln!(
        "{:<44} {median:>6.2} times ({low:.2}..{high:.2}), goal at most 2.2",
        "30 MiB against 15 MiB"
    );
}
