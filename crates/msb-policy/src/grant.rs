//! The gates a secret has to pass, and the proof that it did.

use std::net::IpAddr;

use msb_name::{Authority, Host, HostName, HostPattern, HostPatternSet};

use crate::Pin;

/// Which secret; meaningful only within the set that numbered it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretId(u32);

impl SecretId {
    /// The secret with this number.
    #[must_use]
    pub fn new(number: u32) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0
    }
}

/// How the address of an upstream connection was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The guest chose an address that this sandbox's DNS gave for the name.
    Pinned(Pin),
    /// The host resolved this name itself and dialled what it got.
    DialledByName(HostName),
    /// The guest chose an address that its DNS did not give for the name (hard-coded, `/etc/hosts`, expired).
    Unpinned(IpAddr),
}

/// What is known about the server at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamTrust {
    /// Its certificate was verified for this host.
    Verified(Host),
    /// Verification is switched off for this host.
    VerificationOff,
    /// There is no TLS: requests are read from a plaintext HTTP connection.
    Plaintext,
}

/// A connection whose requests are inspected: what the guest asked for and what was established upstream.
///
/// It is intercepted TLS, or plaintext HTTP ([`UpstreamTrust::Plaintext`]), where each request has one of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterceptedConnection {
    host: Host,
    destination: Destination,
    upstream: UpstreamTrust,
}

impl InterceptedConnection {
    /// A connection whose upstream handshake is done.
    ///
    /// `host` is the server name of the guest's ClientHello, or what stands for it when there was none: the one name
    /// pinned to the address, or the address itself (which never gets a secret). On plaintext HTTP it is the host of the
    /// request's authority.
    #[must_use]
    pub fn new(host: impl Into<Host>, destination: Destination, upstream: UpstreamTrust) -> Self {
        Self {
            host: host.into(),
            destination,
            upstream,
        }
    }

    /// A connection that the host dialled by this name and whose certificate was verified for it: every gate but a
    /// secret's own is open.
    #[must_use]
    pub fn dialled(name: HostName) -> Self {
        let verified = UpstreamTrust::Verified(Host::Name(name.clone()));
        Self::new(name.clone(), Destination::DialledByName(name), verified)
    }

    /// The server name the guest asked for.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// How the address was chosen.
    #[must_use]
    pub fn destination(&self) -> &Destination {
        &self.destination
    }

    /// What is known about the server.
    #[must_use]
    pub fn upstream(&self) -> &UpstreamTrust {
        &self.upstream
    }
}

/// The hosts that one secret is allowed for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostScope {
    patterns: HostPatternSet,
    any: bool,
    allow_unverified: bool,
    allow_plaintext: bool,
}

impl HostScope {
    /// The hosts that one of the patterns covers.
    #[must_use]
    pub fn new(patterns: impl IntoIterator<Item = HostPattern>) -> Self {
        Self {
            patterns: patterns.into_iter().collect(),
            ..Self::default()
        }
    }

    /// Allows every named host as well. Any server the guest connects to can then obtain the secret.
    #[must_use]
    pub fn dangerous_any_host(mut self, any: bool) -> Self {
        self.any = any;
        self
    }

    /// Allows hosts whose certificate is not verified. Whoever answers in their place can then obtain the secret.
    #[must_use]
    pub fn dangerous_allow_unverified(mut self, allow: bool) -> Self {
        self.allow_unverified = allow;
        self
    }

    /// Allows plaintext HTTP. Whoever is on the way to the host can then obtain the secret.
    #[must_use]
    pub fn dangerous_allow_plaintext(mut self, allow: bool) -> Self {
        self.allow_plaintext = allow;
        self
    }

    /// The same scope for fewer hosts: those that the patterns cover, and no longer any other.
    ///
    /// # Errors
    /// The first pattern that covers a host which this scope does not.
    pub fn narrowed(
        &self,
        patterns: impl IntoIterator<Item = HostPattern>,
    ) -> Result<Self, HostPattern> {
        let covered = |pattern: HostPattern| {
            let fits = match &pattern {
                HostPattern::Exact(host) => self.allows(host),
                HostPattern::Suffix(domain) => {
                    self.any || self.patterns.iter().any(|own| covers(&own, domain))
                }
            };
            if fits { Ok(pattern) } else { Err(pattern) }
        };
        let patterns = patterns.into_iter().map(covered);
        Ok(Self {
            patterns: patterns.collect::<Result<_, _>>()?,
            any: false,
            allow_unverified: self.allow_unverified,
            allow_plaintext: self.allow_plaintext,
        })
    }

    /// Whether the scope covers `host`.
    #[must_use]
    pub fn allows(&self, host: &HostName) -> bool {
        self.any || self.patterns.matches(host)
    }

    /// Whether every host is allowed.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.any
    }

    /// Whether plaintext HTTP is allowed.
    #[must_use]
    pub fn allows_plaintext(&self) -> bool {
        self.allow_plaintext
    }

    /// The patterns.
    #[must_use]
    pub fn patterns(&self) -> &HostPatternSet {
        &self.patterns
    }
}

/// Whether `pattern` covers every host below `domain`.
fn covers(pattern: &HostPattern, domain: &HostName) -> bool {
    let HostPattern::Suffix(own) = pattern else {
        return false;
    };
    let below = domain.as_str().strip_suffix(own.as_str());
    below.is_some_and(|labels| labels.is_empty() || labels.ends_with('.'))
}

/// Proof that one secret may be written into one request to one host. Only [`grant_injection`] makes one.
///
/// It is not `Clone`, so that it does not outlive the request it was made for by being kept somewhere.
#[derive(Debug, PartialEq, Eq)]
pub struct InjectGrant {
    secret: SecretId,
    host: HostName,
}

impl InjectGrant {
    /// The secret that may be written.
    #[must_use]
    pub fn secret(&self) -> SecretId {
        self.secret
    }

    /// The host it may be written to.
    #[must_use]
    pub fn host(&self) -> &HostName {
        &self.host
    }
}

/// Why a secret may not be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The secret's hosts do not cover this one.
    #[error("host {host} is not allowed for this secret")]
    HostNotAllowed {
        /// The host the request goes to.
        host: Host,
    },
    /// The request names another host than the connection.
    #[error(transparent)]
    Misdirected(#[from] Misdirected),
    /// The address is not one that the sandbox's DNS gave for the host.
    #[error("the address {address} was not resolved from {host} by this sandbox's DNS")]
    AddressNotPinned {
        /// The host.
        host: HostName,
        /// The address the guest chose.
        address: IpAddr,
    },
    /// The address was resolved or dialled for another host.
    #[error("the address was resolved for {resolved}, not for {host}")]
    ResolvedForAnother {
        /// The host.
        host: HostName,
        /// What was resolved.
        resolved: HostName,
    },
    /// The certificate was verified for another host.
    #[error("the certificate was verified for {verified}, not for {host}")]
    VerifiedForAnother {
        /// The host.
        host: HostName,
        /// What the certificate was verified for.
        verified: Host,
    },
    /// Verification of the host's certificate is switched off, and the secret does not accept that.
    #[error("the certificate of {host} is not verified")]
    NotVerified {
        /// The host.
        host: HostName,
    },
    /// The connection is plaintext HTTP, and the secret does not accept that.
    #[error("the connection to {host} is plaintext, without TLS")]
    NotEncrypted {
        /// The host.
        host: HostName,
    },
    /// The connection is not intercepted, so nobody knows who is at the other end.
    #[error("the connection is not intercepted TLS")]
    NotIntercepted,
    /// The secret was taken out of use.
    #[error("the secret was revoked")]
    Revoked,
}

/// A request whose authority names another host than the connection's; answer 421 (RFC 9110, section 15.5.20).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request is for {requested}, the connection for {connected}")]
pub struct Misdirected {
    /// The host the request names.
    pub requested: Host,
    /// The host of the connection.
    pub connected: Host,
}

/// Checks that a request is for the host that its connection was opened to. Ports are not compared.
///
/// # Errors
/// [`Misdirected`] if it is for another.
pub fn check_identity(
    connection: &InterceptedConnection,
    authority: &Authority,
) -> Result<(), Misdirected> {
    if authority.host() == connection.host() {
        return Ok(());
    }
    Err(Misdirected {
        requested: authority.host().clone(),
        connected: connection.host().clone(),
    })
}

/// Decides whether `secret` may be written into a request.
///
/// All gates are needed: the scope covers the connection's host; the request's authority names that host; the address
/// was pinned or dialled for it; the certificate was verified for it, unless the scope says that this is not needed.
///
/// # Errors
/// The first gate that does not hold.
pub fn grant_injection(
    secret: SecretId,
    scope: &HostScope,
    connection: &InterceptedConnection,
    authority: &Authority,
) -> Result<InjectGrant, Refusal> {
    let host = match connection.host() {
        Host::Name(name) if scope.allows(name) => name.clone(),
        host => return Err(Refusal::HostNotAllowed { host: host.clone() }),
    };
    check_identity(connection, authority)?;
    match connection.destination() {
        Destination::Unpinned(address) => {
            return Err(Refusal::AddressNotPinned {
                host,
                address: *address,
            });
        }
        Destination::Pinned(pin) if *pin.name() != host => {
            return Err(Refusal::ResolvedForAnother {
                host,
                resolved: pin.name().clone(),
            });
        }
        Destination::DialledByName(name) if *name != host => {
            return Err(Refusal::ResolvedForAnother {
                host,
                resolved: name.clone(),
            });
        }
        Destination::Pinned(_) | Destination::DialledByName(_) => {}
    }
    match connection.upstream() {
        UpstreamTrust::VerificationOff if !scope.allow_unverified => {
            return Err(Refusal::NotVerified { host });
        }
        UpstreamTrust::Plaintext if !scope.allow_plaintext => {
            return Err(Refusal::NotEncrypted { host });
        }
        UpstreamTrust::Verified(verified) if verified.name() != Some(&host) => {
            return Err(Refusal::VerifiedForAnother {
                host,
                verified: verified.clone(),
            });
        }
        UpstreamTrust::VerificationOff | UpstreamTrust::Plaintext | UpstreamTrust::Verified(_) => {}
    }
    Ok(InjectGrant { secret, host })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Host {
        text.parse().unwrap()
    }

    fn name(text: &str) -> HostName {
        text.parse().unwrap()
    }

    fn scope(patterns: &[&str]) -> HostScope {
        HostScope::new(patterns.iter().map(|pattern| pattern.parse().unwrap()))
    }

    /// A connection with every gate open for `a.test`.
    fn connection() -> InterceptedConnection {
        InterceptedConnection::dialled(name("a.test"))
    }

    #[track_caller]
    fn check(
        scope: &HostScope,
        connection: &InterceptedConnection,
        authority: &str,
        expected: &str,
    ) {
        let answer = match grant_injection(
            SecretId::new(7),
            scope,
            connection,
            &authority.parse().unwrap(),
        ) {
            Ok(grant) => {
                assert_eq!(grant.secret().number(), 7);
                format!("granted for {}", grant.host())
            }
            Err(refusal) => refusal.to_string(),
        };
        assert_eq!(answer, expected);
    }

    #[test]
    fn all_gates_open_grants() {
        check(
            &scope(&["a.test"]),
            &connection(),
            "A.test.:8443",
            "granted for a.test",
        );
        check(
            &scope(&["*.test"]),
            &connection(),
            "a.test",
            "granted for a.test",
        );
        check(
            &HostScope::default().dangerous_any_host(true),
            &connection(),
            "a.test",
            "granted for a.test",
        );
    }

    #[test]
    fn a_scope_tells_what_it_was_made_of() {
        let some = scope(&["b.test", "*.a.test"]);
        assert!(!some.is_any() && HostScope::default().dangerous_any_host(true).is_any());
        let patterns: Vec<_> = some.patterns().iter().map(|it| it.to_string()).collect();
        assert_eq!(patterns, ["b.test", "*.a.test"]);
    }

    #[test]
    fn a_host_outside_the_scope_is_refused() {
        check(
            &scope(&["b.test", "*.a.test"]),
            &connection(),
            "a.test",
            "host a.test is not allowed for this secret",
        );
        check(
            &HostScope::default().dangerous_any_host(false),
            &connection(),
            "a.test",
            "host a.test is not allowed for this secret",
        );
    }

    /// Attack 1 and 4: the name in the request is not the name of the connection.
    #[test]
    fn another_authority_is_refused() {
        let any = HostScope::default().dangerous_any_host(true);
        for authority in ["b.test", "www.a.test", "test", "1.2.3.4", "[::1]:443"] {
            let requested = authority.parse::<Authority>().unwrap().host().clone();
            check(
                &any,
                &connection(),
                authority,
                &format!("the request is for {requested}, the connection for a.test"),
            );
        }
        assert_eq!(
            check_identity(&connection(), &"a.test:1".parse().unwrap()),
            Ok(())
        );
    }

    /// Attack 2: the guest chose the address.
    #[test]
    fn an_address_the_dns_did_not_give_is_refused() {
        let unpinned = InterceptedConnection {
            destination: Destination::Unpinned([6, 6, 6, 6].into()),
            ..connection()
        };
        check(
            &scope(&["a.test"]),
            &unpinned,
            "a.test",
            "the address 6.6.6.6 was not resolved from a.test by this sandbox's DNS",
        );
        let dialled = InterceptedConnection {
            destination: Destination::DialledByName(name("b.test")),
            ..connection()
        };
        check(
            &scope(&["a.test"]),
            &dialled,
            "a.test",
            "the address was resolved for b.test, not for a.test",
        );
    }

    #[test]
    fn a_pin_counts_for_its_own_name_only() {
        let mut pins = crate::PinTable::default();
        #[expect(clippy::disallowed_methods, reason = "an Instant has no other origin")]
        let now = std::time::Instant::now();
        let address = IpAddr::from([1, 1, 1, 1]);
        for (pinned, expected) in [
            ("a.test", "granted for a.test"),
            (
                "b.test",
                "the address was resolved for b.test, not for a.test",
            ),
        ] {
            pins.insert(
                name(pinned),
                address,
                std::time::Duration::from_secs(1),
                now,
            );
            let pin = pins.confirm(&name(pinned), address, now).unwrap();
            let connection = InterceptedConnection {
                destination: Destination::Pinned(pin),
                ..connection()
            };
            check(&scope(&["a.test"]), &connection, "a.test", expected);
        }
    }

    #[test]
    fn an_unverified_server_needs_explicit_consent() {
        let off = InterceptedConnection {
            upstream: UpstreamTrust::VerificationOff,
            ..connection()
        };
        check(
            &scope(&["a.test"]),
            &off,
            "a.test",
            "the certificate of a.test is not verified",
        );
        check(
            &scope(&["a.test"]).dangerous_allow_unverified(true),
            &off,
            "a.test",
            "granted for a.test",
        );
        for verified in ["b.test", "1.1.1.1"] {
            let other = InterceptedConnection {
                upstream: UpstreamTrust::Verified(host(verified)),
                ..connection()
            };
            let expected = format!("the certificate was verified for {verified}, not for a.test");
            check(
                &scope(&["a.test"]).dangerous_allow_unverified(true),
                &other,
                "a.test",
                &expected,
            );
        }
    }

    /// S6: without TLS nothing tells who answers, so only a secret that says so goes there, by the same other gates.
    #[test]
    fn plaintext_needs_explicit_consent() {
        let plaintext = InterceptedConnection {
            upstream: UpstreamTrust::Plaintext,
            ..connection()
        };
        for refusing in [
            scope(&["a.test"]),
            scope(&["a.test"]).dangerous_allow_unverified(true),
        ] {
            assert!(!refusing.allows_plaintext());
            let expected = "the connection to a.test is plaintext, without TLS";
            check(&refusing, &plaintext, "a.test", expected);
        }
        let accepting = scope(&["a.test"]).dangerous_allow_plaintext(true);
        check(&accepting, &plaintext, "a.test", "granted for a.test");
        let narrowed = accepting.narrowed(["a.test".parse().unwrap()]).unwrap();
        assert!(narrowed.allows_plaintext());
        check(&narrowed, &plaintext, "a.test", "granted for a.test");
        let elsewhere = scope(&["b.test"]).dangerous_allow_plaintext(true);
        let expected = "host a.test is not allowed for this secret";
        check(&elsewhere, &plaintext, "a.test", expected);
        let unpinned = InterceptedConnection {
            destination: Destination::Unpinned([6, 6, 6, 6].into()),
            ..plaintext
        };
        let expected = "the address 6.6.6.6 was not resolved from a.test by this sandbox's DNS";
        check(&accepting, &unpinned, "a.test", expected);
    }

    #[test]
    fn an_address_never_gets_a_secret() {
        let by_address = InterceptedConnection::new(
            host("1.1.1.1"),
            Destination::Unpinned([1, 1, 1, 1].into()),
            UpstreamTrust::Verified(host("1.1.1.1")),
        );
        let any = HostScope::default().dangerous_any_host(true);
        check(
            &any,
            &by_address,
            "1.1.1.1",
            "host 1.1.1.1 is not allowed for this secret",
        );
    }

    #[test]
    fn a_scope_is_narrowed_and_never_widened() {
        let wide = scope(&["a.test", "*.b.test"]);
        let narrowed = |patterns: &[&str]| {
            let patterns = patterns.iter().map(|pattern| pattern.parse().unwrap());
            wide.narrowed(patterns.collect::<Vec<HostPattern>>())
        };
        let fewer = narrowed(&["x.b.test", "*.b.test", "*.y.b.test"]).unwrap();
        assert!(fewer.allows(&name("x.b.test")) && !fewer.allows(&name("a.test")));
        for wider in ["*.test", "*.a.test", "*.eb.test", "c.test", "b.test"] {
            assert_eq!(narrowed(&["a.test", wider]), Err(wider.parse().unwrap()));
        }
        let any = HostScope::default().dangerous_any_host(true);
        let one = any.narrowed(["*.c.test".parse().unwrap()]).unwrap();
        assert!(one.allows(&name("x.c.test")) && !one.allows(&name("a.test")) && !one.is_any());
        assert_eq!(
            wide.narrowed([]).map(|none| none.allows(&name("a.test"))),
            Ok(false)
        );
    }
}
