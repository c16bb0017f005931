//! How an image wants its program to be started.

use serde::{Deserialize, Serialize};

/// What an image's maker said about running it: the `config` of an OCI image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// Begins every command, if not empty.
    pub entrypoint: Vec<String>,
    /// Follows the entrypoint where no command is given.
    pub cmd: Vec<String>,
    /// Variables, as `NAME=VALUE`.
    pub env: Vec<String>,
    /// An absolute path, or empty.
    pub working_dir: String,
    /// `USER` or `USER:GROUP`, each a name or a number; or empty, which is root.
    pub user: String,
}

impl ImageConfig {
    /// The command line to run: the entrypoint, and behind it `command` or else the image's own. Empty if neither says
    /// anything.
    #[must_use]
    pub fn command(&self, command: &[String]) -> Vec<String> {
        let behind = if command.is_empty() {
            &self.cmd
        } else {
            command
        };
        [&self.entrypoint, behind].concat()
    }

    /// The variables as names and values.
    pub fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        self.env.iter().filter_map(|text| text.split_once('='))
    }

    /// What of it could not be handed to a guest.
    pub(crate) fn check(&self) -> Result<(), String> {
        let texts = [&self.entrypoint, &self.cmd, &self.env]
            .into_iter()
            .flatten();
        if texts
            .chain([&self.working_dir, &self.user])
            .any(|text| text.contains('\0'))
        {
            return Err("has a text with a NUL byte".into());
        }
        let wrong = |text: &&String| text.split_once('=').is_none_or(|(name, _)| name.is_empty());
        match self.env.iter().find(wrong) {
            Some(text) => Err(format!(
                "has the variable \"{}\", which is not NAME=VALUE",
                crate::import::shown_text(text)
            )),
            None => Ok(()),
        }
    }
}
