//! The policy: ordered rules, a default for each direction, and what they decide.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use msb_name::HostName;

use crate::decision::{Cause, Decision, Denial, Early, Grounds, NameDenial, Permit};
use crate::index::{Extent, Index, NONE, Shadow, Uses, sweep};
use crate::{Action, Direction, Error, Flow, Group, Protocol, Rule, Target, classify};

/// Rules that a policy may have.
const MAX_RULES: usize = 1 << 20;

/// What the guest may reach, and who may reach it: rules of which the first that matches counts, and a default for each
/// direction.
///
/// A value of this type does not change; cloning copies a pointer. Whoever holds one that is replaced asks the new one
/// again about what is open, and closes what it no longer permits. Two are equal that have the same rules and defaults.
///
/// The default value is the profile `public`.
///
/// ```
/// use msb_policy::{Action, Flow, NetworkPolicy, Protocol};
///
/// let policy = NetworkPolicy::builder()
///     .rule("deny@*.tracker.example".parse()?)
///     .rule("allow@10.0.0.5:tcp:5432".parse()?)
///     .profiles("public")?
///     .build()?;
/// let tcp = |to: &str| policy.decide(&Flow::egress(Protocol::Tcp, to.parse().unwrap()));
/// assert!(tcp("93.184.215.14:443").is_permit());
/// assert!(tcp("10.0.0.5:5432").is_permit());
/// let denied = tcp("10.0.0.5:22").grounds().to_string();
/// assert_eq!(denied, "tcp to 10.0.0.5:22 (private) is denied by default: no rule allows it");
/// # Ok::<(), msb_policy::Error>(())
/// ```
#[derive(Clone)]
pub struct NetworkPolicy(Arc<Inner>);

struct Inner {
    rules: Vec<Arc<Rule>>,
    egress: Action,
    ingress: Action,
    /// Why there is none.
    invalid: Option<Arc<str>>,
    index: Index,
    uses: Uses,
    shadows: Vec<Shadow>,
}

/// Builds a [`NetworkPolicy`] from rules in order.
#[derive(Clone, Debug)]
#[must_use]
pub struct PolicyBuilder {
    rules: Vec<Rule>,
    egress: Action,
    ingress: Action,
}

impl Default for PolicyBuilder {
    fn default() -> Self {
        Self {
            rules: Vec::new(),
            egress: Action::Deny,
            ingress: Action::Allow,
        }
    }
}

impl PolicyBuilder {
    /// Adds a rule behind those that are there.
    pub fn rule(mut self, rule: Rule) -> Self {
        self.rules.push(rule);
        self
    }

    /// Adds rules behind those that are there.
    pub fn rules(mut self, rules: impl IntoIterator<Item = Rule>) -> Self {
        self.rules.extend(rules);
        self
    }

    /// Adds the rules of a comma-separated list of profiles behind those that are there.
    ///
    /// `public`, `private`, `host` and `metadata` allow egress to the group of that name; `all` allows egress to every
    /// group but metadata, which has to be named; `none`, which stands alone, allows nothing, and denies ingress by
    /// default.
    ///
    /// # Errors
    /// [`Error::UnknownProfile`] (an empty word included) or [`Error::NoneIsAlone`].
    pub fn profiles(mut self, text: &str) -> Result<Self, Error> {
        let words: Vec<&str> = text.split(',').map(str::trim).collect();
        if words.contains(&"none") && words.len() > 1 {
            return Err(Error::NoneIsAlone {
                text: text.to_owned(),
            });
        }
        for word in words {
            let target = match word {
                "public" => Target::Group(Group::Public),
                "private" => Target::Group(Group::Private),
                "host" => Target::Group(Group::Host),
                "metadata" => Target::Group(Group::Metadata),
                "all" => Target::Any,
                "none" => {
                    self.ingress = Action::Deny;
                    continue;
                }
                _ => {
                    return Err(Error::UnknownProfile {
                        word: word.to_owned(),
                        text: text.to_owned(),
                    });
                }
            };
            let rule = Rule::allow(target);
            if !self.rules.contains(&rule) {
                self.rules.push(rule);
            }
        }
        Ok(self)
    }

    /// What happens to egress that no rule matches. Default: deny. It is never allowed to reach metadata.
    pub fn default_egress(mut self, action: Action) -> Self {
        self.egress = action;
        self
    }

    /// What happens to connections to published ports that no rule matches. Default: allow, for nothing but what was
    /// published can be reached. It is never allowed from metadata's addresses.
    pub fn default_ingress(mut self, action: Action) -> Self {
        self.ingress = action;
        self
    }

    /// Checks and compiles the rules.
    ///
    /// # Errors
    /// A rule whose parts contradict each other, or too many rules.
    pub fn build(self) -> Result<NetworkPolicy, Error> {
        if self.rules.len() > MAX_RULES {
            return Err(Error::TooManyRules {
                count: self.rules.len(),
                max: MAX_RULES,
            });
        }
        self.rules.iter().try_for_each(Rule::check)?;
        Ok(self.compile(None))
    }

    fn compile(self, invalid: Option<Arc<str>>) -> NetworkPolicy {
        let rules = self.rules.into_iter().map(|mut rule| {
            if let Target::Addresses(net) = rule.target {
                rule.target = net.into();
            }
            Arc::new(rule)
        });
        let rules: Vec<_> = rules.collect();
        let plain: Vec<&Rule> = rules.iter().map(AsRef::as_ref).collect();
        let (shadows, uses) = sweep(&plain, self.egress);
        NetworkPolicy(Arc::new(Inner {
            index: Index::new(plain),
            rules,
            egress: self.egress,
            ingress: self.ingress,
            invalid,
            uses,
            shadows,
        }))
    }
}

impl NetworkPolicy {
    /// A policy without rules that denies egress and allows ingress by default, to be added to.
    pub fn builder() -> PolicyBuilder {
        PolicyBuilder::default()
    }

    /// The policy of a comma-separated list of profiles; see [`PolicyBuilder::profiles`].
    ///
    /// # Errors
    /// As there.
    pub fn parse(profiles: &str) -> Result<Self, Error> {
        Self::builder().profiles(profiles)?.build()
    }

    /// A policy that denies everything, for when the wanted one could not be built; `reason` shows in each denial.
    #[must_use]
    pub fn invalid(reason: impl fmt::Display) -> Self {
        let nothing = PolicyBuilder {
            ingress: Action::Deny,
            ..PolicyBuilder::default()
        };
        nothing.compile(Some(reason.to_string().into()))
    }

    /// The rules in order.
    pub fn rules(&self) -> impl ExactSizeIterator<Item = &Rule> {
        self.0.rules.iter().map(AsRef::as_ref)
    }

    /// What happens where no rule matches.
    #[must_use]
    pub fn default_of(&self, direction: Direction) -> Action {
        match direction {
            Direction::Egress => self.0.egress,
            Direction::Ingress => self.0.ingress,
        }
    }

    /// The rules that can never count because those before them leave nothing for them, in order. This is exact: a rule
    /// is listed with [`Extent::All`] if and only if there is no flow of which it is the first match. (Where blocks inside
    /// of Teredo or local NAT64 prefixes meet rules for groups, a rule may be missing from the list.)
    #[must_use]
    pub fn shadows(&self) -> &[Shadow] {
        &self.0.shadows
    }

    /// A warning for each shadowed rule.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        let explained = self.0.shadows.iter().enumerate();
        explained.map(|(index, shadow)| {
            // Looking for the one rule that is enough costs a pass over all before it.
            let is_cheap = index < 16 && shadow.rule < 256;
            let by = is_cheap.then(|| self.shadowed_by(shadow)).flatten();
            let by = by.map_or_else(
                || "the rules before it together leave it nothing".to_owned(),
                |by| format!("rule {} ({}) comes first", by + 1, self.0.rules[by]),
            );
            let rule = &self.0.rules[shadow.rule];
            let what = match shadow.extent {
                Extent::All => "never counts",
                Extent::PublicAddresses => "never counts for public addresses",
            };
            format!("network rule {} ({rule}) {what}: {by}", shadow.rule + 1)
        })
    }

    /// The first rule that alone leaves nothing for a shadowed one.
    fn shadowed_by(&self, shadow: &Shadow) -> Option<usize> {
        let rule: &Rule = &self.0.rules[shadow.rule];
        let before = self.0.rules[..shadow.rule].iter();
        let mut before = before.enumerate();
        let found = before.find(|(_, other)| {
            let (shadows, _) = sweep(&[other.as_ref(), rule], self.0.egress);
            let alone = |found: &Shadow| found.rule == 1 && found.extent == shadow.extent;
            shadows.iter().any(alone)
        });
        found.map(|(index, _)| index)
    }

    /// Decides one flow. A flow without a claim is one that makes none, such as plain TCP or TLS without a server name:
    /// what its address is known for counts alone.
    pub fn decide(&self, flow: &Flow<'_>) -> Decision {
        let group = flow.group();
        let first = self.0.index.first(flow, group);
        self.conclude(flow, group, first)
    }

    /// Decides a flow whose claim is not known yet, as far as that can be done without it. [`Flow::claimed`] is not
    /// looked at.
    pub fn decide_early(&self, flow: &Flow<'_>) -> Early {
        let flow = flow.claimed(None);
        let group = flow.group();
        let index = &self.0.index;
        let first = index.first_by_address(&flow, group);
        let turned = match self.action(flow.direction, group, first) {
            Action::Allow => index.first_denying(&flow, group),
            Action::Deny => index.first_allowing(&flow, group),
        };
        if turned < first {
            return Early::NeedsName;
        }
        Early::Decided(self.conclude(&flow, group, first))
    }

    /// Whether `name` may be asked for upstream: some flow to what it could lead to would be allowed.
    ///
    /// Where none would, the query itself must not leave the host: it is a message to whoever runs the zone.
    ///
    /// # Errors
    /// The rule that denies the name, or that no rule allows anything for it: answer NXDOMAIN.
    pub fn decide_name(&self, name: &HostName) -> Result<(), NameDenial> {
        let denied = self.0.index.allows_name(name, &self.0.uses);
        denied.map_err(|first| {
            let cause = self.cause(Direction::Egress, Group::Public, first);
            let why = match &cause {
                Cause::Rule { .. } => format!("denied by {cause}"),
                Cause::Invalid(reason) => format!("the network policy is invalid: {reason}"),
                _ => "no rule allows a destination that it could stand for".to_owned(),
            };
            NameDenial {
                reason: format!("{name} is not asked for: {why}"),
                cause,
            }
        })
    }

    /// Whether a name may be asked for upstream that is not one of a host, so that no rule can be about it.
    ///
    /// # Errors
    /// Where rules are about names it may not, for it could be a message to a zone that they deny; nor where no name
    /// could be of use.
    pub fn decide_other_name(&self) -> Result<(), NameDenial> {
        let uses = &self.0.uses.first_allowed;
        let is_useful = Protocol::ALL.into_iter().any(|protocol| {
            let mut ports = uses.starts(protocol).chain([0]);
            ports.any(|port| uses.at(protocol, port) != NONE)
        });
        let mut rules = self.rules();
        let why = if rules.any(|rule| matches!(rule.target, Target::Domain(_))) {
            "it is not the name of a host, and there are rules about names"
        } else if is_useful {
            return Ok(());
        } else {
            "no rule allows a destination that it could stand for"
        };
        Err(NameDenial {
            reason: format!("not asked for: {why}"),
            cause: self.cause(Direction::Egress, Group::Public, NONE),
        })
    }

    /// Whether a DNS answer with `address` may be given to the guest; `is_host` says that it is the sandbox's gateway, and
    /// `configured` is a name that the configuration, not a name server, leads there.
    ///
    /// A public address always may (connecting is decided on its own); a private or special one only if some flow to it
    /// would be allowed by a rule about addresses, so that a public name cannot be rebound to an inner address.
    ///
    /// # Errors
    /// Why not.
    pub fn decide_answer(
        &self,
        address: IpAddr,
        is_host: bool,
        configured: Option<&HostName>,
    ) -> Result<(), NameDenial> {
        let group = if is_host {
            Group::Host
        } else {
            classify(address)
        };
        if group == Group::Public {
            return Ok(());
        }
        let action = |first| self.action(Direction::Egress, group, first);
        let denied = self
            .0
            .index
            .allows_address(address, group, configured, action);
        denied.map_err(|first| {
            let cause = self.cause(Direction::Egress, group, first);
            let why = match &cause {
                Cause::Rule { .. } => format!("which {cause} denies"),
                _ => "which no rule about addresses allows".to_owned(),
            };
            NameDenial {
                reason: format!("it resolves to {address}, a {group} address {why}"),
                cause,
            }
        })
    }

    fn action(&self, direction: Direction, group: Group, first: u32) -> Action {
        match self.rule(first) {
            Some((_, rule)) => rule.action,
            None if group == Group::Metadata => Action::Deny,
            None => self.default_of(direction),
        }
    }

    fn rule(&self, number: u32) -> Option<(usize, &Arc<Rule>)> {
        let index = usize::try_from(number).ok()?;
        Some((index, self.0.rules.get(index)?))
    }

    fn cause(&self, direction: Direction, group: Group, first: u32) -> Cause {
        match (&self.0.invalid, self.rule(first)) {
            (Some(reason), _) => Cause::Invalid(Arc::clone(reason)),
            (None, Some((index, rule))) => Cause::Rule {
                index,
                rule: Arc::clone(rule),
            },
            (None, None) if group == Group::Metadata => Cause::Metadata,
            (None, None) => Cause::Default(self.default_of(direction)),
        }
    }

    fn conclude(&self, flow: &Flow<'_>, group: Group, first: u32) -> Decision {
        let cause = self.cause(flow.direction, group, first);
        let grounds = Grounds::new(flow, group, cause);
        match self.action(flow.direction, group, first) {
            Action::Allow => Decision::Permit(Permit(grounds)),
            Action::Deny => Decision::Deny(Denial(grounds)),
        }
    }
}

impl Default for NetworkPolicy {
    fn default() -> Self {
        let public = PolicyBuilder::default().rule(Rule::allow(Group::Public));
        public.compile(None)
    }
}

impl FromStr for NetworkPolicy {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

impl PartialEq for NetworkPolicy {
    fn eq(&self, other: &Self) -> bool {
        let (own, other) = (&*self.0, &*other.0);
        own.rules == other.rules
            && (own.egress, own.ingress) == (other.egress, other.ingress)
            && own.invalid == other.invalid
    }
}

impl Eq for NetworkPolicy {}

impl fmt::Debug for NetworkPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rules: Vec<_> = self.rules().map(ToString::to_string).collect();
        f.debug_struct("NetworkPolicy")
            .field("rules", &rules)
            .field("egress", &self.0.egress)
            .field("ingress", &self.0.ingress)
            .field("invalid", &self.0.invalid)
            .finish_non_exhaustive()
    }
}
