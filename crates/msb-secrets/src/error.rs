//! What can be wrong with a secret's configuration. Names the secret, never its value.

/// A secret, or a set of them, that cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No name for the environment variable.
    #[error("a secret has no environment variable: call env(\"NAME\")")]
    MissingEnv,
    /// A name that cannot be an environment variable, or should not be one.
    #[error("secret {env:?}: {problem}")]
    BadEnv {
        /// The name.
        env: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A name that changes how programs in the guest run.
    #[error(
        "secret {env:?}: {reason}; a placeholder there would break or subvert programs in the guest, so use another name"
    )]
    DangerousEnv {
        /// The name.
        env: String,
        /// What the variable does.
        reason: &'static str,
    },
    /// No value, or an empty one.
    #[error("secret {env:?} has no value: call value(..) with a text that is not empty")]
    MissingValue {
        /// The secret.
        env: String,
    },
    /// A value that cannot stand where it is to be injected.
    #[error(
        "the value of secret {env:?} contains {what}, which cannot stand in a header (a line break at its end is a usual cause)"
    )]
    BadValue {
        /// The secret.
        env: String,
        /// The kind of character.
        what: &'static str,
    },
    /// No host, so that nothing would ever be injected.
    #[error("secret {env:?} is allowed for no host: call allow_host(..) or allow_host_pattern(..)")]
    MissingHost {
        /// The secret.
        env: String,
    },
    /// A host or host pattern that is malformed.
    #[error("secret {env:?}: allowed host")]
    BadHost {
        /// The secret.
        env: String,
        /// What is wrong.
        #[source]
        source: msb_name::Error,
    },
    /// A pattern where one host is expected.
    #[error(
        "secret {env:?}: {text:?} is not one exact host; for a wildcard call allow_host_pattern or passthrough_host_pattern"
    )]
    PatternAsHost {
        /// The secret.
        env: String,
        /// The text.
        text: String,
    },
    /// `*` as a pattern.
    #[error(
        "secret {env:?}: the pattern \"*\" covers every host; if the value may go to every host, call allow_any_host_dangerous(true)"
    )]
    AnyHostPattern {
        /// The secret.
        env: String,
    },
    /// A pattern over a public suffix.
    #[error(
        "secret {env:?}: the pattern {pattern:?} covers everything below a public suffix, which anyone can register in; name the domain, as in \"*.example.com\""
    )]
    PublicSuffix {
        /// The secret.
        env: String,
        /// The pattern.
        pattern: String,
    },
    /// A placeholder that cannot be one.
    #[error("secret {env:?}: the placeholder {problem}")]
    BadPlaceholder {
        /// The secret.
        env: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A value that nothing can be made to look like.
    #[error(
        "secret {env:?}: for placeholder_like_value its value {problem}; choose a placeholder(..) instead"
    )]
    NoLikeness {
        /// The secret.
        env: String,
        /// What is wrong with the value.
        problem: &'static str,
    },
    /// Every scope is switched off.
    #[error(
        "secret {env:?} is injected nowhere: leave inject_headers or inject_basic_auth on, or switch inject_query or inject_body on"
    )]
    NothingInjected {
        /// The secret.
        env: String,
    },
    /// Two secrets for one variable.
    #[error("secret {env:?} is defined twice")]
    DuplicateEnv {
        /// The name.
        env: String,
    },
    /// Two secrets with one placeholder.
    #[error(
        "secrets {first:?} and {second:?} have the same placeholder, so none of the two can be told from the other"
    )]
    DuplicatePlaceholder {
        /// One secret.
        first: String,
        /// The other.
        second: String,
    },
    /// The placeholder of one secret holds the value of one.
    #[error(
        "the placeholder of secret {placeholder_of:?} contains the value of secret {value_of:?}, which would enter the guest with it"
    )]
    PlaceholderHoldsValue {
        /// Whose placeholder.
        placeholder_of: String,
        /// Whose value.
        value_of: String,
    },
    /// No secret for this variable, or one that was revoked.
    #[error("there is no secret {env:?} that could be changed")]
    UnknownSecret {
        /// The name.
        env: String,
    },
    /// A host that the secret is not allowed for, where its hosts are to become fewer.
    #[error(
        "secret {env:?}: {pattern} is not among the hosts it is allowed for, which can only be narrowed"
    )]
    NotNarrower {
        /// The secret.
        env: String,
        /// The host or pattern.
        pattern: String,
    },
    /// More secrets than can be numbered.
    #[error("{count} secrets are too many")]
    TooMany {
        /// How many there are.
        count: usize,
    },
}
