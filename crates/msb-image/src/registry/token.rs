//! How a registry lets one in: what its answer of 401 asks for, and tokens from where it says.

use http_auth::{ChallengeRef, parse_challenges};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Response, Url};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::auth::Credentials;
use super::client::{Answer, Client, Next, explain, origin};
use super::error::PullError;

/// The largest tokens in use have a tenth of it, in bytes.
const TOKEN_LIMIT: usize = 64 << 10;

impl Client {
    /// Finds out how to be let in from an answer of 401. Whether there is a new way to try.
    pub(super) async fn authorize(&self, response: &Response) -> Result<bool, Next> {
        let fields = response.headers().get_all(WWW_AUTHENTICATE);
        let fields: Vec<&str> = fields
            .iter()
            .filter_map(|value| value.to_str().ok())
            .collect();
        let challenges: Vec<ChallengeRef<'_>> = fields
            .iter()
            .filter_map(|text| parse_challenges(text).ok())
            .flatten()
            .collect();
        let of = |scheme: &str| {
            challenges
                .iter()
                .find(|challenge| challenge.scheme.eq_ignore_ascii_case(scheme))
        };
        let value = match (of("bearer"), of("basic"), &self.credentials) {
            (Some(challenge), _, _) => {
                let text = Zeroizing::new(format!("Bearer {}", &*self.token(challenge).await?));
                HeaderValue::try_from(text.as_str()).ok()
            }
            (None, Some(_), Some(credentials)) if !credentials.is_token => basic(credentials),
            _ => return Ok(false),
        };
        let mut value = value.ok_or_else(|| {
            Next::Fail(PullError::Protocol {
                registry: self.host(),
                problem: "gave a token that is no token".into(),
            })
        })?;
        value.set_sensitive(true);
        *self.authorization.lock().await = Some(value);
        Ok(true)
    }

    /// A token from where the challenge says.
    async fn token(&self, challenge: &ChallengeRef<'_>) -> Result<Zeroizing<String>, Next> {
        let parameter = |name: &str| {
            let found = challenge.params.iter();
            let mut found = found.filter(|(key, _)| key.eq_ignore_ascii_case(name));
            found.next().map(|(_, value)| value.to_unescaped())
        };
        let what = "token";
        let realm = parameter("realm").and_then(|realm| Url::parse(&realm).ok());
        let mut url = self.check_redirect(what, realm)?;
        let service = parameter("service").unwrap_or_default();
        // What a registry asks for could be more than this.
        let scope = format!("repository:{}:pull", self.reference.repository());
        let http = self.http(&url);
        let request = match &self.credentials {
            Some(credentials) if credentials.is_token => {
                let form = form(&[
                    ("grant_type", "refresh_token"),
                    ("service", &service),
                    ("scope", &scope),
                    ("client_id", "msb"),
                    ("refresh_token", &credentials.secret),
                ]);
                let form_type = "application/x-www-form-urlencoded";
                http.post(url.clone())
                    .header(CONTENT_TYPE, form_type)
                    .body(form)
            }
            other => {
                url.query_pairs_mut()
                    .append_pair("service", &service)
                    .append_pair("scope", &scope);
                let request = http.get(url.clone());
                match other.as_ref().and_then(basic) {
                    Some(value) => request.header(AUTHORIZATION, value),
                    None => request,
                }
            }
        };
        let response = request.send().await;
        let response = response.map_err(|error| explain(error, &url, what))?;
        match response.status().as_u16() {
            200..=299 => {}
            400 | 401 | 403 => {
                let known = self.credentials.is_some();
                return Err(Next::Fail(self.unauthorized(response, known).await));
            }
            _ => {
                let answer = Answer {
                    response,
                    is_own: false,
                };
                return Err(self.refused(what, answer).await);
            }
        }
        let (bytes, _) = self.read(what, response, TOKEN_LIMIT as u64).await?;
        let bytes = Zeroizing::new(bytes);
        #[derive(Deserialize)]
        struct Token {
            #[serde(default)]
            token: Zeroizing<String>,
            #[serde(default)]
            access_token: Zeroizing<String>,
        }
        let parsed = serde_json::from_slice::<Token>(&bytes).ok();
        let token = parsed.map(|parsed| match parsed.token.is_empty() {
            true => parsed.access_token,
            false => parsed.token,
        });
        token.filter(|token| !token.is_empty()).ok_or_else(|| {
            Next::Fail(PullError::Protocol {
                registry: origin(&url),
                problem: "gave no token".into(),
            })
        })
    }
}

/// Fields of a form, encoded.
pub(super) fn form(fields: &[(&str, &str)]) -> String {
    let encode = |text: &str| -> String {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
        text.bytes()
            .map(|byte| match plain(&byte) {
                true => char::from(byte).to_string(),
                false => format!("%{byte:02X}"),
            })
            .collect()
    };
    let fields = fields.iter();
    let fields: Vec<_> = fields
        .map(|(name, value)| format!("{name}={}", encode(value)))
        .collect();
    fields.join("&")
}

fn basic(credentials: &Credentials) -> Option<HeaderValue> {
    let encoded = Zeroizing::new(format!("Basic {}", &*credentials.encoded()));
    let mut value = HeaderValue::try_from(encoded.as_str()).ok()?;
    value.set_sensitive(true);
    Some(value)
}
