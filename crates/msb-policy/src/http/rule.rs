//! One HTTP rule, and its text.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use msb_name::{Host, HostPattern};

use super::glob::{GlobFault, PathGlob};
use super::path::CanonicalPath;
use crate::{Action, Error, Mark};

/// The methods of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Methods {
    /// Every method.
    All,
    /// These, each in upper case.
    Some(Vec<String>),
}

impl Methods {
    /// Whether `method` is one of them. Methods are told apart by case (RFC 9110, section 9.1).
    #[must_use]
    pub fn contains(&self, method: &str) -> bool {
        match self {
            Self::All => true,
            Self::Some(methods) => methods.iter().any(|own| own == method),
        }
    }
}

/// The hosts of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HttpHosts {
    /// Every host, addresses included.
    All,
    /// One host, or all below a domain.
    Pattern(HostPattern),
}

impl HttpHosts {
    /// Whether `host` is one of them.
    #[must_use]
    pub fn contains(&self, host: &Host) -> bool {
        match (self, host) {
            (Self::All, _) => true,
            (Self::Pattern(pattern), Host::Name(name)) => pattern.matches(name),
            (Self::Pattern(_), Host::Ip(_)) => false,
        }
    }
}

/// An action for requests: `allow|deny METHODS HOST[/PATH]`.
///
/// METHODS is `*` or a list such as `GET,HEAD`; HOST is a name, `*.domain` or `*`; in PATH, `*` stands for characters of
/// one segment and `**` for segments. Without a PATH, or with `/**`, it is every path.
///
/// ```
/// use msb_policy::HttpRule;
///
/// let rule: HttpRule = "allow GET,HEAD api.github.com/repos/*/issues/**".parse()?;
/// assert_eq!(rule.to_string(), "allow GET,HEAD api.github.com/repos/*/issues/**");
/// # Ok::<(), msb_policy::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HttpRule {
    action: Action,
    methods: Methods,
    hosts: HttpHosts,
    path: PathGlob,
}

impl HttpRule {
    /// What it does.
    #[must_use]
    pub fn action(&self) -> Action {
        self.action
    }

    /// Its methods.
    #[must_use]
    pub fn methods(&self) -> &Methods {
        &self.methods
    }

    /// Its hosts.
    #[must_use]
    pub fn hosts(&self) -> &HttpHosts {
        &self.hosts
    }

    /// Whether it is about this request.
    #[must_use]
    pub fn matches(&self, method: &str, host: &Host, path: &CanonicalPath) -> bool {
        self.methods.contains(method) && self.hosts.contains(host) && self.path.matches(path)
    }
}

impl fmt::Display for HttpRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.action)?;
        match &self.methods {
            Methods::All => f.write_str("* ")?,
            Methods::Some(methods) => write!(f, "{} ", methods.join(","))?,
        }
        match &self.hosts {
            HttpHosts::All => f.write_str("*")?,
            HttpHosts::Pattern(pattern) => pattern.fmt(f)?,
        }
        self.path.fmt(f)
    }
}

impl FromStr for HttpRule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse(text).map_err(|(at, expected)| Error::HttpRule(Mark::new(text, at, expected)))
    }
}

type Wrong = (Range<usize>, String);

const FORM: &str =
    "expected allow|deny METHODS HOST/PATH, as in allow GET,HEAD api.github.com/repos/**";

fn wrong<T>(part: &str, at: usize, expected: impl Into<String>) -> Result<T, Wrong> {
    Err((at..at + part.len(), expected.into()))
}

fn parse(text: &str) -> Result<HttpRule, Wrong> {
    let words: Vec<_> = words(text).collect();
    let [
        (action_text, action_at),
        (methods_text, methods_at),
        (rest, at),
    ] = words[..]
    else {
        return match words.get(3) {
            Some((extra, at)) => wrong(extra, *at, "expected nothing behind the path"),
            None => wrong(text, 0, FORM),
        };
    };
    let action = match action_text {
        "allow" => Action::Allow,
        "deny" => Action::Deny,
        _ => return wrong(action_text, action_at, "expected allow or deny"),
    };
    let methods = methods(methods_text, methods_at)?;
    let slash = rest.find('/').unwrap_or(rest.len());
    let (host, path) = rest.split_at(slash);
    let hosts = match host {
        "*" => HttpHosts::All,
        _ if host.contains(':') => {
            return wrong(host, at, "expected a host without scheme and port");
        }
        _ => match HostPattern::parse(host) {
            Ok(pattern) => HttpHosts::Pattern(pattern),
            Err(error) => return wrong(host, at, error.expected()),
        },
    };
    let path = match path {
        "" => PathGlob::all(),
        _ => glob(path, at + slash)?,
    };
    Ok(HttpRule {
        action,
        methods,
        hosts,
        path,
    })
}

fn methods(text: &str, at: usize) -> Result<Methods, Wrong> {
    if text == "*" {
        return Ok(Methods::All);
    }
    let mut methods: Vec<String> = Vec::new();
    let mut at = at;
    for method in text.split(',') {
        let good = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '-' || c == '_';
        if method.is_empty() || !method.chars().all(good) {
            return wrong(
                method,
                at,
                "expected `*`, or methods in upper case such as GET,HEAD",
            );
        }
        if !methods.iter().any(|own| own == method) {
            methods.push(method.to_owned());
        }
        at += method.len() + 1;
    }
    Ok(Methods::Some(methods))
}

fn glob(text: &str, at: usize) -> Result<PathGlob, Wrong> {
    PathGlob::parse(text).or_else(|fault| match fault {
        GlobFault::PartOfSegment => wrong(text, at, "expected `**` only as a whole segment"),
        GlobFault::Never(_) if text.contains('?') => {
            wrong(text, at, "expected no query: rules are about paths")
        }
        GlobFault::Never(why) => wrong(
            text,
            at,
            format!("expected a path that can be read in one way only: {why}"),
        ),
    })
}

/// The words and where they begin.
fn words(text: &str) -> impl Iterator<Item = (&str, usize)> {
    let mut at = 0;
    text.split(' ').filter_map(move |word| {
        let start = at;
        at += word.len() + 1;
        (!word.is_empty()).then_some((word, start))
    })
}
