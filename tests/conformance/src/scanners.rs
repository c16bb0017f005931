//! Scanners of TLS servers, at the side that guests see.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::case::{Case, Mode, Protocol, Tool};
use crate::lab::{API, Lab};
use crate::process;

/// They try every version and cipher suite in turn.
const LIMIT: Duration = Duration::from_secs(400);

/// What testssl.sh is asked for. Headers are those of the server behind the proxy, and are left out.
const PARTS: &[&str] = &[
    "--protocols",
    "--std",
    "--fs",
    "--server-defaults",
    "--vulnerable",
];

/// What has to be in its report, which leaves out what it did not get to.
const NEEDED: &[&str] = &[
    "TLS1_2",
    "TLS1_3",
    "cert_trust",
    "cert_chain_of_trust",
    "heartbleed",
    "ROBOT",
    "RC4",
];

/// What testssl.sh finds that is meant so, or is not about the proxy.
const MEANT: &[&str] = &[
    // A leaf lives for 24 hours (SPEC T2), so nobody needs to revoke one.
    "cert_revocation",
    "cert_expirationStatus",
    "cert_notAfter",
    // There is no name server in this network.
    "DNS_CAArecord",
    // About the openssl program it uses.
    "engine_problem",
    // It names no server there, and without a name the transparent mode leads nowhere. sslyze names one and finds it right.
    "secure_renego",
    // Now and then it ends its first connection before the ticket of TLS 1.3 has come.
    "sessionresumption_ticket",
];

pub(crate) fn cases(lab: &Lab) -> Vec<Case> {
    let testssl = lab.tool("testssl.sh", &["testssl", "--version"]);
    let sslyze = lab.python_tool("sslyze", "sslyze");
    let claim = "protocols, ciphers, forward secrecy, certificate, vulnerabilities: nothing above INFO but that leaves are short-lived";
    let order = "the server has an order of cipher suites: nothing above INFO";
    let policy =
        "Mozilla's policy for intermediate compatibility, and none of the attacks known to it";
    vec![
        case(&testssl, claim, |lab, id| {
            run_testssl(lab, id, PARTS, NEEDED)
        }),
        case(&testssl, order, |lab, id| {
            run_testssl(lab, id, &["--server-preference"], &["cipher_order"])
        }),
        case(&sslyze, policy, run_sslyze),
    ]
}

fn case(tool: &Tool, claim: &str, work: fn(&Lab, &str) -> Result<()>) -> Case {
    Case {
        tool: tool.clone(),
        mode: Mode::Transparent,
        protocol: Protocol::Tls,
        origin: "own",
        claim: claim.to_owned(),
        work: Box::new(work),
    }
}

fn run_testssl(lab: &Lab, id: &str, parts: &[&str], needed: &[&str]) -> Result<()> {
    let report = lab.path(&format!("{id}testssl.json"));
    let mut command = lab.command("testssl");
    command.args([
        "--quiet",
        "--color",
        "0",
        "--warnings",
        "batch",
        "--ip",
        "127.0.0.2",
    ]);
    command.args(["--openssl-timeout", "10", "--add-ca"]);
    command.arg(lab.trust());
    command.args(parts).arg("--jsonfile").arg(&report).arg(API);
    let ended = process::run(&mut command, b"", LIMIT)?;
    let text = std::fs::read_to_string(&report).with_context(|| ended.said())?;
    let findings: Vec<Value> = serde_json::from_str(&text).with_context(|| ended.said())?;
    for needed in needed {
        let done = findings.iter().any(|finding| finding["id"] == *needed);
        ensure!(done, "{needed} was not looked at: {}", ended.said());
    }
    let is_meant = |finding: &&Value| MEANT.iter().any(|id| finding["id"] == *id);
    let harmless = |finding: &&Value| matches!(finding["severity"].as_str(), Some("OK" | "INFO"));
    let bad: Vec<_> = findings
        .iter()
        .filter(|finding| !harmless(finding) && !is_meant(finding))
        .collect();
    let lines: Vec<_> = bad
        .iter()
        .map(|finding| {
            format!(
                "{} {}: {}",
                finding["severity"], finding["id"], finding["finding"]
            )
        })
        .collect();
    ensure!(bad.is_empty(), "{}", lines.join("\n"));
    Ok(())
}

fn run_sslyze(lab: &Lab, _: &str) -> Result<()> {
    let mut command = lab.command(lab.python());
    command
        .args(["-m", "sslyze", "--certinfo_ca_file"])
        .arg(lab.trust());
    command.args([
        "--mozilla_config",
        "intermediate",
        &format!("{API}:443{{127.0.0.2}}"),
    ]);
    let ended = process::run(&mut command, b"", LIMIT)?;
    ensure!(
        ended.success && ended.stdout.contains("OK - Compliant"),
        "{}",
        ended.said()
    );
    // Nobody but the guest trusts its authority.
    let public = |line: &&str| line.contains("CA Store (") && !line.contains("Supplied CA file");
    let bad = |line: &&str| {
        ["VULNERABLE -", "FAILED -", "ERROR"]
            .iter()
            .any(|word| line.contains(word))
    };
    let trusted = |line: &str| {
        line.contains("Supplied CA file") && line.contains("OK - Certificate is trusted")
    };
    let lines: Vec<_> = ended
        .stdout
        .lines()
        .filter(|line| !public(line))
        .filter(|line| bad(line) && !line.contains("Not vulnerable"))
        .collect();
    ensure!(lines.is_empty(), "{}", lines.join("\n"));
    ensure!(ended.stdout.lines().any(trusted), "{}", ended.stdout);
    Ok(())
}
