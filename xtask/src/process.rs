//! Runs other programs, and keeps what they say for when they fail.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, bail};

/// Runs `command` with its output shown.
pub(crate) fn show(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| cannot_start(command))?;
    if !status.success() {
        bail!("`{}` failed: {status}", line(command));
    }
    Ok(())
}

/// Runs `command` and returns its standard output; both outputs are part of the error.
pub(crate) fn capture(command: &mut Command) -> Result<Vec<u8>> {
    capture_from(command, Stdio::null())
}

/// As [`capture`], with `stdin` as its standard input.
pub(crate) fn capture_from(command: &mut Command, stdin: impl Into<Stdio>) -> Result<Vec<u8>> {
    let output = output(command, stdin)?;
    if !output.status.success() {
        bail!(
            "`{}` failed: {}\n{}{}",
            line(command),
            output.status,
            last_lines(&output.stdout),
            last_lines(&output.stderr),
        );
    }
    Ok(output.stdout)
}

/// As [`capture`], as text without white space at the ends.
pub(crate) fn capture_text(command: &mut Command) -> Result<String> {
    let text = String::from_utf8(capture(command)?)
        .with_context(|| format!("`{}` wrote no text", line(command)))?;
    Ok(text.trim().to_owned())
}

/// Whether `command` starts and succeeds.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    output(command, Stdio::null()).is_ok_and(|output| output.status.success())
}

/// The first executable file called `program` in `PATH`.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;

    let executable = |path: &Path| {
        path.metadata()
            .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|dir| dir.join(program))
        .find(|path| executable(path))
}

/// `command` as a person would type it, up to 200 characters.
pub(crate) fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let text = words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
        .replace('\n', " ");
    match text.char_indices().nth(200) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

fn output(command: &mut Command, stdin: impl Into<Stdio>) -> Result<Output> {
    command
        .stdin(stdin)
        .output()
        .with_context(|| cannot_start(command))
}

/// The end of a failed command's output: where it says why.
fn last_lines(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..]
        .iter()
        .flat_map(|line| [line, "\n"])
        .collect()
}

fn cannot_start(command: &Command) -> String {
    format!("cannot start `{}`", command.get_program().display())
}

/// The workspace's root directory.
pub(crate) fn workspace() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_owned()
}

/// Where cargo puts what it builds.
pub(crate) fn target_dir() -> PathBuf {
    let dir = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    workspace().join(dir.unwrap_or_else(|| "target".into()))
}

/// The cargo that started this task, in the workspace's root.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace());
    cargo
}
