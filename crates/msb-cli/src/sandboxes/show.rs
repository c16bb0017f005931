//! `msb ps` and `msb inspect`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use clap::Args;
use msb::{Facts, SandboxInfo, SandboxState, Sandboxes};
use serde::Serialize;

use super::{Names, print};

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Those that do not run, too.
    #[arg(short, long)]
    all: bool,

    /// As a JSON array.
    #[arg(long)]
    json: bool,
}

/// `msb ps`.
pub(crate) async fn list(args: List) -> Result<u8> {
    let mut sandboxes = Sandboxes::open_default()?.list().await?;
    // What is damaged is shown, so that it is not forgotten.
    sandboxes.retain(|info| args.all || info.is_held || info.state == SandboxState::Damaged);
    if args.json {
        return print(&serde_json::to_string_pretty(&sandboxes)?).await;
    }
    print(&table(&sandboxes, SystemTime::now())).await
}

fn table(sandboxes: &[SandboxInfo], now: SystemTime) -> String {
    let head = ["NAME", "STATE", "IMAGE", "PORTS", "COMMAND"].map(str::to_owned);
    let rows = sandboxes.iter().map(|info| {
        [
            info.name.clone(),
            state(info, now),
            shown(&info.image, 40),
            shown(&info.ports.join(", "), 60),
            shown(&info.command.join(" "), 40),
        ]
    });
    let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..5).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &[String; 5]| {
        let cells = row.iter().zip(&widths);
        let line: String = cells
            .map(|(cell, width)| format!("{cell:width$}  "))
            .collect();
        line.trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// `running 5 min`, `ended (3) 2 h ago`.
fn state(info: &SandboxInfo, now: SystemTime) -> String {
    let now_ms = now
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis();
    let since = now_ms.saturating_sub(info.since_ms.into());
    let since = span(Duration::from_millis(
        u64::try_from(since).unwrap_or(u64::MAX),
    ));
    let state = info.state.as_str();
    match (info.state, info.code) {
        (SandboxState::Running | SandboxState::Paused | SandboxState::Starting, _) => {
            format!("{state} {since}")
        }
        (SandboxState::Damaged, _) => state.to_owned(),
        (_, Some(code)) => format!("{state} ({code}) {since} ago"),
        (_, None) => format!("{state} {since} ago"),
    }
}

fn span(time: Duration) -> String {
    match time.as_secs() {
        seconds @ ..120 => format!("{seconds} s"),
        seconds @ ..7200 => format!("{} min", seconds / 60),
        seconds @ ..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

/// One line of bounded length that cannot drive a terminal.
fn shown(text: &str, most: usize) -> String {
    let mut shown: String = text.chars().flat_map(char::escape_debug).collect();
    if let Some((at, _)) = shown.char_indices().nth(most) {
        shown.truncate(at);
        shown.push('…');
    }
    shown
}

#[derive(Serialize)]
struct Inspected {
    #[serde(flatten)]
    info: SandboxInfo,
    /// What its supervisor says; absent if it does not run.
    running: Option<Facts>,
}

/// `msb inspect`.
pub(crate) async fn inspect(names: Names) -> Result<u8> {
    let sandboxes = Sandboxes::open_default()?;
    let mut inspected = Vec::new();
    for name in &names.names {
        let info = sandboxes.info(name).await?;
        // It may end at any moment.
        let running = match sandboxes.connect(name).await {
            Ok(sandbox) => sandbox.inspect().await.ok(),
            Err(_) => None,
        };
        inspected.push(Inspected { info, running });
    }
    print(&serde_json::to_string_pretty(&inspected)?).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_one_short_line() {
        for (text, expected) in [
            ("base", "base"),
            ("a\nb\x1b[31m", "a\\nb\\u{1b}[31m"),
            (
                "0123456789012345678901234567890",
                "0123456789012345678901234567…",
            ),
        ] {
            assert_eq!(shown(text, 28), expected);
        }
    }

    #[test]
    fn spans_are_told_in_a_unit_that_fits() {
        for (seconds, expected) in [
            (0, "0 s"),
            (119, "119 s"),
            (120, "2 min"),
            (7199, "119 min"),
            (7200, "2 h"),
            (172_800, "2 d"),
        ] {
            assert_eq!(span(Duration::from_secs(seconds)), expected);
        }
    }
}
