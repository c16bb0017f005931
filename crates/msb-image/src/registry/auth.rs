//! Who asks: credentials from the command line, or from where docker and podman keep them.
//!
//! Looked at in this order, the first that knows the registry counts: `$REGISTRY_AUTH_FILE`,
//! `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`, `$XDG_RUNTIME_DIR/containers/auth.json`,
//! `~/.config/containers/auth.json`. In each: the helper for the registry (`credHelpers`), entries (`auths`), the
//! helper for all (`credsStore`).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use zeroize::Zeroizing;

use super::error::PullError;
use crate::reference::Reference;

/// Of a file with credentials, and of what a helper says, in bytes.
const FILE_LIMIT: u64 = 1 << 20;
/// A helper may ask its user to unlock something.
const HELPER_LIMIT: Duration = Duration::from_secs(60);
/// The user name by which helpers and docker say that the secret is a token to exchange.
const TOKEN_USER: &str = "<token>";

/// A user name and password, or a token in their place. Never shown.
#[derive(Clone)]
pub struct Credentials {
    pub(super) user: String,
    pub(super) secret: Zeroizing<String>,
    /// The secret is exchanged for a token instead of sent as a password.
    pub(super) is_token: bool,
}

impl Credentials {
    /// A user and a password.
    pub fn new(user: impl Into<String>, password: Zeroizing<String>) -> Self {
        Self {
            user: user.into(),
            secret: password,
            is_token: false,
        }
    }

    fn of(user: String, secret: Zeroizing<String>) -> Self {
        let is_token = user == TOKEN_USER;
        Self {
            user,
            secret,
            is_token,
        }
    }

    /// As they are sent in the field `Authorization`.
    pub(super) fn encoded(&self) -> Zeroizing<String> {
        let text = Zeroizing::new(format!("{}:{}", self.user, &*self.secret));
        Zeroizing::new(base64::engine::general_purpose::STANDARD.encode(text.as_bytes()))
    }

    /// Takes what is secret out of a text that a registry sent.
    pub(super) fn redact(&self, text: &str) -> String {
        if self.secret.is_empty() {
            return text.to_owned();
        }
        text.replace(self.encoded().as_str(), "***")
            .replace(self.secret.as_str(), "***")
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

/// As docker and podman write it. Other fields are theirs.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConfigFile {
    #[serde(default)]
    auths: Option<BTreeMap<String, Option<Entry>>>,
    #[serde(default)]
    creds_store: Option<String>,
    #[serde(default)]
    cred_helpers: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    auth: Zeroizing<String>,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: Zeroizing<String>,
    #[serde(default, alias = "identityToken")]
    identitytoken: Zeroizing<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Helped {
    username: String,
    secret: Zeroizing<String>,
}

/// The credentials that this machine's user has stored for the image's registry.
pub(super) async fn stored(reference: &Reference) -> Result<Option<Credentials>, PullError> {
    let files = files(|name| std::env::var_os(name));
    stored_in(&files, Path::new(""), reference).await
}

/// As the files say it, with helpers in `helpers`, or in `PATH` where that is empty.
async fn stored_in(
    files: &[PathBuf],
    helpers: &Path,
    reference: &Reference,
) -> Result<Option<Credentials>, PullError> {
    for file in files {
        let Some(config) = read(file)? else {
            continue;
        };
        if let Some(found) = config.find(file, helpers, reference).await? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn files(env: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let path = |name| {
        env(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let home = path("HOME");
    let below = |dir: Option<PathBuf>, file: &str| dir.map(|dir| dir.join(file));
    let docker = path("DOCKER_CONFIG").or_else(|| below(home.clone(), ".docker"));
    [
        path("REGISTRY_AUTH_FILE"),
        below(docker, "config.json"),
        below(path("XDG_RUNTIME_DIR"), "containers/auth.json"),
        below(home, ".config/containers/auth.json"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn unusable(file: &Path, problem: impl fmt::Display) -> PullError {
    PullError::Settings {
        problem: format!(
            "the credentials in {} cannot be used: {problem}",
            file.display()
        ),
    }
}

fn read(file: &Path) -> Result<Option<ConfigFile>, PullError> {
    let mut text = Zeroizing::new(Vec::new());
    let opened = match std::fs::File::open(file) {
        Ok(opened) => opened,
        // Nothing is stored there.
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(unusable(file, error)),
    };
    opened
        .take(FILE_LIMIT + 1)
        .read_to_end(&mut text)
        .map_err(|error| unusable(file, error))?;
    if text.len() as u64 > FILE_LIMIT {
        return Err(unusable(file, "the file is larger than 1 MiB"));
    }
    // The parser's own words could have a part of the text in them.
    serde_json::from_slice(&text).map(Some).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        unusable(
            file,
            format!("it does not parse at line {line}, column {column}"),
        )
    })
}

impl ConfigFile {
    async fn find(
        &self,
        file: &Path,
        helpers: &Path,
        reference: &Reference,
    ) -> Result<Option<Credentials>, PullError> {
        let keys = keys(reference);
        for key in &keys {
            let helper = self
                .cred_helpers
                .iter()
                .flatten()
                .find(|(of, _)| host_of(of) == *key);
            if let Some((of, helper)) = helper {
                return ask(helpers, helper, of).await;
            }
            let entry = self
                .auths
                .iter()
                .flatten()
                .find(|(of, _)| host_of(of) == *key);
            if let Some((_, Some(entry))) = entry
                && let Some(found) = entry.credentials().map_err(|error| unusable(file, error))?
            {
                return Ok(Some(found));
            }
        }
        match &self.creds_store {
            Some(helper) if !helper.is_empty() => {
                // Under the key that docker stores it by.
                let server = match reference.registry() {
                    "docker.io" => "https://index.docker.io/v1/",
                    registry => registry,
                };
                ask(helpers, helper, server).await
            }
            _ => Ok(None),
        }
    }
}

impl Entry {
    fn credentials(&self) -> Result<Option<Credentials>, &'static str> {
        // Some write it padded, some do not.
        const BASE64: GeneralPurpose = GeneralPurpose::new(
            &base64::alphabet::STANDARD,
            GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
        );
        let (user, password) = match self.auth.trim() {
            "" => (self.username.clone(), self.password.clone()),
            encoded => {
                let wrong = "an entry's `auth` is not base64 of USER:PASSWORD";
                let bytes = BASE64.decode(encoded).map_err(|_| wrong)?;
                let text = String::from_utf8(bytes).map_err(|error| {
                    drop(Zeroizing::new(error.into_bytes()));
                    wrong
                })?;
                let text = Zeroizing::new(text);
                let (user, password) = text.split_once(':').ok_or(wrong)?;
                let password = password.trim_end_matches('\0');
                (user.to_owned(), Zeroizing::new(password.to_owned()))
            }
        };
        if !self.identitytoken.is_empty() {
            return Ok(Some(Credentials {
                user,
                secret: self.identitytoken.clone(),
                is_token: true,
            }));
        }
        Ok((!user.is_empty()).then(|| Credentials::of(user, password)))
    }
}

/// What entries may be called that count for the reference, the narrowest first.
fn keys(reference: &Reference) -> Vec<String> {
    let registries: &[&str] = match reference.registry() {
        "docker.io" => &["docker.io", "index.docker.io", "registry-1.docker.io"],
        other => &[other],
    };
    let mut keys = Vec::new();
    for registry in registries {
        let whole = format!("{registry}/{}", reference.repository());
        let ends = whole.match_indices('/').map(|(at, _)| at);
        let ends: Vec<_> = ends.chain([whole.len()]).collect();
        keys.extend(ends.iter().rev().map(|end| whole[..*end].to_owned()));
    }
    // The longest path first, whichever name the registry has.
    keys.sort_by_key(|key| std::cmp::Reverse(key.matches('/').count()));
    keys
}

/// `https://HOST/v1/` is how docker writes hosts that it knows for long.
fn host_of(key: &str) -> &str {
    let key = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    let key = key.trim_end_matches('/');
    key.strip_suffix("/v1")
        .or_else(|| key.strip_suffix("/v2"))
        .unwrap_or(key)
}

/// Asks the program `docker-credential-HELPER` for what it knows of `server`.
async fn ask(helpers: &Path, helper: &str, server: &str) -> Result<Option<Credentials>, PullError> {
    let failed = |problem: String| PullError::Settings {
        problem: format!("the credential helper docker-credential-{helper} {problem}"),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if helper.is_empty() || !helper.chars().all(plain) {
        let helper = helper.escape_debug();
        return Err(PullError::Settings {
            problem: format!("`{helper}` is no name of a credential helper"),
        });
    }
    let mut child =
        tokio::process::Command::new(helpers.join(format!("docker-credential-{helper}")))
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed(format!("cannot be run: {error}")))?;
    let mut said = Zeroizing::new(Vec::new());
    let talk = async {
        if let Some(mut stdin) = child.stdin.take() {
            // One that does not read it has its own reasons.
            let _ = stdin.write_all(format!("{server}\n").as_bytes()).await;
        }
        if let Some(stdout) = child.stdout.take() {
            stdout.take(FILE_LIMIT).read_to_end(&mut said).await?;
        }
        child.wait().await
    };
    let status = tokio::time::timeout(HELPER_LIMIT, talk)
        .await
        .map_err(|_| {
            failed(format!(
                "did not answer within {} s",
                HELPER_LIMIT.as_secs()
            ))
        })?
        .map_err(|error| failed(format!("cannot be talked to: {error}")))?;
    if !status.success() {
        let text = String::from_utf8_lossy(&said);
        if text.contains("credentials not found") {
            return Ok(None);
        }
        // What it said may be anything.
        return Err(failed(format!("failed ({status})")));
    }
    let helped: Helped = serde_json::from_slice(&said)
        .map_err(|_| failed("did not say `Username` and `Secret` as JSON".into()))?;
    Ok(Some(Credentials::of(helped.username, helped.secret)))
}

#[cfg(test)]
mod tests;
