//! May the guest open this flow? Profiles over address groups.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use crate::{Error, Group, classify};

/// The transport of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP or ICMPv6.
    Icmp,
}

/// A flow that the guest asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Egress {
    /// Where the guest wants to go, as it wrote it; port 0 for ICMP.
    pub destination: SocketAddr,
    /// Whether `destination` is the sandbox's gateway, which stands for the host itself.
    pub to_host: bool,
    /// The transport.
    pub protocol: Protocol,
}

impl Egress {
    /// The group that governs this flow: [`Group::Host`] towards the gateway, else the group of the address.
    #[must_use]
    pub fn group(&self) -> Group {
        if self.to_host {
            Group::Host
        } else {
            classify(self.destination.ip())
        }
    }
}

/// Proof that the policy allows a flow. Only [`NetworkPolicy::decide`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit {
    egress: Egress,
    group: Group,
}

impl Permit {
    /// The flow that is allowed.
    #[must_use]
    pub fn egress(&self) -> &Egress {
        &self.egress
    }

    /// The group that allowed it.
    #[must_use]
    pub fn group(&self) -> Group {
        self.group
    }
}

/// Why a flow is denied. `Display` is one line for a log or an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    egress: Egress,
    group: Group,
    /// The profile in force, or why there is none.
    profile: String,
}

impl Denial {
    /// The flow that is denied.
    #[must_use]
    pub fn egress(&self) -> &Egress {
        &self.egress
    }

    /// The group of its destination.
    #[must_use]
    pub fn group(&self) -> Group {
        self.group
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            egress,
            group,
            profile,
        } = self;
        write!(
            f,
            "{} is a {group} destination, which the network profile ({profile}) does not allow",
            egress.destination
        )
    }
}

/// The answer to an [`Egress`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Decision {
    /// The flow is allowed.
    Permit(Permit),
    /// The flow is denied: reset TCP, answer UDP with an ICMP error.
    Deny(Denial),
}

/// Which groups of destinations the guest may reach. The default is the profile `public`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkPolicy {
    groups: Groups,
    profile: String,
}

impl Default for NetworkPolicy {
    fn default() -> Self {
        Self {
            groups: Groups::of(&[Group::Public]),
            profile: "public".to_owned(),
        }
    }
}

impl NetworkPolicy {
    /// Parses a comma-separated list of profiles.
    ///
    /// `public`, `private`, `host` and `metadata` allow the group of that name; `all` allows every group but metadata,
    /// which has to be named; `none`, which stands alone, allows nothing.
    ///
    /// # Errors
    /// [`Error::UnknownProfile`] (an empty word included) or [`Error::NoneIsAlone`].
    pub fn parse(text: &str) -> Result<Self, Error> {
        let words: Vec<&str> = text.split(',').map(str::trim).collect();
        if words.contains(&"none") && words.len() > 1 {
            return Err(Error::NoneIsAlone {
                text: text.to_owned(),
            });
        }
        let mut groups = Groups::default();
        for word in &words {
            let added: &[Group] = match *word {
                "public" => &[Group::Public],
                "private" => &[Group::Private],
                "host" => &[Group::Host],
                "metadata" => &[Group::Metadata],
                "all" => &Group::ALL_BUT_METADATA,
                "none" => &[],
                _ => {
                    return Err(Error::UnknownProfile {
                        word: (*word).to_owned(),
                        text: text.to_owned(),
                    });
                }
            };
            groups.add(added);
        }
        Ok(Self {
            groups,
            profile: words.join(","),
        })
    }

    /// A policy that denies everything, for when the wanted one could not be built; `reason` shows in each denial.
    #[must_use]
    pub fn invalid(reason: impl fmt::Display) -> Self {
        Self {
            groups: Groups::default(),
            profile: format!("invalid, so everything is refused: {reason}"),
        }
    }

    /// Decides one flow.
    pub fn decide(&self, egress: &Egress) -> Decision {
        let (egress, group) = (*egress, egress.group());
        if self.groups.contains(group) {
            Decision::Permit(Permit { egress, group })
        } else {
            Decision::Deny(Denial {
                egress,
                group,
                profile: self.profile.clone(),
            })
        }
    }

    /// Whether the guest may reach the host itself: at the gateway, and at any address of the host's own, whatever
    /// group that address is in.
    #[must_use]
    pub fn permits_host(&self) -> bool {
        self.groups.contains(Group::Host)
    }

    /// Whether the guest may reach anything but the host, so that resolving a name can be of use to it.
    ///
    /// Where it may not, a query must not leave the host: it would be a message to whoever runs the zone.
    #[must_use]
    pub fn permits_beyond_host(&self) -> bool {
        !self.groups.without(Group::Host).is_empty()
    }

    /// Whether a DNS answer with `address` may be given to the guest.
    ///
    /// A public address always may (connecting is decided on its own); a private or special one only if the policy
    /// allows connecting to it, so that a public name cannot be rebound to an inner address.
    #[must_use]
    pub fn allows_answer(&self, address: IpAddr) -> bool {
        let group = classify(address);
        group == Group::Public || self.groups.contains(group)
    }
}

impl FromStr for NetworkPolicy {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

/// A set of groups, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Groups(u16);

impl Groups {
    fn of(groups: &[Group]) -> Self {
        let mut set = Self::default();
        set.add(groups);
        set
    }

    fn add(&mut self, groups: &[Group]) {
        for group in groups {
            self.0 |= 1 << (*group as u16);
        }
    }

    fn without(self, group: Group) -> Self {
        Self(self.0 & !(1 << (group as u16)))
    }

    fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn contains(self, group: Group) -> bool {
        self.0 & (1 << (group as u16)) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACES: [(&str, &str); 7] = [
        ("public", "93.184.215.14:443"),
        ("private", "10.0.0.1:443"),
        ("loopback", "127.0.0.1:80"),
        ("link-local", "169.254.1.1:80"),
        ("multicast", "224.0.0.251:5353"),
        ("metadata", "169.254.169.254:80"),
        ("reserved", "240.0.0.1:80"),
    ];

    #[track_caller]
    fn check(profile: &str, allowed: &[&str], host: bool) {
        let policy = NetworkPolicy::parse(profile).unwrap();
        let permits = |destination: &str, to_host| {
            let egress = Egress {
                destination: destination.parse().unwrap(),
                to_host,
                protocol: Protocol::Tcp,
            };
            matches!(policy.decide(&egress), Decision::Permit(_))
        };
        for (group, place) in PLACES {
            assert_eq!(
                permits(place, false),
                allowed.contains(&group),
                "{profile}: {place}"
            );
        }
        assert_eq!(permits("192.0.0.1:8443", true), host, "{profile}: host");
    }

    #[test]
    fn profiles_allow_their_groups_and_nothing_else() {
        check("public", &["public"], false);
        check("private", &["private"], false);
        check("host", &[], true);
        check("public, host", &["public"], true);
        check("metadata", &["metadata"], false);
        check("none", &[], false);
        check(
            "all",
            &[
                "public",
                "private",
                "loopback",
                "link-local",
                "multicast",
                "reserved",
            ],
            true,
        );
        check(
            "all,metadata",
            &[
                "public",
                "private",
                "loopback",
                "link-local",
                "multicast",
                "reserved",
                "metadata",
            ],
            true,
        );
        assert_eq!(
            NetworkPolicy::default(),
            NetworkPolicy::parse("public").unwrap()
        );
    }

    #[test]
    fn the_gateway_is_governed_by_host_alone() {
        let policy = NetworkPolicy::parse("public").unwrap();
        let egress = Egress {
            destination: "93.184.215.14:443".parse().unwrap(),
            to_host: true,
            protocol: Protocol::Udp,
        };
        assert!(
            matches!(policy.decide(&egress), Decision::Deny(denial) if denial.group() == Group::Host)
        );
    }

    #[test]
    fn malformed_profiles_are_refused() {
        for (text, expected) in [
            ("", "\"\" in the network profile"),
            ("public,", "\"\" in the network profile"),
            ("Public", "\"Public\" in"),
            ("public host", "\"public host\" in"),
            ("none,public", "none stands alone"),
        ] {
            let error = NetworkPolicy::parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }

    #[test]
    fn denials_say_what_and_why_in_one_line() {
        let egress = Egress {
            destination: "10.0.0.1:22".parse().unwrap(),
            to_host: false,
            protocol: Protocol::Tcp,
        };
        let reason = |policy: NetworkPolicy| match policy.decide(&egress) {
            Decision::Deny(denial) => denial.to_string(),
            Decision::Permit(permit) => panic!("{permit:?}"),
        };
        assert_eq!(
            reason(NetworkPolicy::default()),
            "10.0.0.1:22 is a private destination, which the network profile (public) does not allow"
        );
        assert!(
            reason(NetworkPolicy::invalid("no such file"))
                .contains("everything is refused: no such file")
        );
    }

    #[test]
    fn an_invalid_policy_allows_nothing() {
        let policy = NetworkPolicy::invalid("x");
        for (_, place) in PLACES {
            for to_host in [false, true] {
                let egress = Egress {
                    destination: place.parse().unwrap(),
                    to_host,
                    protocol: Protocol::Tcp,
                };
                assert!(
                    matches!(policy.decide(&egress), Decision::Deny(_)),
                    "{place}"
                );
            }
        }
    }

    #[test]
    fn the_host_is_permitted_by_its_own_group_or_all() {
        for (profile, expected) in [
            ("none", false),
            ("public,private,metadata", false),
            ("host", true),
            ("all", true),
        ] {
            let policy = NetworkPolicy::parse(profile).unwrap();
            assert_eq!(policy.permits_host(), expected, "{profile}");
        }
        assert!(!NetworkPolicy::invalid("x").permits_host());
    }

    /// Attack 8: exfiltration by query.
    #[test]
    fn names_are_of_use_where_more_than_the_host_is_permitted() {
        for (profile, expected) in [
            ("none", false),
            ("host", false),
            ("public", true),
            ("private", true),
            ("metadata", true),
            ("all", true),
            ("host,public", true),
        ] {
            let policy = NetworkPolicy::parse(profile).unwrap();
            assert_eq!(policy.permits_beyond_host(), expected, "{profile}");
        }
        assert!(!NetworkPolicy::invalid("x").permits_beyond_host());
    }

    /// Attack 7: rebinding.
    #[test]
    fn answers_with_inner_addresses_need_the_group() {
        let answer = |profile: &str, address: &str| {
            NetworkPolicy::parse(profile)
                .unwrap()
                .allows_answer(address.parse().unwrap())
        };
        assert!(answer("public", "93.184.215.14"));
        assert!(answer("none", "93.184.215.14"));
        assert!(!answer("public", "10.0.0.1"));
        assert!(!answer("public,host", "127.0.0.1"));
        assert!(!answer("public", "64:ff9b::10.0.0.1"));
        assert!(answer("public,private", "10.0.0.1"));
        assert!(!answer("all", "169.254.169.254"));
    }
}
