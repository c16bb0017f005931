//! Resource limits of programs in the guest.

use std::fmt;
use std::str::FromStr;

use msb_agent_proto::v1;

/// Names as the shell's `ulimit` and container tools have them, and the numbers of Linux on most architectures, x86-64
/// among them.
const RESOURCES: [(&str, u32); 16] = [
    ("as", 9),
    ("core", 4),
    ("cpu", 0),
    ("data", 2),
    ("fsize", 1),
    ("locks", 10),
    ("memlock", 8),
    ("msgqueue", 12),
    ("nice", 13),
    ("nofile", 7),
    ("nproc", 6),
    ("rss", 5),
    ("rtprio", 14),
    ("rttime", 15),
    ("sigpending", 11),
    ("stack", 3),
];

/// A resource limit, as setrlimit(2) has it. Parsed from `NAME=SOFT[:HARD]`, as in `nofile=1024:2048`; a limit is a
/// number in the resource's own unit, or `unlimited`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ulimit {
    name: &'static str,
    resource: u32,
    /// `None`: no limit. Never more than `hard`.
    soft: Option<u64>,
    hard: Option<u64>,
}

/// The text is no resource limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UlimitError {
    /// There is no `=`, or a part is neither a number nor `unlimited`.
    #[error("{0:?} is no resource limit: write NAME=SOFT[:HARD], as in nofile=1024:2048")]
    Malformed(String),
    /// Linux has no such resource.
    #[error("there is no resource {0:?}; known are {known}", known = known())]
    Unknown(String),
    /// What a program starts with would be more than it may ever have.
    #[error("the soft limit of {0} is more than the hard one")]
    Order(&'static str),
}

fn known() -> String {
    RESOURCES.map(|(name, _)| name).join(", ")
}

impl FromStr for Ulimit {
    type Err = UlimitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || UlimitError::Malformed(text.to_owned());
        let (name, limits) = text.split_once('=').ok_or_else(malformed)?;
        let known = RESOURCES.iter().find(|(known, _)| *known == name);
        let (name, resource) = *known.ok_or_else(|| UlimitError::Unknown(name.to_owned()))?;
        let bound = |text: &str| match text {
            "unlimited" | "-1" => Ok(None),
            // The largest number is how the kernel writes "no limit".
            number if number.bytes().all(|byte| byte.is_ascii_digit()) => number
                .parse()
                .map(|number| Some(number).filter(|number| *number != u64::MAX))
                .map_err(|_| malformed()),
            _ => Err(malformed()),
        };
        let (soft, hard) = match limits.split_once(':') {
            Some((soft, hard)) => (bound(soft)?, bound(hard)?),
            None => (bound(limits)?, bound(limits)?),
        };
        if soft.unwrap_or(u64::MAX) > hard.unwrap_or(u64::MAX) {
            return Err(UlimitError::Order(name));
        }
        Ok(Self {
            name,
            resource,
            soft,
            hard,
        })
    }
}

impl fmt::Display for Ulimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bound: Option<u64>| {
            bound.map_or_else(|| "unlimited".to_owned(), |bound| bound.to_string())
        };
        write!(f, "{}={}:{}", self.name, text(self.soft), text(self.hard))
    }
}

impl From<Ulimit> for v1::Ulimit {
    fn from(ulimit: Ulimit) -> Self {
        Self {
            resource: ulimit.resource,
            soft: ulimit.soft.unwrap_or(u64::MAX),
            hard: ulimit.hard.unwrap_or(u64::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_parse_and_print_as_they_are_written() {
        for (text, expected) in [
            ("nofile=1024:2048", Ok("nofile=1024:2048")),
            ("nofile=1024", Ok("nofile=1024:1024")),
            ("core=0:unlimited", Ok("core=0:unlimited")),
            ("core=-1", Ok("core=unlimited:unlimited")),
            ("cpu=18446744073709551615", Ok("cpu=unlimited:unlimited")),
            ("cpu=18446744073709551616", Err("no resource limit")),
            ("nofile", Err("no resource limit")),
            ("nofile=", Err("no resource limit")),
            ("nofile=+1", Err("no resource limit")),
            ("nofile=1:2:3", Err("no resource limit")),
            ("files=1", Err("known are as, core, cpu")),
            ("nofile=2:1", Err("soft limit of nofile")),
            ("nofile=unlimited:1", Err("soft limit of nofile")),
        ] {
            match (text.parse::<Ulimit>(), expected) {
                (Ok(ulimit), Ok(expected)) => assert_eq!(ulimit.to_string(), expected),
                (Err(error), Err(part)) => {
                    assert!(error.to_string().contains(part), "{text}: {error}");
                }
                (got, expected) => panic!("{text}: {got:?}, not {expected:?}"),
            }
        }
    }
}
