//! What a placeholder in some place comes to: written, left alone, or refused.

use std::fmt;
use std::sync::Arc;

use msb_name::Authority;
use msb_policy::{InjectGrant, InterceptedConnection, Refusal, check_identity, grant_injection};

use crate::engine::Found;
use crate::set::{Entry, Inner};
use crate::{Form, Location, Violation};

/// Notes kept by one rewriter; a guest can make no more, however many headers it sends.
const MOST_NOTES: usize = 64;

/// Something worth an event that was no violation. Equal notes of one rewriter are given once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    kind: NoteKind,
    env: Arc<str>,
    location: Location,
    form: Form,
}

/// What a [`Note`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NoteKind {
    /// The placeholder was replaced by the value.
    Substituted,
    /// The host may receive the value, but the secret is not injected in this place or form; the placeholder was sent.
    LeftAlone,
    /// The host may see the placeholder, though not the value; the placeholder was sent.
    PassedThrough,
    /// The value came back in a response and was taken out.
    Scrubbed,
}

impl Note {
    /// What happened.
    #[must_use]
    pub fn kind(&self) -> NoteKind {
        self.kind
    }

    /// The environment variable of the secret.
    #[must_use]
    pub fn env(&self) -> &str {
        &self.env
    }

    /// Where the placeholder stood.
    #[must_use]
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// How it was written.
    #[must_use]
    pub fn form(&self) -> Form {
        self.form
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            env,
            location,
            form,
        } = self;
        match kind {
            NoteKind::Substituted => write!(f, "secret {env} written to {location} ({form})"),
            NoteKind::Scrubbed => {
                write!(f, "value of secret {env} taken out of {location} ({form})")
            }
            NoteKind::PassedThrough => write!(
                f,
                "placeholder of secret {env} passed through in {location} ({form})"
            ),
            NoteKind::LeftAlone => write!(
                f,
                "placeholder of secret {env} left in {location} ({form}): the secret is not injected there"
            ),
        }
    }
}

/// What is known about where the bytes go.
#[derive(Clone, Debug)]
pub(crate) enum Gate {
    /// A request on an intercepted connection.
    Request(Arc<(InterceptedConnection, Authority)>),
    /// Nothing.
    Plain,
}

impl Gate {
    pub(crate) fn request(connection: &InterceptedConnection, authority: &Authority) -> Self {
        Self::Request(Arc::new((connection.clone(), authority.clone())))
    }
}

/// Decides about matches and keeps the notes.
pub(crate) struct Judge {
    pub(crate) set: Arc<Inner>,
    pub(crate) docket: Docket,
}

/// Where the bytes go, and what was decided.
pub(crate) struct Docket {
    gate: Gate,
    notes: Notes,
    wrote: bool,
}

/// Notes, each once, and no more than [`MOST_NOTES`].
#[derive(Debug, Default)]
pub(crate) struct Notes(Vec<Note>);

impl Notes {
    pub(crate) fn add(&mut self, kind: NoteKind, env: Arc<str>, location: Location, form: Form) {
        let note = Note {
            kind,
            env,
            location,
            form,
        };
        if self.0.len() < MOST_NOTES && !self.0.contains(&note) {
            self.0.push(note);
        }
    }

    pub(crate) fn take(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.0)
    }
}

impl Judge {
    pub(crate) fn new(set: Arc<Inner>, gate: Gate) -> Self {
        let docket = Docket {
            gate,
            notes: Notes::default(),
            wrote: false,
        };
        Self { set, docket }
    }

    /// The same place in the world, without the notes.
    pub(crate) fn another(&self) -> Self {
        Self::new(Arc::clone(&self.set), self.docket.gate.clone())
    }

    /// The values that may be written, with their secrets.
    pub(crate) fn granted(&self) -> impl Iterator<Item = (&Entry, InjectGrant)> {
        let secrets = self.set.secrets.iter();
        secrets.filter_map(|secret| Some((secret, self.docket.grant(secret).ok()?)))
    }

    /// Whether a grant was given.
    pub(crate) fn wrote(&self) -> bool {
        self.docket.wrote
    }

    pub(crate) fn take_notes(&mut self) -> Vec<Note> {
        self.docket.notes.take()
    }
}

impl Docket {
    fn grant(&self, secret: &Entry) -> Result<InjectGrant, Refusal> {
        if secret.is_revoked() {
            return Err(Refusal::Revoked);
        }
        match &self.gate {
            Gate::Request(request) => {
                grant_injection(secret.id, &secret.scope, &request.0, &request.1)
            }
            Gate::Plain => Err(Refusal::NotIntercepted),
        }
    }

    /// Whether the placeholder itself may go where the bytes go.
    fn passes(&self, secret: &Entry) -> bool {
        let Gate::Request(request) = &self.gate else {
            return false;
        };
        let (connection, authority) = &**request;
        let known = connection
            .host()
            .name()
            .is_some_and(|host| secret.passthrough.matches(host));
        known && !secret.is_revoked() && check_identity(connection, authority).is_ok()
    }

    /// Whether the placeholder may go where the bytes go, as itself or as its value.
    pub(crate) fn permits(&self, secret: &Entry) -> bool {
        self.grant(secret).is_ok() || self.passes(secret)
    }

    /// A grant if the value is to be written, `None` if the placeholder stays.
    ///
    /// `form` is how the placeholder was written, as reports show it; `injects` tells whether the secret is injected at
    /// this place in this form.
    pub(crate) fn judge(
        &mut self,
        set: &Inner,
        found: &Found,
        form: Form,
        location: impl FnOnce() -> Location,
        injects: impl FnOnce(&Entry) -> bool,
    ) -> Result<Option<InjectGrant>, Violation> {
        let secret = &set.secrets[found.needle];
        let grant = match self.grant(secret) {
            Ok(grant) => grant,
            Err(_) if self.passes(secret) => {
                let env = Arc::clone(&secret.env);
                self.notes
                    .add(NoteKind::PassedThrough, env, location(), form);
                return Ok(None);
            }
            Err(refusal) => {
                // Nothing of the request goes out, so nothing was substituted or left alone.
                self.notes.take();
                return Err(Violation {
                    env: Arc::clone(&secret.env),
                    location: location(),
                    form,
                    refusal,
                });
            }
        };
        let injected = injects(secret);
        let kind = if injected {
            NoteKind::Substituted
        } else {
            NoteKind::LeftAlone
        };
        self.wrote |= injected;
        self.notes
            .add(kind, Arc::clone(&secret.env), location(), form);
        Ok(injected.then_some(grant))
    }
}

impl fmt::Debug for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Judge")
            .field("gate", &self.docket.gate)
            .field("notes", &self.docket.notes)
            .finish_non_exhaustive()
    }
}
