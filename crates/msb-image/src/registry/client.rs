//! Questions to one registry: authorization, redirects, retries, bounds.
//!
//! ```text
//! request → 401 → token or password → request     once for each request
//!         → 3xx → elsewhere, without credentials  a few times, never to plain http
//!         → 429, 5xx, no connection → wait → request
//! ```

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http_auth::{ChallengeRef, parse_challenges};
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER,
    WWW_AUTHENTICATE,
};
use reqwest::{Response, StatusCode, Url};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Deserialize;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::auth::{self, Credentials};
use super::error::PullError;
use super::{Login, PullEvent, PullOptions, Retries};
use crate::reference::Reference;

const CONNECT_LIMIT: Duration = Duration::from_secs(30);
/// A connection that brings nothing for this long has ended.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);
/// Registries lead to where their blobs are; that leads nowhere else, mostly.
const REDIRECTS: usize = 5;
/// What of an error's text is read, and shown, in bytes.
const COMPLAINT_LIMIT: usize = 16 << 10;
const SHOWN_LIMIT: usize = 300;
/// The largest tokens in use have a tenth of it, in bytes.
const TOKEN_LIMIT: usize = 64 << 10;
/// Where docker.io's interface is.
const DOCKER_IO: &str = "registry-1.docker.io";

/// One registry as one image is asked for.
pub(super) struct Client {
    reference: Reference,
    base: Url,
    proxied: reqwest::Client,
    /// For this machine's own addresses.
    direct: reqwest::Client,
    /// Registries that may be spoken to without TLS, besides those on this machine.
    insecure: Vec<String>,
    credentials: Option<Credentials>,
    authorization: Mutex<Option<HeaderValue>>,
    pub(super) retries: Retries,
    on_event: Option<super::Sink>,
}

/// An answer, and whether the registry itself gave it.
struct Answer {
    response: Response,
    is_own: bool,
}

/// What to do about an answer or its absence.
pub(super) enum Next {
    Retry(Box<PullError>, Option<Duration>),
    Fail(PullError),
}

impl Client {
    /// A client for the image's registry, which is asked once where it may speak plain http.
    pub(super) async fn new(
        reference: &Reference,
        options: &PullOptions,
    ) -> Result<Self, PullError> {
        let credentials = match &options.login {
            Login::As(credentials) => Some(credentials.clone()),
            Login::Anonymous => None,
            Login::Stored => auth::stored(reference).await?,
        };
        let roots = options.ca_files.clone();
        let tls = tokio::task::spawn_blocking(move || tls(&roots)).await;
        let tls = tls.map_err(|error| settings(format!("TLS cannot be set up: {error}")))??;
        let builder = || {
            reqwest::Client::builder()
                .tls_backend_preconfigured(tls.clone())
                .user_agent(concat!("msb/", env!("CARGO_PKG_VERSION")))
                .redirect(reqwest::redirect::Policy::none())
                .connect_timeout(CONNECT_LIMIT)
                .read_timeout(SILENCE_LIMIT)
        };
        let built = |builder: reqwest::ClientBuilder| {
            builder.build().map_err(|error| {
                settings(format!("HTTP cannot be set up: {}", error.without_url()))
            })
        };
        let host = match reference.registry() {
            "docker.io" => DOCKER_IO,
            registry => registry,
        };
        let base = Url::parse(&format!("https://{host}/v2/"))
            .map_err(|_| settings(format!("{host} cannot be part of an address")))?;
        let mut client = Self {
            reference: reference.clone(),
            base,
            proxied: built(builder())?,
            direct: built(builder().no_proxy())?,
            insecure: options.insecure.clone(),
            credentials,
            authorization: Mutex::new(None),
            retries: options.retries,
            on_event: options.on_event.clone(),
        };
        if client.may_be_plain(&client.base) {
            client.choose_scheme().await;
        }
        Ok(client)
    }

    pub(super) fn tell(&self, event: &PullEvent) {
        if let Some(sink) = &self.on_event {
            sink(event);
        }
    }

    /// The host that answers for the registry.
    pub(super) fn host(&self) -> String {
        origin(&self.base)
    }

    /// The address of something of the repository's.
    pub(super) fn url(&self, kind: &str, name: &str) -> Result<Url, PullError> {
        let path = format!("{}/{kind}/{name}", self.reference.repository());
        self.base
            .join(&path)
            .map_err(|_| settings(format!("{path} cannot be part of an address")))
    }

    /// A document of bounded length, and its type.
    pub(super) async fn document(
        &self,
        what: &str,
        url: &Url,
        accept: &[&str],
        limit: u64,
    ) -> Result<(Vec<u8>, String), PullError> {
        let accept = HeaderValue::try_from(accept.join(", "));
        let accept = accept.map_err(|_| settings("the types asked for are no field".into()))?;
        let headers = HeaderMap::from_iter([(ACCEPT, accept)]);
        let mut attempt = 0;
        loop {
            let next = match self.get(what, url, &headers).await {
                Ok(response) => match self.read(what, response, limit).await {
                    Ok(read) => return Ok(read),
                    Err(next) => next,
                },
                Err(next) => next,
            };
            self.wait(&mut attempt, what, next).await?;
        }
    }

    async fn read(
        &self,
        what: &str,
        mut response: Response,
        limit: u64,
    ) -> Result<(Vec<u8>, String), Next> {
        let content_type = response.headers().get(CONTENT_TYPE);
        let content_type = content_type.and_then(|value| value.to_str().ok());
        let content_type = content_type.unwrap_or_default().to_owned();
        let too_long = || {
            Next::Fail(PullError::Protocol {
                registry: self.host(),
                problem: format!("sends a {what} of more than {limit} bytes"),
            })
        };
        if response.content_length().is_some_and(|len| len > limit) {
            return Err(too_long());
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk(what, &mut response).await? {
            if (bytes.len() + chunk.len()) as u64 > limit {
                return Err(too_long());
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok((bytes, content_type))
    }

    /// The next bytes of a body.
    pub(super) async fn chunk(
        &self,
        what: &str,
        response: &mut Response,
    ) -> Result<Option<bytes::Bytes>, Next> {
        let url = response.url().clone();
        let chunk = response.chunk().await;
        chunk.map_err(|error| explain(error, &url, what))
    }

    /// A good answer to one request; the caller decides about another try.
    pub(super) async fn get(
        &self,
        what: &str,
        url: &Url,
        headers: &HeaderMap,
    ) -> Result<Response, Next> {
        let mut answer = self.send(what, url, headers).await?;
        if answer.response.status() == StatusCode::UNAUTHORIZED && answer.is_own {
            let sent = self.credentials.is_some();
            match self.authorize(&answer.response).await {
                Ok(true) => answer = self.send(what, url, headers).await?,
                // It would be the same again.
                Ok(false) => {
                    let error = self.unauthorized(answer.response, false).await;
                    return Err(Next::Fail(error));
                }
                Err(next) => return Err(next),
            }
            if answer.response.status() == StatusCode::UNAUTHORIZED {
                return Err(Next::Fail(self.unauthorized(answer.response, sent).await));
            }
        }
        match answer.response.status() {
            status if status.is_success() => Ok(answer.response),
            _ => Err(self.refused(what, answer).await),
        }
    }

    /// Sends a request where it leads, with credentials to the registry only.
    async fn send(&self, what: &str, url: &Url, headers: &HeaderMap) -> Result<Answer, Next> {
        let mut url = url.clone();
        for _ in 0..=REDIRECTS {
            let is_own = origin(&url) == origin(&self.base);
            let mut request = self.http(&url).get(url.clone()).headers(headers.clone());
            if is_own && let Some(value) = &*self.authorization.lock().await {
                request = request.header(AUTHORIZATION, value.clone());
            }
            let response = request.send().await;
            let response = response.map_err(|error| explain(error, &url, what))?;
            let location = response.headers().get(LOCATION);
            let (true, Some(location)) = (response.status().is_redirection(), location) else {
                return Ok(Answer { response, is_own });
            };
            let next = location.to_str().ok().and_then(|to| url.join(to).ok());
            url = self.check_redirect(what, next)?;
        }
        Err(Next::Fail(PullError::Redirect {
            registry: self.host(),
            to: origin(&url),
            what: what.to_owned(),
            problem: "it leads on and on",
        }))
    }

    fn check_redirect(&self, what: &str, next: Option<Url>) -> Result<Url, Next> {
        let refuse = |to: String, problem| {
            Next::Fail(PullError::Redirect {
                registry: self.host(),
                to,
                what: what.to_owned(),
                problem,
            })
        };
        let Some(next) = next else {
            return Err(refuse("nowhere".into(), "it is no address"));
        };
        let to = origin(&next);
        // A registry elsewhere does not lead into this machine.
        let is_inward = is_loopback(&next) && !is_loopback(&self.base);
        match next.scheme() {
            _ if !next.username().is_empty() || next.password().is_some() => {
                Err(refuse(to, "it has a password in it"))
            }
            _ if is_inward => Err(refuse(to, "it is an address of this machine")),
            "https" => Ok(next),
            "http" if self.base.scheme() == "http" && self.may_be_plain(&next) => Ok(next),
            _ => Err(refuse(to, "it is not https")),
        }
    }

    /// What an answer that is no good means.
    async fn refused(&self, what: &str, answer: Answer) -> Next {
        let registry = match answer.is_own {
            true => self.host(),
            false => origin(answer.response.url()),
        };
        let status = answer.response.status();
        let wait = retry_after(answer.response.headers(), SystemTime::now());
        let detail = self.complaint(answer.response).await;
        let what = what.to_owned();
        match status.as_u16() {
            403 if answer.is_own => Next::Fail(PullError::Forbidden {
                registry,
                repository: self.reference.repository().to_owned(),
                detail,
            }),
            404 => Next::Fail(PullError::NotFound {
                registry,
                what,
                detail,
            }),
            429 => {
                let error = PullError::TooManyRequests {
                    registry,
                    what,
                    wait,
                    detail,
                };
                Next::Retry(Box::new(error), wait)
            }
            status @ 500..=599 => {
                let error = PullError::Server {
                    registry,
                    what,
                    status,
                    detail,
                };
                Next::Retry(Box::new(error), wait)
            }
            status => Next::Fail(PullError::Status {
                registry,
                what,
                status,
                detail,
            }),
        }
    }

    async fn unauthorized(&self, response: Response, known: bool) -> PullError {
        PullError::Unauthorized {
            registry: self.host(),
            repository: self.reference.repository().to_owned(),
            known,
            detail: self.complaint(response).await,
        }
    }

    /// What the answer says in words, made safe to show. Nothing, or begins with `: `.
    async fn complaint(&self, mut response: Response) -> String {
        #[derive(Deserialize)]
        struct Complaints {
            errors: Vec<Complaint>,
        }
        #[derive(Deserialize)]
        struct Complaint {
            #[serde(default)]
            code: String,
            #[serde(default)]
            message: String,
        }
        let mut bytes = Vec::new();
        while bytes.len() < COMPLAINT_LIMIT
            && let Ok(Some(chunk)) = response.chunk().await
        {
            bytes.extend_from_slice(&chunk);
        }
        let Ok(parsed) = serde_json::from_slice::<Complaints>(&bytes) else {
            return String::new();
        };
        let Some(first) = parsed.errors.first() else {
            return String::new();
        };
        let text = match first.message.is_empty() {
            true => &first.code,
            false => &first.message,
        };
        let text = match &self.credentials {
            Some(credentials) => credentials.redact(text),
            None => text.clone(),
        };
        let shown: String = text.escape_debug().take(SHOWN_LIMIT).collect();
        match shown.is_empty() {
            true => String::new(),
            false => format!(": {shown:?}"),
        }
    }

    /// Waits before another try, or gives the error when there is none.
    pub(super) async fn wait(
        &self,
        attempt: &mut u32,
        what: &str,
        next: Next,
    ) -> Result<(), PullError> {
        let (error, asked) = match next {
            Next::Fail(error) => return Err(error),
            Next::Retry(error, asked) => (*error, asked),
        };
        *attempt += 1;
        let Some(wait) = self.retries.wait(*attempt, asked) else {
            return Err(error);
        };
        self.tell(&PullEvent::Retrying {
            what: what.to_owned(),
            reason: error.to_string(),
            wait,
        });
        tokio::time::sleep(wait).await;
        Ok(())
    }

    fn http(&self, url: &Url) -> &reqwest::Client {
        match is_loopback(url) {
            true => &self.direct,
            false => &self.proxied,
        }
    }

    /// Whether plain http is allowed there.
    fn may_be_plain(&self, url: &Url) -> bool {
        let host = origin(url);
        is_loopback(url) || self.insecure.contains(&host)
    }

    /// Plain http where no TLS is spoken and that is allowed.
    async fn choose_scheme(&mut self) {
        let asked = self.http(&self.base).get(self.base.clone()).send().await;
        // A certificate that is wrong is no reason to do without one.
        if let Err(error) = asked
            && !error.is_timeout()
            && certificate_fault(&error).is_none()
        {
            // Only https has a scheme that cannot be set: every other is like it.
            let _ = self.base.set_scheme("http");
        }
    }

    /// Finds out how to be let in from an answer of 401. Whether there is a new way to try.
    async fn authorize(&self, response: &Response) -> Result<bool, Next> {
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
fn form(fields: &[(&str, &str)]) -> String {
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
    use base64::Engine as _;

    let text = format!("{}:{}", credentials.user, &*credentials.secret);
    let text = Zeroizing::new(text);
    let encoded = base64::engine::general_purpose::STANDARD.encode(text.as_bytes());
    let encoded = Zeroizing::new(format!("Basic {encoded}"));
    let mut value = HeaderValue::try_from(encoded.as_str()).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn settings(problem: String) -> PullError {
    PullError::Settings { problem }
}

/// Host and port, the port only where it is not the scheme's own.
pub(super) fn origin(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    let address = address.parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// How long the answer asks to be left alone, in seconds or until a date.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = httpdate::parse_http_date(text).ok()?;
    Some(until.duration_since(now).unwrap_or_default())
}

/// The error of a request without an answer, which another try may mend unless a certificate is wrong.
fn explain(error: reqwest::Error, url: &Url, what: &str) -> Next {
    let host = origin(url);
    if let Some(fault) = certificate_fault(&error) {
        let unknown = matches!(
            fault,
            rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)
        );
        return Next::Fail(match unknown {
            true => PullError::UnknownAuthority { host },
            false => PullError::Certificate {
                problem: fault.to_string(),
                host,
            },
        });
    }
    let error = PullError::Unreachable {
        host,
        what: what.to_owned(),
        // Addresses of blobs can have what lets one in in them.
        source: error.without_url(),
    };
    Next::Retry(Box::new(error), None)
}

/// What is wrong with the other side's certificate, if that is why the request failed.
fn certificate_fault(error: &reqwest::Error) -> Option<rustls::Error> {
    let mut cause = std::error::Error::source(error);
    while let Some(at) = cause {
        let inner = at
            .downcast_ref::<std::io::Error>()
            .and_then(|error| error.get_ref());
        let fault = match inner {
            Some(inner) => inner.downcast_ref::<rustls::Error>(),
            None => at.downcast_ref::<rustls::Error>(),
        };
        if let Some(fault @ rustls::Error::InvalidCertificate(_)) = fault {
            return Some(fault.clone());
        }
        cause = match inner {
            Some(inner) => Some(inner),
            None => at.source(),
        };
    }
    None
}

/// TLS as the rest of msb speaks it, with this machine's authorities and those in `files`.
fn tls(files: &[std::path::PathBuf]) -> Result<rustls::ClientConfig, PullError> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for file in files {
        for certificate in certificates(file)? {
            roots.add(certificate).map_err(|error| {
                settings(format!("{} holds no authority: {error}", file.display()))
            })?;
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| settings(format!("TLS cannot be set up: {error}")))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, PullError> {
    let unusable = |problem: &dyn std::fmt::Display| {
        settings(format!(
            "the authorities in {} cannot be used: {problem}",
            file.display()
        ))
    };
    let certificates = CertificateDer::pem_file_iter(file)
        .map_err(|error| unusable(&error))?
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| unusable(&error))?;
    match certificates.is_empty() {
        true => Err(unusable(&"the file has no certificate in PEM form")),
        false => Ok(certificates),
    }
}

impl Retries {
    /// How long to wait before try `attempt`, counted from 1; None when that is one too many or too long.
    fn wait(&self, attempt: u32, asked: Option<Duration>) -> Option<Duration> {
        if attempt > self.attempts {
            return None;
        }
        let doubled = self.first_wait.saturating_mul(1 << (attempt - 1).min(16));
        let wait = asked.unwrap_or_else(|| doubled.min(self.longest_wait));
        (wait <= self.longest_wait).then_some(wait)
    }
}

/// The field with which the rest of a blob is asked for.
pub(super) fn range(from: u64) -> Option<(HeaderName, HeaderValue)> {
    let value = HeaderValue::try_from(format!("bytes={from}-")).ok()?;
    (from > 0).then_some((reqwest::header::RANGE, value))
}

#[cfg(test)]
mod tests;
