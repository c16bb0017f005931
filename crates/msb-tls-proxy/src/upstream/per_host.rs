//! What is different for some servers: whom else to trust, not to verify at all, which certificate to present.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use msb_name::{Host, HostName, HostPattern};
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::Error;

/// One setting for the servers that a pattern covers.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) pattern: HostPattern,
    pub(super) setting: Setting,
}

#[derive(Clone, Debug)]
pub(super) enum Setting {
    /// Trust these authorities, too.
    CaFile(PathBuf),
    /// Trust anybody.
    NoVerification,
    /// Present a certificate.
    ClientCertificate { chain: PathBuf, key: PathBuf },
}

/// All that holds for the servers a pattern covers, the rules for wider patterns included.
#[derive(Debug, Default)]
pub(super) struct Settings<'a> {
    pub(super) ca_files: Vec<&'a PathBuf>,
    pub(super) no_verification: bool,
    /// That of the narrowest pattern.
    pub(super) client_certificate: Option<(&'a PathBuf, &'a PathBuf)>,
}

/// The settings for each pattern there is a rule for.
pub(super) fn settings(rules: &[Rule]) -> Result<Vec<(&HostPattern, Settings<'_>)>, Error> {
    let mut all: Vec<(&HostPattern, Settings<'_>)> = Vec::new();
    for Rule { pattern, .. } in rules {
        if all.iter().any(|(known, _)| *known == pattern) {
            continue;
        }
        let mut wider: Vec<&Rule> = rules
            .iter()
            .filter(|rule| covers(&rule.pattern, pattern))
            .collect();
        wider.sort_by_key(|rule| width(&rule.pattern));
        let mut settings = Settings::default();
        let mut certified_by = None;
        for rule in wider {
            match &rule.setting {
                Setting::CaFile(path) => settings.ca_files.push(path),
                Setting::NoVerification => settings.no_verification = true,
                Setting::ClientCertificate { chain, key } => {
                    if certified_by == Some(&rule.pattern) {
                        return Err(Error::TwoClientCertificates {
                            pattern: rule.pattern.to_string(),
                        });
                    }
                    if certified_by.is_none() {
                        settings.client_certificate = Some((chain, key));
                        certified_by = Some(&rule.pattern);
                    }
                }
            }
        }
        all.push((pattern, settings));
    }
    Ok(all)
}

/// Whether every host that `pattern` covers is covered by `wide`.
fn covers(wide: &HostPattern, pattern: &HostPattern) -> bool {
    match (wide, pattern) {
        (HostPattern::Suffix(wide), HostPattern::Suffix(domain)) => domain.is_within(wide),
        (wide, HostPattern::Exact(host)) => wide.matches(host),
        (HostPattern::Exact(_), HostPattern::Suffix(_)) => false,
    }
}

/// Smaller for narrower ones, among patterns that cover one host.
fn width(pattern: &HostPattern) -> (bool, std::cmp::Reverse<usize>) {
    let is_suffix = matches!(pattern, HostPattern::Suffix(_));
    (
        is_suffix,
        std::cmp::Reverse(pattern.domain().as_str().len()),
    )
}

/// Something for each pattern, found by the narrowest one that covers a host; one look-up per label.
#[derive(Clone, Debug)]
pub(super) struct PerHost<T> {
    exact: HashMap<HostName, T>,
    /// By the domain after `*.`.
    suffixes: HashMap<Arc<str>, T>,
}

impl<T> Default for PerHost<T> {
    fn default() -> Self {
        Self {
            exact: HashMap::new(),
            suffixes: HashMap::new(),
        }
    }
}

impl<T> PerHost<T> {
    pub(super) fn insert(&mut self, pattern: &HostPattern, value: T) {
        match pattern {
            HostPattern::Exact(host) => self.exact.insert(host.clone(), value),
            HostPattern::Suffix(domain) => self.suffixes.insert(domain.as_str().into(), value),
        };
    }

    pub(super) fn find(&self, host: &Host) -> Option<&T> {
        let name = host.name()?;
        let domains = || {
            let text = name.as_str();
            text.match_indices('.').map(|(at, _)| &text[at + 1..])
        };
        self.exact
            .get(name)
            .or_else(|| domains().find_map(|domain| self.suffixes.get(domain)))
    }
}

/// Reads a certificate chain and its key.
pub(super) fn read_client_certificate(
    chain: &PathBuf,
    key: &PathBuf,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, Error> {
    let read = |path: &PathBuf| {
        std::fs::read(path).map_err(|source| Error::UnreadableClientCertificate {
            path: path.clone(),
            source,
        })
    };
    let bad = |path: &PathBuf, reason: String| Error::BadClientCertificate {
        path: path.clone(),
        reason,
    };
    let certificates = CertificateDer::pem_slice_iter(&read(chain)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| bad(chain, error.to_string()))?;
    if certificates.is_empty() {
        return Err(bad(chain, "no PEM section `CERTIFICATE` found".to_owned()));
    }
    let text = zeroize::Zeroizing::new(read(key)?);
    let private = PrivateKeyDer::from_pem_slice(&text).map_err(|_| {
        bad(
            key,
            "no PEM section with an unencrypted key found".to_owned(),
        )
    })?;
    CertifiedKey::from_der(certificates, private, provider).map_err(|error| {
        let reason = match error {
            rustls::Error::InconsistentKeys(_) => {
                format!(
                    "the key is not that of the certificate in {}",
                    chain.display()
                )
            }
            // Reasons of the library could tell what it read.
            _ => "the key, or the certificate it is for, cannot be used".to_owned(),
        };
        bad(key, reason)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> HostPattern {
        text.parse().unwrap()
    }

    fn rule(text: &str, setting: Setting) -> Rule {
        Rule {
            pattern: pattern(text),
            setting,
        }
    }

    fn certificate(name: &str) -> Setting {
        Setting::ClientCertificate {
            chain: name.into(),
            key: name.into(),
        }
    }

    fn ca(name: &str) -> Setting {
        Setting::CaFile(name.into())
    }

    /// What holds for `host`: authorities, whether it is verified, its certificate.
    #[track_caller]
    fn check(rules: &[Rule], host: &str, expected: &str) {
        let mut per_host = PerHost::default();
        for (pattern, settings) in settings(rules).unwrap() {
            per_host.insert(pattern, settings);
        }
        let text = |settings: &Settings<'_>| {
            let mut files: Vec<_> = settings
                .ca_files
                .iter()
                .map(|path| path.display().to_string())
                .collect();
            files.sort();
            let certificate = settings
                .client_certificate
                .map(|(chain, _)| chain.display().to_string());
            let verified = if settings.no_verification {
                "unverified"
            } else {
                "verified"
            };
            format!(
                "{} {verified} {}",
                files.join("+"),
                certificate.unwrap_or_default()
            )
        };
        let found = per_host.find(&host.parse().unwrap());
        assert_eq!(found.map(text).unwrap_or_default(), expected, "{host}");
    }

    #[test]
    fn rules_for_all_patterns_that_cover_a_host_hold_for_it() {
        let rules = [
            rule("*.test", ca("wide")),
            rule("*.a.test", ca("middle")),
            rule("*.a.test", ca("second")),
            rule("x.a.test", Setting::NoVerification),
            rule("*.test", certificate("wide-id")),
            rule("*.a.test", certificate("middle-id")),
        ];
        check(
            &rules,
            "x.a.test",
            "middle+second+wide unverified middle-id",
        );
        check(&rules, "y.a.test", "middle+second+wide verified middle-id");
        check(
            &rules,
            "z.y.a.test",
            "middle+second+wide verified middle-id",
        );
        check(&rules, "a.test", "wide verified wide-id");
        check(&rules, "b.test", "wide verified wide-id");
        check(&rules, "test", "");
        check(&rules, "eviltest", "");
        check(&rules, "192.0.2.1", "");
        check(&[rule("x.test", Setting::NoVerification)], "y.x.test", "");
    }

    #[test]
    fn two_certificates_for_one_pattern_are_refused() {
        let twice = [
            rule("a.test", certificate("1")),
            rule("a.test", certificate("2")),
        ];
        let error = settings(&twice).unwrap_err().to_string();
        assert!(error.contains("a.test"), "{error}");
    }
}
