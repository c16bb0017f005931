//! A network, a hosts file and process ids of its own.

use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail};

/// Set for the process inside.
const INSIDE: &str = "MSB_CONFORMANCE_INSIDE";

/// Where this process is.
pub(crate) enum Place {
    /// In the namespaces.
    Inside,
    /// Outside, and the process inside has ended like this.
    Ended(ExitCode),
}

/// Starts this program again in namespaces of its own, unless it is there.
///
/// # Errors
/// When the system does not allow that.
pub(crate) fn inside() -> Result<Place> {
    if std::env::var_os(INSIDE).is_some() {
        finish("ip", &["link", "set", "lo", "up"])?;
        return Ok(Place::Inside);
    }
    // All processes inside end with the first of them, and that one with this.
    let kinds = [
        "--net",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ];
    let mut command = Command::new("unshare");
    command.args(kinds);
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    let status = command
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .stdin(Stdio::null())
        .status()
        .context("cannot start `unshare`, of util-linux")?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(Place::Ended(code.map_or(ExitCode::FAILURE, ExitCode::from)))
}

/// Makes `file` the hosts file of this process and of those it starts.
///
/// # Errors
/// When it cannot be mounted.
pub(crate) fn use_hosts(file: &std::path::Path) -> Result<()> {
    finish("mount", &["--bind", &file.to_string_lossy(), "/etc/hosts"])
}

fn finish(program: &str, args: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(args)
        .output()
        .with_context(|| format!("cannot start `{program}`"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{program} {}` failed: {said}", args.join(" "));
    }
    Ok(())
}
