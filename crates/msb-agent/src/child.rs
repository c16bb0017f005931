//! From a request to a process: the program's file, who it runs as, its limits and its terminal.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use msb_agent_proto::v1::{ExecStart, Ulimit};
use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, WaitStatus};
use tokio::sync::oneshot;
use tonic::Status;

use crate::configure::{Defaults, Environment};
use crate::reaper::Reaper;
use crate::terminal::{Terminal, window};
use crate::users::{self, Login};

/// What programs expect of a terminal that nobody described.
const DEFAULT_TERM: &str = "xterm";

/// A started program.
pub(crate) struct Started {
    pub(crate) child: Child,
    pub(crate) ended: oneshot::Receiver<WaitStatus>,
    /// Our end of its terminal, if it has one.
    pub(crate) terminal: Option<Terminal>,
}

/// Starts what `start` asks for.
///
/// # Errors
/// A status in the terms of `agent.proto`.
pub(crate) fn spawn(
    reaper: &Reaper,
    defaults: &Defaults,
    start: &ExecStart,
) -> Result<Started, Status> {
    let cwd = if start.cwd.is_empty() {
        "/"
    } else {
        &start.cwd
    };
    if !Path::new(cwd).is_dir() {
        return Err(Status::invalid_argument(format!(
            "the working directory {cwd:?} is not a directory in the guest"
        )));
    }
    let login = users::resolve(&start.user).map_err(|error| {
        Status::invalid_argument(format!("cannot run as {:?}: {}", start.user, chain(&error)))
    })?;
    // The last one for a resource counts.
    let own = limits(&start.ulimits)?;
    let limits = defaults.ulimits.iter().copied().chain(own).collect();
    let (terminal, theirs) = open_terminal(start, &login)?.unzip();

    let variables = variables(&defaults.environment, start, &login);
    let path = variables.iter().rev().find(|(name, _)| *name == "PATH");
    let file = find(&start.program, path.map_or("", |(_, path)| path), cwd)?;
    let mut command = Command::new(&file);
    command
        .arg0(&start.program)
        .args(&start.args)
        .env_clear()
        .envs(variables);
    if cwd != "/" {
        // Where the agent itself is. Unsaid, the C library may start the program without a fork.
        command.current_dir(cwd);
    }
    connect(&mut command, theirs.as_ref())?;
    prepare(&mut command, start, limits, login, theirs.is_some());
    let (child, ended) = reaper
        .spawn(&mut command)
        .map_err(|error| refusal(start, &file, &error))?;
    Ok(Started {
        child,
        ended,
        terminal,
    })
}

fn open_terminal(start: &ExecStart, login: &Login) -> Result<Option<(Terminal, OwnedFd)>, Status> {
    let Some(size) = &start.tty else {
        return Ok(None);
    };
    Terminal::open(window(size)?, login.uid)
        .map(Some)
        .map_err(|error| Status::internal(format!("the guest has no terminal to give: {error}")))
}

/// The sandbox's variables, the program's own, and for those that neither says what a login would.
fn variables<'a>(
    environment: &'a Environment,
    start: &'a ExecStart,
    login: &'a Login,
) -> Vec<(&'a str, &'a str)> {
    let unset = |name: &str| !environment.contains_key(name) && !start.env.contains_key(name);
    let of_login = login
        .environment
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .chain(start.tty.map(|_| ("TERM", DEFAULT_TERM)))
        .filter(|(name, _)| unset(name));
    let set = environment.iter().chain(&start.env);
    let set = set.map(|(name, value)| (name.as_str(), value.as_str()));
    of_login.chain(set).collect()
}

fn connect(command: &mut Command, terminal: Option<&OwnedFd>) -> Result<(), Status> {
    let stream = || match terminal {
        Some(terminal) => terminal.try_clone().map(Stdio::from),
        None => Ok(Stdio::piped()),
    };
    let streams = || io::Result::Ok((stream()?, stream()?, stream()?));
    let (stdin, stdout, stderr) = streams()
        .map_err(|error| Status::internal(format!("the guest is out of descriptors: {error}")))?;
    command.stdin(stdin).stdout(stdout).stderr(stderr);
    Ok(())
}

/// Arranges what has to be done between the start and the program: limits, terminal, user, in this order, for each
/// needs what the next takes away.
fn prepare(
    command: &mut Command,
    start: &ExecStart,
    limits: Vec<(Resource, Rlimit)>,
    login: Login,
    on_terminal: bool,
) {
    if !on_terminal {
        command.process_group(0);
    }
    let as_root = start.user.is_empty();
    if as_root && limits.is_empty() && !on_terminal {
        return;
    }
    let groups: Vec<Gid> = login.groups.iter().copied().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(login.uid), Gid::from_raw(login.gid));
    let set_up = move || {
        for (resource, limit) in &limits {
            rustix::process::setrlimit(*resource, *limit)?;
        }
        if on_terminal {
            rustix::process::setsid()?;
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
        }
        if !as_root {
            rustix::thread::set_thread_groups(&groups)?;
            rustix::thread::set_thread_res_gid(gid, gid, gid)?;
            rustix::thread::set_thread_res_uid(uid, uid, uid)?;
        }
        Ok(())
    };
    #[allow(
        unsafe_code,
        reason = "the standard library sets no supplementary groups, limits or terminals"
    )]
    // SAFETY: between fork and exec only async-signal-safe calls are allowed. The closure makes system calls directly
    // (rustix's linux_raw backend), reads memory that is its own, and allocates nothing: an `Errno` becomes an
    // `io::Error` without a box.
    unsafe {
        command.pre_exec(set_up);
    }
}

/// The file that `program` means. As a shell does, what cannot be executed is passed over, and told if it was all.
fn find(program: &str, path: &str, cwd: &str) -> Result<PathBuf, Status> {
    if program.contains('/') {
        return Ok(PathBuf::from(program));
    }
    if program.is_empty() {
        return Err(Status::invalid_argument("the program has no name"));
    }
    let mut found = None;
    for dir in path.split(':') {
        let file = Path::new(cwd).join(dir).join(program);
        match fs::metadata(&file) {
            Ok(meta) if !meta.is_file() => {}
            Ok(meta) if meta.permissions().mode() & 0o111 != 0 => return Ok(file),
            Ok(_) => found = Some(file),
            Err(_) => {}
        }
    }
    Err(match found {
        Some(file) => {
            Status::permission_denied(format!("{}: it is not executable", file.display()))
        }
        None => Status::not_found(format!("{program}: it is in no directory of PATH")),
    })
}

fn refusal(start: &ExecStart, file: &Path, error: &io::Error) -> Status {
    let text = format!("{}: {error}", start.program);
    match error.kind() {
        // The file is there: what is not is named in its first line or its header.
        io::ErrorKind::NotFound if exists(file, &start.cwd) => Status::not_found(format!(
            "{}: its interpreter is missing, which its first line or its header names",
            start.program
        )),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Status::not_found(text),
        io::ErrorKind::PermissionDenied
        | io::ErrorKind::ExecutableFileBusy
        | io::ErrorKind::IsADirectory => Status::permission_denied(text),
        // ENOEXEC: neither a binary for this machine nor a script with an interpreter line.
        _ if error.raw_os_error() == Some(Errno::NOEXEC.raw_os_error()) => {
            Status::permission_denied(text)
        }
        io::ErrorKind::InvalidInput | io::ErrorKind::ArgumentListTooLong => {
            Status::invalid_argument(text)
        }
        _ => Status::internal(text),
    }
}

fn exists(file: &Path, cwd: &str) -> bool {
    Path::new("/").join(cwd).join(file).exists()
}

/// # Errors
/// A status in the terms of `agent.proto`.
pub(crate) fn limits(ulimits: &[Ulimit]) -> Result<Vec<(Resource, Rlimit)>, Status> {
    ulimits.iter().map(limit).collect()
}

fn limit(ulimit: &Ulimit) -> Result<(Resource, Rlimit), Status> {
    const RESOURCES: [Resource; 16] = [
        Resource::Cpu,
        Resource::Fsize,
        Resource::Data,
        Resource::Stack,
        Resource::Core,
        Resource::Rss,
        Resource::Nproc,
        Resource::Nofile,
        Resource::Memlock,
        Resource::As,
        Resource::Locks,
        Resource::Sigpending,
        Resource::Msgqueue,
        Resource::Nice,
        Resource::Rtprio,
        Resource::Rttime,
    ];
    let resource = usize::try_from(ulimit.resource).ok();
    let resource = resource.and_then(|number| RESOURCES.get(number));
    let (Some(resource), true) = (resource, ulimit.soft <= ulimit.hard) else {
        return Err(Status::invalid_argument(format!(
            "{} up to {} is no limit that Linux has for resource {}",
            ulimit.soft, ulimit.hard, ulimit.resource
        )));
    };
    let bound = |value: u64| Some(value).filter(|value| *value != u64::MAX);
    let limit = Rlimit {
        current: bound(ulimit.soft),
        maximum: bound(ulimit.hard),
    };
    Ok((*resource, limit))
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_as_a_shell_finds_them() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path();
        for (name, mode) in [("a/tool", 0o644), ("b/tool", 0o755), ("a/text", 0o600)] {
            let file = root.join(name);
            fs::create_dir_all(file.parent().expect("a parent")).expect("a directory");
            fs::write(&file, "").expect("written");
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("mode");
        }
        fs::create_dir(root.join("a/dir")).expect("a directory");
        let cwd = root.to_str().expect("UTF-8");
        let path = format!("{cwd}/none:{cwd}/a:b");
        for (program, expected) in [
            ("tool", Ok(root.join("b/tool"))),
            ("./tool", Ok("./tool".into())),
            ("text", Err(tonic::Code::PermissionDenied)),
            ("dir", Err(tonic::Code::NotFound)),
            ("nothing", Err(tonic::Code::NotFound)),
            ("", Err(tonic::Code::InvalidArgument)),
        ] {
            let found = find(program, &path, cwd).map_err(|status| status.code());
            assert_eq!(found, expected, "{program:?}");
        }
    }

    #[test]
    fn limits_are_linux_limits() {
        for (resource, soft, hard, expected) in [
            (7, 10, 20, Some((Some(10), Some(20)))),
            (15, 0, u64::MAX, Some((Some(0), None))),
            (8, u64::MAX, u64::MAX, Some((None, None))),
            (7, 21, 20, None),
            (16, 1, 1, None),
            (u32::MAX, 1, 1, None),
        ] {
            let ulimit = Ulimit {
                resource,
                soft,
                hard,
            };
            let got = limit(&ulimit).ok();
            let got = got.map(|(_, limit)| (limit.current, limit.maximum));
            assert_eq!(got, expected, "{ulimit:?}");
        }
    }

    #[test]
    fn a_login_sets_what_nobody_else_sets() {
        let login = Login {
            environment: vec![("HOME", "/home/w".into()), ("USER", "w".into())],
            ..Login::default()
        };
        let environment: Environment = [("HOME".to_owned(), "/data".to_owned())].into();
        let mut start = ExecStart {
            env: [("USER".to_owned(), "x".to_owned())].into(),
            ..ExecStart::default()
        };
        let set = |start: &ExecStart| {
            variables(&environment, start, &login)
                .into_iter()
                .map(|(n, v)| format!("{n}={v}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(set(&start), ["HOME=/data", "USER=x"]);
        start.tty = Some(msb_agent_proto::v1::TerminalSize { rows: 1, cols: 1 });
        assert_eq!(set(&start), ["TERM=xterm", "HOME=/data", "USER=x"]);
    }
}
