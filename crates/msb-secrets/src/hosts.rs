//! The hosts a secret is allowed for: stricter than host patterns in general.

use msb_name::{HostName, HostPattern};

use crate::Error;

/// Domains that nobody can register below in the public DNS: RFC 2606, 6761, 6762 (appendix G), 7686, 9476, the
/// ICANN-reserved `internal`, and what home routers use.
const PRIVATE_SUFFIXES: [&str; 17] = [
    "alt",
    "corp",
    "example",
    "home",
    "home.arpa",
    "internal",
    "intranet",
    "invalid",
    "lan",
    "local",
    "localdomain",
    "localhost",
    "mail",
    "onion",
    "private",
    "test",
    "workgroup",
];

/// Whether strangers can register names right below `domain`: the Public Suffix List's ICANN section, which has `com` and
/// `co.uk`, and every single label it does not know.
///
/// The list's other section counts as registered: its companies hand names to strangers too (`github.io`), but also keep
/// their own there (`googleapis.com`).
fn is_public_suffix(domain: &HostName) -> bool {
    let name = domain.as_str();
    if PRIVATE_SUFFIXES.contains(&name) {
        return false;
    }
    let is_suffix = |name: &str| {
        psl::suffix(name.as_bytes()).is_some_and(|suffix| {
            suffix.as_bytes() == name.as_bytes() && suffix.typ() != Some(psl::Type::Private)
        })
    };
    // The list's own wildcards name a domain by what is below it: `*.kawasaki.jp`.
    is_suffix(name) || is_suffix(&format!("any.{name}"))
}

/// `allow_host`: one exact name.
pub(crate) fn exact(env: &str, text: &str) -> Result<HostPattern, Error> {
    if text.contains('*') {
        return Err(Error::PatternAsHost {
            env: env.to_owned(),
            text: text.to_owned(),
        });
    }
    match HostName::parse(text) {
        Ok(name) => Ok(HostPattern::Exact(name)),
        Err(source) => Err(Error::BadHost {
            env: env.to_owned(),
            source,
        }),
    }
}

/// `allow_host_pattern`: `*.domain`, or one exact name.
pub(crate) fn pattern(env: &str, text: &str) -> Result<HostPattern, Error> {
    if text == "*" {
        return Err(Error::AnyHostPattern {
            env: env.to_owned(),
        });
    }
    let pattern = HostPattern::parse(text).map_err(|source| Error::BadHost {
        env: env.to_owned(),
        source,
    })?;
    if let HostPattern::Suffix(domain) = &pattern
        && is_public_suffix(domain)
    {
        return Err(Error::PublicSuffix {
            env: env.to_owned(),
            pattern: text.to_owned(),
        });
    }
    Ok(pattern)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(answer: Result<HostPattern, Error>, expected: &str) {
        let text = match answer {
            Ok(pattern) => pattern.to_string(),
            Err(error) => {
                let source = std::error::Error::source(&error)
                    .map_or_else(String::new, |source| format!(": {source}"));
                format!("{error}{source}")
            }
        };
        assert!(text.contains(expected), "{text}, expected {expected}");
    }

    #[test]
    fn hosts_and_patterns_are_canonical() {
        check(exact("K", "API.Example.com."), "api.example.com");
        check(exact("K", "localhost"), "localhost");
        check(pattern("K", "*.GoogleAPIs.com"), "*.googleapis.com");
        check(pattern("K", "api.example.com"), "api.example.com");
    }

    /// Attack 6.
    #[test]
    fn wildcards_that_cover_strangers_are_refused() {
        check(pattern("K", "*"), "allow_any_host_dangerous");
        for text in [
            "*.com",
            "*.ORG.",
            "*.dev",
            "*.arpa",
            "*.co.uk",
            "*.kawasaki.jp",
            "*.xn--p1ai",
            "*.unknownlabel",
        ] {
            check(pattern("K", text), "public suffix");
        }
        for text in [
            "*.test",
            "*.internal",
            "*.local",
            "*.localhost",
            "*.lan",
            "*.home.arpa",
            "*.corp",
            "*.example",
            "*.example.co.uk",
            "*.city.kawasaki.jp",
            "*.googleapis.com",
            "*.github.io",
        ] {
            check(pattern("K", text), text);
        }
        check(pattern("K", "**"), "is not a host pattern");
        check(pattern("K", "api.*.com"), "is not a host pattern");
        check(pattern("K", "*evil.com"), "is not a host pattern");
    }

    #[test]
    fn what_is_not_a_host_is_refused() {
        check(exact("K", "*.a.com"), "allow_host_pattern");
        check(exact("K", "*"), "allow_host_pattern");
        check(exact("K", ""), "allowed host: \"\" is not a host name");
        check(exact("K", "a.com:443"), "is not a host name");
        check(exact("K", "https://a.com"), "is not a host name");
        check(exact("K", "10.0.0.1"), "an IP address is not a name");
        check(exact("K", "[::1]"), "is not a host name");
    }
}
