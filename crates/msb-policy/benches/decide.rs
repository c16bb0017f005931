//! What one decision costs with 1,000 rules about addresses and 10,000 about domains, beside asking each rule in turn;
//! answers are asserted inside.
//!
//! After criterion's own figures a table is printed. There the two sides take turns, so that a noisy neighbour slows both:
//! the median of the rounds is given with its quartiles. The goal is that one decision takes under 2 µs.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use criterion::Criterion;
use msb_name::HostName;
use msb_policy::{Early, Flow, NetworkPolicy, Protocol, Rule};

/// Numbers without a pattern, the same in each run.
struct Numbers(u32);

impl Numbers {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.0 >> 8
    }
}

fn rules() -> Vec<Rule> {
    let mut numbers = Numbers(7);
    let parse = |text: String| text.parse::<Rule>().expect("a rule");
    let mut rules: Vec<_> = (0_u16..1_000)
        .map(|index| {
            let address = Ipv4Addr::from_bits(numbers.next() << 8);
            let length = u8::try_from(9 + index % 16).expect("a prefix length");
            let net = ipnet::Ipv4Net::new(address, length)
                .expect("a block")
                .trunc();
            let action = if index % 2 == 0 { "deny" } else { "allow" };
            let port = 1 + numbers.next() % 10_000;
            parse(format!("{action}@{net}:tcp:{port}"))
        })
        .collect();
    rules.extend((0..10_000).map(|index| {
        let wild = if index % 2 == 0 { "*." } else { "" };
        let action = if index % 3 == 0 { "allow" } else { "deny" };
        parse(format!(
            "{action}@{wild}service-{index}.example-{}.test",
            index % 97
        ))
    }));
    rules.push(parse("allow@public:tcp:443".into()));
    rules
}

/// What a flow is for.
struct Asked {
    what: &'static str,
    names: Vec<HostName>,
    claimed: bool,
    port: u16,
    allowed: bool,
}

fn cases() -> [Asked; 4] {
    let case = |what, name: &str, claimed, port, allowed| Asked {
        what,
        names: vec![name.parse().expect("a name")],
        claimed,
        port,
        allowed,
    };
    [
        case("no rule but the last", "www.other.test", true, 443, true),
        case(
            "a host's rule",
            "service-9999.example-8.test",
            true,
            443,
            true,
        ),
        case(
            "a domain's rule",
            "a.b.service-5000.example-53.test",
            true,
            80,
            false,
        ),
        case("no rule at all", "www.other.test", false, 80, false),
    ]
}

fn flow(asked: &Asked) -> Flow<'_> {
    let destination = SocketAddr::new(IpAddr::from([93, 184, 215, 14]), asked.port);
    let flow = Flow::egress(Protocol::Tcp, destination).resolved(&asked.names);
    flow.claimed(asked.names.first().filter(|_| asked.claimed))
}

fn naive(rules: &[Rule], flow: &Flow<'_>) -> Option<usize> {
    rules.iter().position(|rule| rule.matches(flow))
}

#[expect(clippy::disallowed_methods, reason = "a bench measures time")]
fn time(mut run: impl FnMut(), times: u32) -> Duration {
    let start = Instant::now();
    for _ in 0..times {
        run();
    }
    start.elapsed() / times
}

fn quartiles(mut rounds: Vec<f64>) -> [f64; 3] {
    rounds.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| rounds[rounds.len() * quarter / 4])
}

fn main() {
    let rules = rules();
    let build = || {
        let policy = NetworkPolicy::builder().rules(rules.iter().cloned());
        policy.build().expect("a policy")
    };
    let policy = build();
    let built = time(|| drop(build()), 3);
    let cases = cases();
    for case in &cases {
        let flow = flow(case);
        let decision = policy.decide(&flow);
        assert_eq!(
            decision.is_permit(),
            case.allowed,
            "{}: {}",
            case.what,
            decision.grounds()
        );
        let index = decision.grounds().rule().map(|(index, _)| index);
        assert_eq!(index, naive(&rules, &flow), "{}", case.what);
    }
    let mut criterion = Criterion::default().configure_from_args();
    for case in &cases {
        let flow = flow(case);
        criterion.bench_function(&format!("decide/compiled/{}", case.what), |b| {
            b.iter(|| policy.decide(black_box(&flow)));
        });
        criterion.bench_function(&format!("decide/each in turn/{}", case.what), |b| {
            b.iter(|| naive(black_box(&rules), black_box(&flow)));
        });
    }
    criterion.final_summary();
    if std::env::args().any(|arg| arg == "--test") {
        return;
    }
    eprintln!("{} rules compiled in {built:?}", rules.len());
    for case in &cases {
        let flow = flow(case);
        let (mut ours, mut theirs, mut early) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..201 {
            let compiled = time(|| drop(black_box(policy.decide(black_box(&flow)))), 1000);
            let each = time(
                || {
                    black_box(naive(&rules, black_box(&flow)));
                },
                10,
            );
            let first = time(
                || {
                    let early = policy.decide_early(black_box(&flow));
                    assert!(matches!(early, Early::NeedsName | Early::Decided(_)));
                },
                1000,
            );
            ours.push(compiled.as_secs_f64() * 1e6);
            early.push(first.as_secs_f64() * 1e6);
            theirs.push(each.as_secs_f64() / compiled.as_secs_f64());
        }
        let ([low, median, high], [_, early, _]) = (quartiles(ours), quartiles(early));
        let [_, ratio, _] = quartiles(theirs);
        eprintln!(
            "{:<24} {median:>6.3} µs ({low:.3}..{high:.3}), goal under 2; before the name {early:.3} µs; {ratio:.0} times as fast as each in turn",
            case.what
        );
    }
}
