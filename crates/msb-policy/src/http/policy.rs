//! HTTP rules in order, and what they decide about a request.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use msb_name::{Host, HostName, HostPattern, HostPatternSet};

use super::path::{AmbiguousPath, CanonicalPath};
use super::rule::{HttpHosts, HttpRule};
use crate::{Action, BypassList};

/// Rules about requests, in order.
///
/// A host that some rule names is governed: of its rules the first that matches a request decides, and a request that
/// none matches is denied, as is one whose path or method could be read in two ways. Requests to other hosts are allowed.
///
/// ```
/// use msb_policy::HttpPolicy;
///
/// let rules = ["deny * api.example.com/v1/admin/**", "allow GET api.example.com/v1/**"];
/// let policy: HttpPolicy = rules.iter().map(|rule| rule.parse()).collect::<Result<_, _>>()?;
/// let decide = |method, path| policy.decide(method, &"api.example.com".parse().unwrap(), path);
/// assert!(decide("GET", "/v1/items?page=2").is_allowed());
/// assert!(!decide("GET", "/v1/admin/users").is_allowed());
/// assert!(!decide("POST", "/v1/items").is_allowed());
/// assert!(!decide("GET", "/v1/x/..%2fadmin/users").is_allowed());
/// assert!(policy.decide("POST", &"other.example".parse().unwrap(), "/a//b").is_allowed());
/// # Ok::<(), msb_policy::Error>(())
/// ```
///
/// # Limits
/// Headers that ask a server to take a request for another (`X-HTTP-Method-Override` and the like) and bodies are not
/// looked at. Paths are compared by case: a server that does not needs rules that allow rather than rules that deny.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpPolicy {
    rules: Vec<Arc<HttpRule>>,
    hosts: HostPatternSet,
    is_about_all: bool,
}

/// What a decision about a request rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpCause {
    /// No rule names the host.
    NotGoverned,
    /// A rule.
    Rule {
        /// Its place, from 0.
        index: usize,
        /// The rule.
        rule: Arc<HttpRule>,
    },
    /// Rules name the host, and none matches.
    NoRule,
    /// The path could be read in two ways.
    Path(AmbiguousPath),
    /// The method is not in upper case: a server may take it for one that is.
    Method,
}

/// The answer to a request. `Display` is one sentence, without the request's own text.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct HttpDecision {
    action: Action,
    cause: HttpCause,
}

impl HttpDecision {
    /// Whether the request may go on; else answer 403.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.action == Action::Allow
    }

    /// What it rests on.
    #[must_use]
    pub fn cause(&self) -> &HttpCause {
        &self.cause
    }
}

impl HttpPolicy {
    /// The rules in order.
    pub fn rules(&self) -> impl ExactSizeIterator<Item = &HttpRule> {
        self.rules.iter().map(AsRef::as_ref)
    }

    /// Whether there is no rule, so that all requests are allowed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether some rule names `host`: its requests have to be read (SPEC T13), and a connection to it that cannot be
    /// read has to be refused.
    #[must_use]
    pub fn governs(&self, host: &Host) -> bool {
        self.is_about_all
            || match host {
                Host::Name(name) => self.hosts.matches(name),
                Host::Ip(_) => false,
            }
    }

    /// A pattern of `bypass` that covers a governed host, if there is one: the requests to that host could not be read.
    #[must_use]
    pub fn bypassed(&self, bypass: &BypassList) -> Option<HostPattern> {
        let governed = |pattern: &HostPattern| {
            self.is_about_all || self.hosts.iter().any(|own| own.overlaps(pattern))
        };
        bypass.iter().find(governed)
    }

    /// The first host that may be at the other end of a connection and is governed: `claimed` by TLS, and of the names
    /// that were resolved to its `address`. A claim counts if the address was resolved for it; else anything may be there.
    #[must_use]
    pub fn governed(
        &self,
        claimed: Option<&HostName>,
        resolved: &[HostName],
        address: IpAddr,
    ) -> Option<Host> {
        let hosts = claimed.into_iter().chain(match claimed {
            Some(claimed) if resolved.contains(claimed) => &[],
            _ => resolved,
        });
        let mut hosts = hosts.cloned().map(Host::Name).chain([Host::Ip(address)]);
        hosts.find(|host| self.governs(host))
    }

    /// Decides about one request: its method, the host of its authority, and its path with or without a query.
    pub fn decide(&self, method: &str, host: &Host, path_and_query: &str) -> HttpDecision {
        let deny = |cause| HttpDecision {
            action: Action::Deny,
            cause,
        };
        if !self.governs(host) {
            return HttpDecision {
                action: Action::Allow,
                cause: HttpCause::NotGoverned,
            };
        }
        if method.is_empty() || method.bytes().any(|byte| byte.is_ascii_lowercase()) {
            return deny(HttpCause::Method);
        }
        let path = match CanonicalPath::parse(path_and_query) {
            Ok(path) => path,
            Err(why) => return deny(HttpCause::Path(why)),
        };
        let mut rules = self.rules.iter().enumerate();
        match rules.find(|(_, rule)| rule.matches(method, host, &path)) {
            Some((index, rule)) => HttpDecision {
                action: rule.action(),
                cause: HttpCause::Rule {
                    index,
                    rule: Arc::clone(rule),
                },
            },
            None => deny(HttpCause::NoRule),
        }
    }

    /// A warning for each rule that denies something at hosts where no rule allows anything.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        let allowed = |hosts: &HttpHosts| {
            self.rules().any(|other| {
                other.action() == Action::Allow
                    && match (other.hosts(), hosts) {
                        (HttpHosts::All, _) | (_, HttpHosts::All) => true,
                        (HttpHosts::Pattern(other), HttpHosts::Pattern(own)) => other.overlaps(own),
                    }
            })
        };
        let lonely = self
            .rules()
            .enumerate()
            .filter(move |(_, rule)| rule.action() == Action::Deny && !allowed(rule.hosts()));
        lonely.map(|(index, rule)| {
            format!(
                "HTTP rule {} ({rule}) leaves nothing allowed there: what no rule of a host allows is denied; add a rule such as allow * HOST/**",
                index + 1
            )
        })
    }
}

impl FromIterator<HttpRule> for HttpPolicy {
    fn from_iter<I: IntoIterator<Item = HttpRule>>(rules: I) -> Self {
        let rules: Vec<_> = rules.into_iter().map(Arc::new).collect();
        let hosts = rules.iter().filter_map(|rule| match rule.hosts() {
            HttpHosts::Pattern(pattern) => Some(pattern.clone()),
            HttpHosts::All => None,
        });
        Self {
            hosts: hosts.collect(),
            is_about_all: rules.iter().any(|rule| *rule.hosts() == HttpHosts::All),
            rules,
        }
    }
}

/// `rule 2 (deny * a.test/**)`, `default`, and so on: what an event names.
impl fmt::Display for HttpCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule { index, rule } => write!(f, "HTTP rule {} ({rule})", index + 1),
            Self::NotGoverned | Self::NoRule => f.write_str("default"),
            Self::Path(_) => f.write_str("ambiguous path"),
            Self::Method => f.write_str("ambiguous method"),
        }
    }
}

impl fmt::Display for HttpDecision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { action, cause } = self;
        match (cause, action) {
            (HttpCause::NotGoverned, _) => {
                f.write_str("the request is allowed: no HTTP rule names its host")
            }
            (HttpCause::Rule { .. }, Action::Allow) => {
                write!(f, "the request is allowed by {cause}")
            }
            (HttpCause::Rule { .. }, Action::Deny) => write!(f, "the request is denied by {cause}"),
            (HttpCause::NoRule, _) => f.write_str(
                "the request is denied: HTTP rules name its host, and none of them allows it",
            ),
            (HttpCause::Path(why), _) => write!(
                f,
                "the request is denied: its path could be read in two ways: {why}"
            ),
            (HttpCause::Method, _) => {
                f.write_str("the request is denied: its method is not in upper case")
            }
        }
    }
}
