//! Building one secret: the calls as documented for users, checked as a whole by `build`.

use std::sync::Arc;

use msb_name::{HostPattern, HostPatternSet};
use msb_policy::HostScope;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::value::PendingValue;
use crate::{Error, env, hosts, likeness};

/// The longest placeholder in bytes. It bounds what a streaming search keeps back (9 times as much).
pub const MAX_PLACEHOLDER_LEN: usize = 1024;

/// Builds one [`Secret`]: a placeholder that the guest gets, and a real value for the allowed hosts.
///
/// Setters take the builder and return it; whatever is wrong is reported by [`build`](Self::build). Later calls of a
/// setter replace earlier ones, except for the hosts, which add up. `Debug` does not show the value.
#[derive(Debug, Default)]
pub struct SecretBuilder {
    settings: SecretSettings,
    value: PendingValue,
}

/// All that a [`SecretBuilder`] was told but the value: what may be written down of a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretSettings {
    env: Option<String>,
    placeholder: Placeholder,
    hosts: Vec<String>,
    patterns: Vec<String>,
    passthrough_hosts: Vec<String>,
    passthrough_patterns: Vec<String>,
    any_host: bool,
    unverified: bool,
    scopes: Scopes,
    scrub: bool,
    require_tls_identity: bool,
}

impl SecretSettings {
    /// The environment variable that holds the placeholder, if it was told.
    #[must_use]
    pub fn env(&self) -> Option<&str> {
        self.env.as_deref()
    }
}

/// Where a secret's placeholder comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Placeholder {
    OfEnv,
    Own(String),
    LikeValue,
}

/// Where a secret is injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scopes {
    pub(crate) headers: bool,
    pub(crate) basic_auth: bool,
    pub(crate) query: bool,
    pub(crate) body: bool,
}

impl Default for SecretSettings {
    fn default() -> Self {
        Self {
            env: None,
            placeholder: Placeholder::OfEnv,
            hosts: Vec::new(),
            patterns: Vec::new(),
            passthrough_hosts: Vec::new(),
            passthrough_patterns: Vec::new(),
            any_host: false,
            unverified: false,
            scopes: Scopes {
                headers: true,
                basic_auth: true,
                query: false,
                body: false,
            },
            scrub: true,
            require_tls_identity: true,
        }
    }
}

impl SecretBuilder {
    /// A builder with the defaults: headers and Basic credentials on, query and body off, TLS identity required.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The environment variable that holds the placeholder inside the guest. Required.
    #[must_use]
    pub fn env(mut self, var: impl Into<String>) -> Self {
        self.settings.env = Some(var.into());
        self
    }

    /// The real value, which replaces the placeholder in requests to allowed hosts and never enters the guest.
    /// Required.
    #[must_use]
    pub fn value(mut self, value: impl Into<String>) -> Self {
        self.value = PendingValue(Some(Zeroizing::new(value.into())));
        self
    }

    /// The real value, as a source gave it.
    #[cfg(feature = "sources")]
    #[must_use]
    pub fn source_value(mut self, value: crate::SourceValue) -> Self {
        self.value = PendingValue(Some(value.0));
        self
    }

    /// Adds one host that may receive the value, such as `api.openai.com`.
    #[must_use]
    pub fn allow_host(mut self, host: impl Into<String>) -> Self {
        self.settings.hosts.push(host.into());
        self
    }

    /// Adds every host below a domain, such as `*.googleapis.com`: any depth, not the domain itself.
    ///
    /// `*` alone and a public suffix such as `*.com` are refused.
    #[must_use]
    pub fn allow_host_pattern(mut self, pattern: impl Into<String>) -> Self {
        self.settings.patterns.push(pattern.into());
        self
    }

    /// Allows every host: any server the guest connects to can then obtain the value. `false` has no effect.
    #[must_use]
    pub fn allow_any_host_dangerous(mut self, i_understand_the_risk: bool) -> Self {
        self.settings.any_host |= i_understand_the_risk;
        self
    }

    /// Allows hosts for which certificate verification is switched off: whoever answers in their place can then obtain
    /// the value. `false` has no effect.
    #[must_use]
    pub fn allow_unverified_upstream_dangerous(mut self, i_understand_the_risk: bool) -> Self {
        self.settings.unverified |= i_understand_the_risk;
        self
    }

    /// Adds one host that may see the placeholder itself, such as that of a language model whose transcripts mention it.
    ///
    /// There the placeholder is sent as it is instead of being a violation, wherever in a request it stands. The value
    /// still goes to allowed hosts only.
    #[must_use]
    pub fn passthrough_host(mut self, host: impl Into<String>) -> Self {
        self.settings.passthrough_hosts.push(host.into());
        self
    }

    /// Adds every host below a domain to those that may see the placeholder; patterns as for
    /// [`allow_host_pattern`](Self::allow_host_pattern).
    #[must_use]
    pub fn passthrough_host_pattern(mut self, pattern: impl Into<String>) -> Self {
        self.settings.passthrough_patterns.push(pattern.into());
        self
    }

    /// Whether the placeholder is replaced in any header value and trailer. Default: true.
    #[must_use]
    pub fn inject_headers(mut self, enabled: bool) -> Self {
        self.settings.scopes.headers = enabled;
        self
    }

    /// Whether the placeholder is replaced in `Authorization` and `Proxy-Authorization`, inside base64 `Basic`
    /// credentials too, when `inject_headers` is off. Default: true; no additional effect when headers are on.
    #[must_use]
    pub fn inject_basic_auth(mut self, enabled: bool) -> Self {
        self.settings.scopes.basic_auth = enabled;
        self
    }

    /// Whether the placeholder is replaced in the query of the URL, by the percent-encoded value. Default: false.
    ///
    /// It needs a proxy that calls [`RequestRewriter::rewrite_target`](crate::RequestRewriter::rewrite_target).
    #[must_use]
    pub fn inject_query(mut self, enabled: bool) -> Self {
        self.settings.scopes.query = enabled;
        self
    }

    /// Whether the placeholder is replaced in the request's body, by the value escaped for the content type. Default:
    /// false.
    ///
    /// It needs a proxy that calls [`RequestRewriter::rewrite_body`](crate::RequestRewriter::rewrite_body).
    #[must_use]
    pub fn inject_body(mut self, enabled: bool) -> Self {
        self.settings.scopes.body = enabled;
        self
    }

    /// Whether the value is taken out of responses. Default: true.
    ///
    /// Values of fewer than [`SHORTEST_SCRUBBED`](crate::SHORTEST_SCRUBBED) bytes are not.
    #[must_use]
    pub fn scrub_responses(mut self, enabled: bool) -> Self {
        self.settings.scrub = enabled;
        self
    }

    /// A placeholder of one's own, for a specific format or length. Default: `$MSB_` and the variable's name.
    ///
    /// 1 to [`MAX_PLACEHOLDER_LEN`] bytes, no line break, no NUL.
    #[must_use]
    pub fn placeholder(mut self, placeholder: impl Into<String>) -> Self {
        self.settings.placeholder = Placeholder::Own(placeholder.into());
        self
    }

    /// A placeholder that looks like the value: with its prefix (`sk-proj-`, `ghp_`), its length, its separators and its
    /// kinds of characters. For libraries that check a key's format, and so that no length changes when it is replaced.
    ///
    /// It tells the guest that much of the value and no more; apart from that it depends on the variable's name alone. The
    /// value needs 12 characters behind its prefix, so that its likeness stands nowhere by chance.
    #[must_use]
    pub fn placeholder_like_value(mut self) -> Self {
        self.settings.placeholder = Placeholder::LikeValue;
        self
    }

    /// Whether the value is only injected on intercepted TLS whose server was verified. Default: true.
    ///
    /// Switched off, it is injected into plaintext HTTP to an allowed host as well; whoever is on the way there can then
    /// obtain the value. TLS connections are as before: where they are not intercepted nothing can be written into them.
    #[must_use]
    pub fn require_tls_identity(mut self, enabled: bool) -> Self {
        self.settings.require_tls_identity = enabled;
        self
    }

    /// All that was told but the value.
    #[must_use]
    pub fn settings(&self) -> &SecretSettings {
        &self.settings
    }

    /// A builder that was told this, and no value yet.
    #[must_use]
    pub fn from_settings(settings: SecretSettings) -> Self {
        Self {
            settings,
            value: PendingValue::default(),
        }
    }

    /// Takes the value out again: for a process that hands it to the one which will hold the secret, and for nothing else.
    #[must_use]
    pub fn danger_take_value(&mut self) -> Option<Zeroizing<String>> {
        self.value.0.take()
    }

    /// Checks everything and makes the secret.
    ///
    /// # Errors
    /// The first thing that is missing, malformed or dangerous. Errors name the secret by its
    /// variable and never contain the value.
    pub fn build(self) -> Result<Secret, Error> {
        let env = self.settings.env.clone().ok_or(Error::MissingEnv)?;
        env::check(&env)?;
        self.check_scopes(&env)?;
        let scope = self.scope(&env)?;
        let passthrough = patterns(
            &env,
            &self.settings.passthrough_hosts,
            &self.settings.passthrough_patterns,
        )?;
        let value = self.value.0.filter(|value| !value.is_empty());
        let value = value.ok_or_else(|| Error::MissingValue { env: env.clone() })?;
        let placeholder = match self.settings.placeholder {
            Placeholder::OfEnv => format!("$MSB_{env}"),
            Placeholder::Own(text) => text,
            Placeholder::LikeValue => likeness::of(&env, &value)?,
        };
        check_placeholder(&env, &placeholder)?;
        if self.settings.scopes.headers || self.settings.scopes.basic_auth {
            check_header_value(&env, &value)?;
        }
        Ok(Secret {
            env: env.into(),
            placeholder: placeholder.into(),
            scope,
            passthrough: passthrough.into_iter().collect(),
            scopes: self.settings.scopes,
            scrub: self.settings.scrub,
            value,
        })
    }

    fn check_scopes(&self, env: &str) -> Result<(), Error> {
        let Scopes {
            headers,
            basic_auth,
            query,
            body,
        } = self.settings.scopes;
        if !(headers || basic_auth || query || body) {
            return Err(Error::NothingInjected {
                env: env.to_owned(),
            });
        }
        Ok(())
    }

    fn scope(&self, env: &str) -> Result<HostScope, Error> {
        let patterns = patterns(env, &self.settings.hosts, &self.settings.patterns)?;
        if patterns.is_empty() && !self.settings.any_host {
            return Err(Error::MissingHost {
                env: env.to_owned(),
            });
        }
        Ok(HostScope::new(patterns)
            .dangerous_any_host(self.settings.any_host)
            .dangerous_allow_unverified(self.settings.unverified)
            .dangerous_allow_plaintext(!self.settings.require_tls_identity))
    }
}

/// Exact hosts and host patterns.
fn patterns(env: &str, hosts: &[String], patterns: &[String]) -> Result<Vec<HostPattern>, Error> {
    let hosts = hosts.iter().map(|host| hosts::exact(env, host));
    let patterns = patterns.iter().map(|pattern| hosts::pattern(env, pattern));
    hosts.chain(patterns).collect()
}

/// Hosts and host patterns in one list.
pub(crate) fn host_patterns<T: AsRef<str>>(
    env: &str,
    texts: impl IntoIterator<Item = T>,
) -> Result<Vec<HostPattern>, Error> {
    let mut texts = texts.into_iter();
    texts.try_fold(Vec::new(), |mut patterns, text| {
        patterns.push(hosts::pattern(env, text.as_ref())?);
        Ok(patterns)
    })
}

fn check_placeholder(env: &str, placeholder: &str) -> Result<(), Error> {
    let problem = if placeholder.is_empty() {
        "is empty"
    } else if placeholder.len() > MAX_PLACEHOLDER_LEN {
        "is longer than 1024 bytes"
    } else if placeholder.contains(['\r', '\n']) {
        "contains a line break"
    } else if placeholder.contains('\0') {
        "contains NUL, which no environment variable can hold"
    } else {
        return Ok(());
    };
    Err(Error::BadPlaceholder {
        env: env.to_owned(),
        problem,
    })
}

/// RFC 9110, section 5.5: a field value holds visible characters, spaces, tabs and bytes from 0x80.
pub(crate) fn check_header_value(env: &str, value: &str) -> Result<(), Error> {
    let what = if value.contains(['\r', '\n']) {
        "a line break"
    } else if value.contains('\0') {
        "NUL"
    } else if value.bytes().any(|b| b.is_ascii_control() && b != b'\t') {
        "a control character"
    } else {
        return Ok(());
    };
    Err(Error::BadValue {
        env: env.to_owned(),
        what,
    })
}

/// A checked secret, to be put into a [`SecretSet`](crate::SecretSet). `Debug` does not show the value.
pub struct Secret {
    pub(crate) env: Arc<str>,
    pub(crate) placeholder: Arc<str>,
    pub(crate) scope: HostScope,
    pub(crate) passthrough: HostPatternSet,
    pub(crate) scopes: Scopes,
    pub(crate) scrub: bool,
    pub(crate) value: Zeroizing<String>,
}

impl Secret {
    /// The environment variable in the guest.
    #[must_use]
    pub fn env(&self) -> &str {
        &self.env
    }

    /// What the variable holds there.
    #[must_use]
    pub fn placeholder(&self) -> &str {
        &self.placeholder
    }

    /// Whether it is injected into queries, which only some proxies do.
    #[must_use]
    pub fn injects_query(&self) -> bool {
        self.scopes.query
    }

    /// Whether it is injected into bodies, which only some proxies do.
    #[must_use]
    pub fn injects_body(&self) -> bool {
        self.scopes.body
    }

    /// Whether it is injected on verified, intercepted TLS only, and not into plaintext HTTP.
    #[must_use]
    pub fn requires_tls_identity(&self) -> bool {
        !self.scope.allows_plaintext()
    }

    /// The hosts that may see the placeholder.
    #[must_use]
    pub fn passthrough(&self) -> &HostPatternSet {
        &self.passthrough
    }

    /// The hosts that may receive the value.
    #[must_use]
    pub fn scope(&self) -> &HostScope {
        &self.scope
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            env,
            placeholder,
            scope,
            passthrough,
            scopes,
            scrub,
            value: _,
        } = self;
        f.debug_struct("Secret")
            .field("env", env)
            .field("placeholder", placeholder)
            .field("scope", scope)
            .field("passthrough", passthrough)
            .field("scopes", scopes)
            .field("scrub", scrub)
            .field("value", &format_args!("[redacted]"))
            .finish()
    }
}

#[cfg(test)]
mod tests;
