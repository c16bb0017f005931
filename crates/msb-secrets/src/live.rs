//! Secrets that change while a sandbox runs: each request works with one snapshot, and the next one sees what is new.

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use zeroize::Zeroizing;

use crate::builder::{check_header_value, host_patterns};
use crate::scrub::Values;
use crate::set::{Entry, Inner};
use crate::{Error, SecretSet, SecretValue};

/// The secrets of a running sandbox.
///
/// [`load`](Self::load) answers an immutable snapshot, to be taken once per request; changes make a new one and never
/// wait for a request. Placeholders and the guest's environment do not change. Cheap to read from many threads.
pub struct LiveSecrets {
    current: ArcSwap<Inner>,
    /// Held while a new snapshot is made of the current one.
    change: Mutex<()>,
}

impl LiveSecrets {
    /// Starts with `secrets`.
    #[must_use]
    pub fn new(secrets: SecretSet) -> Self {
        Self {
            current: ArcSwap::new(secrets.0),
            change: Mutex::new(()),
        }
    }

    /// What holds now.
    #[must_use]
    pub fn load(&self) -> SecretSet {
        SecretSet(self.current.load_full())
    }

    /// Gives the secret for `env` another value. Requests under way go on with the former one, which is wiped when the
    /// last of them ends; from then on it is no longer looked for in responses.
    ///
    /// # Errors
    /// [`Error::UnknownSecret`] (also for a revoked one), [`Error::MissingValue`], [`Error::BadValue`],
    /// [`Error::PlaceholderHoldsValue`]. Nothing has changed then.
    pub fn rotate(&self, env: &str, value: impl Into<String>) -> Result<(), Error> {
        let value = Zeroizing::new(value.into());
        self.change(env, |secrets, index| {
            if value.is_empty() {
                return Err(Error::MissingValue {
                    env: env.to_owned(),
                });
            }
            let scopes = secrets[index].scopes;
            if scopes.headers || scopes.basic_auth {
                check_header_value(env, &value)?;
            }
            if let Some(other) = secrets
                .iter()
                .find(|secret| secret.placeholder.contains(value.as_str()))
            {
                return Err(Error::PlaceholderHoldsValue {
                    placeholder_of: other.env.to_string(),
                    value_of: env.to_owned(),
                });
            }
            let secret = &mut secrets[index];
            secret.value = Some(Arc::new(SecretValue::new(secret.id, value)));
            Ok(())
        })
    }

    /// Leaves the secret for `env` allowed for these hosts only: exact ones, or patterns such as `*.example.com`.
    ///
    /// # Errors
    /// [`Error::UnknownSecret`], [`Error::NotNarrower`] if one of them was not allowed before, and those of
    /// [`SecretBuilder::allow_host_pattern`](crate::SecretBuilder::allow_host_pattern). Nothing has changed then.
    pub fn narrow<T: AsRef<str>>(
        &self,
        env: &str,
        hosts: impl IntoIterator<Item = T>,
    ) -> Result<(), Error> {
        let patterns = host_patterns(env, hosts)?;
        self.change(env, |secrets, index| {
            let secret = &mut secrets[index];
            secret.scope = secret.scope.narrowed(patterns).map_err(|pattern| {
                let pattern = pattern.to_string();
                let env = env.to_owned();
                Error::NotNarrower { env, pattern }
            })?;
            Ok(())
        })
    }

    /// Takes the secret for `env` out of use at once, in requests under way as well. Its placeholder is then a violation
    /// wherever it goes, and its value is wiped when the last request under way ends.
    ///
    /// # Errors
    /// [`Error::UnknownSecret`].
    pub fn revoke(&self, env: &str) -> Result<(), Error> {
        self.change(env, |secrets, index| {
            secrets[index].revoked.store(true, Ordering::SeqCst);
            secrets[index].value = None;
            Ok(())
        })
    }

    fn change(
        &self,
        env: &str,
        change: impl FnOnce(&mut Vec<Entry>, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        // What the lock guards is nothing that a panic could leave half done.
        let _guard = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.current.load_full();
        let mut secrets = current.secrets.clone();
        let index = secrets
            .iter()
            .position(|secret| &*secret.env == env && secret.value.is_some());
        let index = index.ok_or_else(|| Error::UnknownSecret {
            env: env.to_owned(),
        })?;
        change(&mut secrets, index)?;
        let values = Values::new(&secrets);
        self.current.store(Arc::new(Inner {
            secrets,
            engine: Arc::clone(&current.engine),
            values,
        }));
        Ok(())
    }
}

impl fmt::Debug for LiveSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LiveSecrets").field(&self.load()).finish()
    }
}

#[cfg(test)]
mod tests;
