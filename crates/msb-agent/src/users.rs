//! Users and groups by name or number, from the guest's own `/etc/passwd` and `/etc/group`.
//!
//! Both files are whatever the image and the guest made of them: they are read within bounds, and lines that do not
//! parse are passed over as the C library does.

use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;

/// The most that is read of one file, in bytes: some 50,000 users.
const FILE_LIMIT: u64 = 4 << 20;
/// As many supplementary groups as Linux takes.
const GROUPS_LIMIT: usize = 65536;
/// `(uid_t) -1` means "leave as it is" to the kernel, so nobody can be it.
const NOBODY_CAN_BE: u32 = u32::MAX;

/// Who a program runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// All groups, `gid` among them.
    pub(crate) groups: Vec<u32>,
    /// What a login would set, for the variables that nobody else sets.
    pub(crate) environment: Vec<(&'static str, String)>,
}

/// Why nobody can be that.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the guest's /etc/passwd knows no user {0:?}")]
    UnknownUser(String),
    #[error("the guest's /etc/group knows no group {0:?}")]
    UnknownGroup(String),
    #[error("{0:?} is neither USER nor USER:GROUP")]
    Malformed(String),
    #[error("{0} is no user's or group's number: they end at 4294967294")]
    Impossible(String),
    #[error("cannot read the guest's {file}")]
    Read {
        file: &'static str,
        source: io::Error,
    },
}

/// Looks `spec` up in the guest's files. Empty means root.
pub(crate) fn resolve(spec: &str) -> Result<Login, Error> {
    if spec.is_empty() {
        // Whatever the guest has made of its files, root must be able to mend them.
        let passwd = read("/etc/passwd").unwrap_or_default();
        return resolve_in(spec, &passwd, "");
    }
    let (passwd, group) = (read("/etc/passwd")?, read("/etc/group")?);
    resolve_in(spec, &passwd, &group)
}

fn resolve_in(spec: &str, passwd: &str, group: &str) -> Result<Login, Error> {
    let (user, wanted_group) = match spec.split_once(':') {
        Some((_, "")) => return Err(Error::Malformed(spec.to_owned())),
        Some((user, group)) => (user, Some(group)),
        None => (spec, None),
    };
    let user = match user {
        "" if spec.is_empty() => "0",
        "" => return Err(Error::Malformed(spec.to_owned())),
        user => user,
    };
    let number = number(user)?;
    let account = passwd
        .lines()
        .filter_map(Account::parse)
        .find(|account| match number {
            Some(number) => account.uid == number,
            None => account.name == user,
        });
    let uid = match (&account, number) {
        (Some(account), _) => account.uid,
        (None, Some(number)) => number,
        (None, None) => return Err(Error::UnknownUser(user.to_owned())),
    };
    // A number that nobody has belongs to root's group, as in every container tool.
    let own = account.as_ref().map_or(0, |account| account.gid);
    let (gid, groups) = match wanted_group {
        Some(wanted) => {
            let gid = find_group(wanted, group)?;
            (gid, vec![gid])
        }
        None => {
            let name = account.as_ref().map(|account| account.name);
            (own, memberships(own, name, group))
        }
    };
    Ok(Login {
        uid,
        gid,
        groups,
        environment: environment(account.as_ref(), uid),
    })
}

/// One line of `/etc/passwd`.
struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
    shell: &'a str,
}

impl<'a> Account<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let _password = fields.next()?;
        let uid = possible(fields.next()?)?;
        let gid = possible(fields.next()?)?;
        let _comment = fields.next();
        Some(Self {
            name,
            uid,
            gid,
            home: fields.next().unwrap_or_default(),
            shell: fields.next().unwrap_or_default(),
        })
    }
}

fn environment(account: Option<&Account<'_>>, uid: u32) -> Vec<(&'static str, String)> {
    // No variable holds a NUL; a line with one is none that a login could use either.
    let usable = |text: &&str| !text.is_empty() && !text.contains('\0');
    let or = |text: Option<&str>, other: &str| text.filter(usable).unwrap_or(other).to_owned();
    let home = if uid == 0 { "/root" } else { "/" };
    let mut variables = vec![
        ("HOME", or(account.map(|account| account.home), home)),
        ("SHELL", or(account.map(|account| account.shell), "/bin/sh")),
    ];
    if let Some(name) = account.map(|account| account.name).filter(usable) {
        variables.push(("USER", name.to_owned()));
        variables.push(("LOGNAME", name.to_owned()));
    }
    variables
}

fn find_group(wanted: &str, group: &str) -> Result<u32, Error> {
    if let Some(number) = number(wanted)? {
        return Ok(number);
    }
    groups(group)
        .find(|(name, ..)| *name == wanted)
        .map(|(_, gid, _)| gid)
        .ok_or_else(|| Error::UnknownGroup(wanted.to_owned()))
}

/// The groups that name `user` as a member, behind their own one.
fn memberships(own: u32, user: Option<&str>, group: &str) -> Vec<u32> {
    let mut all = vec![own];
    let Some(user) = user else { return all };
    for (_, gid, members) in groups(group) {
        let member = members.split(',').any(|member| member == user);
        if member && all.len() < GROUPS_LIMIT && !all.contains(&gid) {
            all.push(gid);
        }
    }
    all
}

/// Names, numbers and members of the lines of `/etc/group`.
fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = possible(fields.nth(1)?)?;
        Some((name, gid, fields.next().unwrap_or_default()))
    })
}

/// `text` as a number if it is all digits.
fn number(text: &str) -> Result<Option<u32>, Error> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    possible(text)
        .map(Some)
        .ok_or_else(|| Error::Impossible(text.to_owned()))
}

fn possible(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number| *number != NOBODY_CAN_BE)
}

/// A missing file is an empty one; anything but a file would hold the agent up.
fn read(file: &'static str) -> Result<String, Error> {
    match read_bounded(Path::new(file)) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(source) => Err(Error::Read { file, source }),
    }
}

fn read_bounded(file: &Path) -> io::Result<String> {
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(nonblocking)
        .open(file)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut bytes = Vec::new();
    file.take(FILE_LIMIT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_LIMIT {
        return Err(io::Error::other("it is larger than 4 MiB"));
    }
    Ok(String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n\
        # daemon:x:9:9::/:\n\
        broken\n\
        half:x:12\n\
        worker:x:1000:1000:Worker,,,:/home/worker:/bin/sh\n\
        bare:x:1001:50::\n\
        huge:x:4294967295:0::/:/bin/sh\n\
        worker:x:2000:2000:second:/second:/bin/second\n\
        7:x:1007:1007::/seven:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nwheel:x:10:worker,bare\nworker:x:1000:\nno number:x:y:worker\n\
        docker:x:999:other,worker\ntwice:x:10:worker\nnear:x:11:workers,work\n";

    #[track_caller]
    fn check(spec: &str, expected: Result<(u32, u32, &[u32], &str), &str>) {
        let got = resolve_in(spec, PASSWD, GROUP);
        match (got, expected) {
            (Ok(login), Ok((uid, gid, groups, home))) => {
                assert_eq!((login.uid, login.gid), (uid, gid), "{spec:?}");
                assert_eq!(login.groups, groups, "{spec:?}");
                assert_eq!(login.environment[0], ("HOME", home.to_owned()), "{spec:?}");
            }
            (Err(error), Err(part)) => {
                assert!(error.to_string().contains(part), "{spec:?}: {error}");
            }
            (got, expected) => panic!("{spec:?}: {got:?}, not {expected:?}"),
        }
    }

    #[test]
    fn users_are_found_by_name_and_number_with_their_groups() {
        check("", Ok((0, 0, &[0], "/root")));
        check("root", Ok((0, 0, &[0], "/root")));
        check("0", Ok((0, 0, &[0], "/root")));
        check("worker", Ok((1000, 1000, &[1000, 10, 999], "/home/worker")));
        check("1000", Ok((1000, 1000, &[1000, 10, 999], "/home/worker")));
        check("bare", Ok((1001, 50, &[50, 10], "/")));
        check("worker:wheel", Ok((1000, 10, &[10], "/home/worker")));
        check("worker:77", Ok((1000, 77, &[77], "/home/worker")));
        check("4242", Ok((4242, 0, &[0], "/")));
        check("4242:4243", Ok((4242, 4243, &[4243], "/")));
    }

    #[test]
    fn whoever_is_not_there_is_refused() {
        for (spec, part) in [
            ("nobody-here", "knows no user \"nobody-here\""),
            ("broken", "knows no user"),
            ("half", "knows no user"),
            ("huge", "knows no user"),
            ("worker:nogroup", "knows no group \"nogroup\""),
            ("worker:", "neither USER nor USER:GROUP"),
            (":wheel", "neither USER nor USER:GROUP"),
            (":", "neither USER nor USER:GROUP"),
            ("4294967295", "end at 4294967294"),
            ("99999999999999999999", "end at 4294967294"),
            ("worker:4294967295", "end at 4294967294"),
            ("-1", "knows no user"),
            ("a\u{1b}[2J", "\\u{1b}"),
        ] {
            check(spec, Err(part));
        }
    }

    #[test]
    fn a_name_of_digits_is_a_number() {
        check("7", Ok((7, 0, &[0], "/")));
    }

    #[test]
    fn variables_are_those_of_a_login() {
        let variables = |spec| {
            let login = resolve_in(spec, PASSWD, GROUP).expect("somebody");
            let pairs = login.environment.iter();
            let pairs: Vec<_> = pairs
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            pairs.join(" ")
        };
        for (spec, expected) in [
            ("", "HOME=/root SHELL=/bin/bash USER=root LOGNAME=root"),
            (
                "worker",
                "HOME=/home/worker SHELL=/bin/sh USER=worker LOGNAME=worker",
            ),
            ("bare", "HOME=/ SHELL=/bin/sh USER=bare LOGNAME=bare"),
            ("4242", "HOME=/ SHELL=/bin/sh"),
        ] {
            assert_eq!(variables(spec), expected);
        }
    }

    #[test]
    fn what_is_no_file_or_too_large_is_not_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let large = dir.path().join("large");
        std::fs::File::create(&large)
            .and_then(|file| file.set_len(FILE_LIMIT + 1))
            .expect("a sparse file");
        let error = read_bounded(&large).expect_err("too large");
        assert_eq!(error.to_string(), "it is larger than 4 MiB");
        let error = read_bounded(Path::new("/dev/zero")).expect_err("no file");
        assert_eq!(error.to_string(), "it is not a file");
    }
}
