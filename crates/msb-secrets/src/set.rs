//! All secrets of a sandbox as one immutable snapshot.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use msb_name::{Authority, HostPatternSet};
use msb_policy::{HostScope, InjectGrant, InterceptedConnection, SecretId};

use crate::builder::Scopes;
use crate::engine::{Engine, Key};
use crate::judge::{Gate, Judge};
use crate::scrub::Values;
use crate::{
    Error, Location, RequestRewriter, ResponseScrubber, Secret, SecretValue, StreamRewriter,
    StreamWatcher,
};

/// All secrets of a sandbox. Immutable; cloning copies a pointer, and what was made from a set keeps using it.
#[derive(Clone)]
pub struct SecretSet(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    /// A secret's [`SecretId`] is its index here, and its needle's in `engine`.
    pub(crate) secrets: Vec<Entry>,
    pub(crate) engine: Arc<Engine>,
    pub(crate) values: Values,
}

#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) id: SecretId,
    pub(crate) env: Arc<str>,
    pub(crate) placeholder: Arc<str>,
    pub(crate) scope: HostScope,
    pub(crate) passthrough: HostPatternSet,
    pub(crate) scopes: Scopes,
    pub(crate) scrub: bool,
    /// `None` once it is revoked.
    pub(crate) value: Option<Arc<SecretValue>>,
    /// Shared by all snapshots, so that it counts for requests under way.
    pub(crate) revoked: Arc<AtomicBool>,
}

impl Entry {
    pub(crate) fn is_revoked(&self) -> bool {
        self.value.is_none() || self.revoked.load(Ordering::SeqCst)
    }
}

impl Default for SecretSet {
    fn default() -> Self {
        Self(Arc::new(Inner {
            secrets: Vec::new(),
            engine: Arc::new(Engine::new(<[Key; 0]>::default())),
            values: Values::new(&[]),
        }))
    }
}

impl SecretSet {
    /// A set of secrets.
    ///
    /// # Errors
    /// [`Error::DuplicateEnv`], [`Error::DuplicatePlaceholder`], [`Error::PlaceholderHoldsValue`].
    pub fn new(secrets: Vec<Secret>) -> Result<Self, Error> {
        check_together(&secrets)?;
        let engine = Engine::new(secrets.iter().map(|secret| secret.placeholder.as_bytes()));
        let count = secrets.len();
        let numbered = secrets.into_iter().zip(0u32..).map(|(secret, number)| {
            let id = SecretId::new(number);
            let Secret {
                env,
                placeholder,
                scope,
                passthrough,
                scopes,
                scrub,
                value,
            } = secret;
            Entry {
                id,
                env,
                placeholder,
                scope,
                passthrough,
                scopes,
                scrub,
                value: Some(Arc::new(SecretValue::new(id, value))),
                revoked: Arc::default(),
            }
        });
        let secrets: Vec<_> = numbered.collect();
        if secrets.len() < count {
            return Err(Error::TooMany { count });
        }
        let values = Values::new(&secrets);
        Ok(Self(Arc::new(Inner {
            secrets,
            engine: Arc::new(engine),
            values,
        })))
    }

    /// Whether there is no secret, so that nothing is searched.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.secrets.is_empty()
    }

    /// Whether requests on plaintext HTTP connections have to be read one by one: for a secret that goes into them
    /// ([`SecretBuilder::require_tls_identity`](crate::SecretBuilder::require_tls_identity)), or for one whose placeholder
    /// may be seen by some hosts.
    #[must_use]
    pub fn reads_plaintext(&self) -> bool {
        let reads =
            |secret: &Entry| secret.scope.allows_plaintext() || !secret.passthrough.is_empty();
        self.0.secrets.iter().any(reads)
    }

    /// The guest's environment: variable and placeholder of each secret.
    pub fn env(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .secrets
            .iter()
            .map(|secret| (&*secret.env, &*secret.placeholder))
    }

    /// The id and the hosts of the secret for `env`.
    #[must_use]
    pub fn scope(&self, env: &str) -> Option<(SecretId, &HostScope)> {
        let secret = self.0.secrets.iter().find(|secret| &*secret.env == env)?;
        Some((secret.id, &secret.scope))
    }

    /// The value of the secret with this id, for who holds a grant; `None` once it is revoked.
    #[must_use]
    pub fn value(&self, id: SecretId) -> Option<&SecretValue> {
        let secret = self.0.secrets.get(usize::try_from(id.number()).ok()?)?;
        secret.value.as_deref()
    }

    /// What rewrites one request on a connection that is inspected: intercepted TLS, or plaintext HTTP. `authority` is the
    /// one of this very request.
    #[must_use]
    pub fn request(
        &self,
        connection: &InterceptedConnection,
        authority: &Authority,
    ) -> RequestRewriter {
        RequestRewriter::new(Judge::new(
            Arc::clone(&self.0),
            Gate::request(connection, authority),
        ))
    }

    /// What takes this set's values out of one response.
    #[must_use]
    pub fn response(&self) -> ResponseScrubber {
        ResponseScrubber::new(Arc::clone(&self.0))
    }

    /// What searches what a guest sends on an intercepted connection that does not carry HTTP. Nothing is written; what
    /// may go there is decided by the connection's host alone, since nothing else is known.
    #[must_use]
    pub fn payload(&self, connection: &InterceptedConnection) -> StreamWatcher {
        let authority = Authority::new(connection.host().clone(), None);
        let gate = Gate::request(connection, &authority);
        let judge = Judge::new(Arc::clone(&self.0), gate);
        StreamRewriter::new(judge, Location::Payload, None).watching()
    }

    /// What searches one direction of a connection that is not inspected: every placeholder is a violation, since nobody
    /// knows the host at the other end.
    #[must_use]
    pub fn plain(&self) -> StreamRewriter {
        StreamRewriter::new(
            Judge::new(Arc::clone(&self.0), Gate::Plain),
            Location::Plain,
            None,
        )
    }
}

impl Inner {
    /// The value that a grant of this set's own judge is for.
    pub(crate) fn value(&self, grant: &InjectGrant) -> &[u8] {
        let secret = usize::try_from(grant.secret().number())
            .ok()
            .and_then(|index| self.secrets.get(index));
        let value = secret.and_then(|secret| secret.value.as_ref()?.expose(grant));
        value.expect("a secret's id is its index in the set that granted, and grants are for values that are there")
    }
}

/// What one secret cannot know of the others.
fn check_together(secrets: &[Secret]) -> Result<(), Error> {
    for (i, secret) in secrets.iter().enumerate() {
        for other in &secrets[..i] {
            if secret.env == other.env {
                return Err(Error::DuplicateEnv {
                    env: secret.env.to_string(),
                });
            }
            if secret.placeholder == other.placeholder {
                return Err(Error::DuplicatePlaceholder {
                    first: other.env.to_string(),
                    second: secret.env.to_string(),
                });
            }
        }
        if let Some(other) = secrets
            .iter()
            .find(|other| secret.placeholder.contains(other.value.as_str()))
        {
            let (placeholder_of, value_of) = (secret.env.to_string(), other.env.to_string());
            return Err(Error::PlaceholderHoldsValue {
                placeholder_of,
                value_of,
            });
        }
    }
    Ok(())
}

impl fmt::Debug for SecretSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.env()).finish()
    }
}
