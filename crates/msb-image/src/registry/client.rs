//! Questions to one registry: authorization, redirects, retries, bounds.
//!
//! ```text
//! request → 401 → token or password → request     once for each request
//!         → 3xx → elsewhere, without credentials  a few times, never to plain http
//!         → 429, 5xx, no connection → wait → request
//! ```

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER,
};
use reqwest::{Response, StatusCode, Url};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::auth::{self, Credentials};
use super::error::PullError;
use super::{Login, PullEvent, PullOptions, Retries, tls};
use crate::reference::Reference;

const CONNECT_LIMIT: Duration = Duration::from_secs(30);
/// A document is small: it comes within this many times what a connection may be silent for.
const DOCUMENT_LIMIT: u32 = 5;
/// Registries lead to where their blobs are; that leads nowhere else, mostly.
const REDIRECTS: usize = 5;
/// What of an error's text is read, and shown, in bytes.
const COMPLAINT_LIMIT: usize = 16 << 10;
const SHOWN_LIMIT: usize = 300;
/// Where docker.io's interface is.
const DOCKER_IO: &str = "registry-1.docker.io";

/// One registry as one image is asked for.
pub(super) struct Client {
    pub(super) reference: Reference,
    base: Url,
    proxied: reqwest::Client,
    /// For this machine's own addresses.
    direct: reqwest::Client,
    /// Registries that may be spoken to without TLS, besides those on this machine.
    insecure: Vec<Insecure>,
    pub(super) credentials: Option<Credentials>,
    pub(super) authorization: Mutex<Option<HeaderValue>>,
    pub(super) retries: Retries,
    on_event: Option<super::Sink>,
}

/// A registry that may be spoken to in plain http: at this port, or at the two that http and https have.
struct Insecure {
    host: String,
    port: Option<u16>,
}

/// An answer, and whether the registry itself gave it.
pub(super) struct Answer {
    pub(super) response: Response,
    pub(super) is_own: bool,
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
        let insecure = options.insecure.iter().map(|text| Insecure::parse(text));
        let insecure = insecure.collect::<Result<Vec<_>, _>>()?;
        let base = base("https", reference)?;
        let may_be_plain = is_loopback(&base) || insecure.iter().any(|one| one.is(&base));
        let roots = options.ca_files.clone();
        let tls = tokio::task::spawn_blocking(move || tls::config(&roots, !may_be_plain)).await;
        let tls = tls.map_err(|error| settings(format!("TLS cannot be set up: {error}")))??;
        let builder = || {
            reqwest::Client::builder()
                .tls_backend_preconfigured(tls.clone())
                .user_agent(concat!("msb/", env!("CARGO_PKG_VERSION")))
                .redirect(reqwest::redirect::Policy::none())
                .connect_timeout(CONNECT_LIMIT.min(options.retries.silence))
                .read_timeout(options.retries.silence)
        };
        let built = |builder: reqwest::ClientBuilder| {
            builder.build().map_err(|error| {
                settings(format!("HTTP cannot be set up: {}", error.without_url()))
            })
        };
        let mut client = Self {
            reference: reference.clone(),
            base,
            proxied: built(builder())?,
            direct: built(builder().no_proxy())?,
            insecure,
            credentials,
            authorization: Mutex::new(None),
            retries: options.retries,
            on_event: options.on_event.clone(),
        };
        if may_be_plain {
            client.choose_scheme().await?;
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

    /// The body, of bounded length and in bounded time, and its type.
    pub(super) async fn read(
        &self,
        what: &str,
        response: Response,
        limit: u64,
    ) -> Result<(Vec<u8>, String), Next> {
        let host = origin(response.url());
        let patience = self.retries.silence.saturating_mul(DOCUMENT_LIMIT);
        match timeout(patience, self.read_all(what, response, limit)).await {
            Ok(read) => read,
            Err(_) => Err(too_slow(host, what)),
        }
    }

    async fn read_all(
        &self,
        what: &str,
        mut response: Response,
        limit: u64,
    ) -> Result<(Vec<u8>, String), Next> {
        let content_type = response.headers().get(CONTENT_TYPE);
        let content_type = content_type.and_then(|value| value.to_str().ok());
        let content_type = content_type.unwrap_or_default().to_owned();
        let registry = origin(response.url());
        let too_long = || {
            Next::Fail(PullError::Protocol {
                registry: registry.clone(),
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
            let is_own = url.origin() == self.base.origin();
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

    pub(super) fn check_redirect(&self, what: &str, next: Option<Url>) -> Result<Url, Next> {
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
        let is_inward = leads_inward(&next) && !leads_inward(&self.base);
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
    pub(super) async fn refused(&self, what: &str, answer: Answer) -> Next {
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

    pub(super) async fn unauthorized(&self, response: Response, known: bool) -> PullError {
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
        let reading = async {
            while bytes.len() < COMPLAINT_LIMIT
                && let Ok(Some(chunk)) = response.chunk().await
            {
                bytes.extend_from_slice(&chunk);
            }
        };
        // Words that do not come are not worth waiting for.
        let _ = timeout(self.retries.silence, reading).await;
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
        let text = self.redact(text).await;
        let shown: String = text.escape_debug().take(SHOWN_LIMIT).collect();
        match shown.is_empty() {
            true => String::new(),
            false => format!(": \"{shown}\""),
        }
    }

    /// Takes out of a text that a registry sent what was sent to it in confidence.
    async fn redact(&self, text: &str) -> String {
        let mut text = match &self.credentials {
            Some(credentials) => credentials.redact(text),
            None => text.to_owned(),
        };
        let authorization = self.authorization.lock().await;
        let value = authorization.as_ref().and_then(|value| value.to_str().ok());
        if let Some((_, secret)) = value.and_then(|value| value.split_once(' '))
            && !secret.is_empty()
        {
            text = text.replace(secret, "***");
        }
        text
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

    pub(super) fn http(&self, url: &Url) -> &reqwest::Client {
        match is_loopback(url) {
            true => &self.direct,
            false => &self.proxied,
        }
    }

    /// Whether plain http is allowed there.
    fn may_be_plain(&self, url: &Url) -> bool {
        is_loopback(url) || self.insecure.iter().any(|one| one.is(url))
    }

    /// Plain http where no TLS is spoken and that is allowed.
    async fn choose_scheme(&mut self) -> Result<(), PullError> {
        let asked = self.http(&self.base).get(self.base.clone()).send().await;
        // A certificate that is wrong is no reason to do without one.
        if let Err(error) = asked
            && !error.is_timeout()
            && tls::certificate_fault(&error).is_none()
        {
            self.base = base("http", &self.reference)?;
        }
        Ok(())
    }
}

impl Insecure {
    /// `HOST` or `HOST:PORT`.
    fn parse(text: &str) -> Result<Self, PullError> {
        let wrong = || {
            settings(format!(
                "{text:?} is no registry: it is given as HOST or HOST:PORT"
            ))
        };
        if text.contains(['/', '@', '?', '#', '\\']) || text.trim() != text {
            return Err(wrong());
        }
        // Of this scheme no port is the usual one.
        let url = Url::parse(&format!("ws://{text}/")).map_err(|_| wrong())?;
        let has_port = text
            .rsplit_once(':')
            .is_some_and(|(_, end)| !end.ends_with(']'));
        Ok(Self {
            host: url.host_str().ok_or_else(wrong)?.to_owned(),
            port: has_port.then(|| url.port_or_known_default()).flatten(),
        })
    }

    fn is(&self, url: &Url) -> bool {
        let port = url.port_or_known_default();
        url.host_str() == Some(&self.host)
            && match self.port {
                Some(own) => port == Some(own),
                None => matches!(port, Some(80 | 443)),
            }
    }
}

/// Where the registry's interface is.
fn base(scheme: &str, reference: &Reference) -> Result<Url, PullError> {
    let host = match reference.registry() {
        "docker.io" => DOCKER_IO,
        registry => registry,
    };
    Url::parse(&format!("{scheme}://{host}/v2/"))
        .map_err(|_| settings(format!("{host} cannot be part of an address")))
}

pub(super) fn settings(problem: String) -> PullError {
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

/// Whether it is an address of this machine for certain.
fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    host == "localhost" || address(url).is_some_and(|address| address.is_loopback())
}

/// Whether it may be one of this machine's, in whatever way that is written.
fn leads_inward(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_end_matches('.');
    let inward = |address: IpAddr| address.is_loopback() || address.is_unspecified();
    host == "localhost" || host.ends_with(".localhost") || address(url).is_some_and(inward)
}

fn address(url: &Url) -> Option<IpAddr> {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    address
        .parse()
        .ok()
        .map(|address: IpAddr| address.to_canonical())
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
pub(super) fn explain(error: reqwest::Error, url: &Url, what: &str) -> Next {
    let host = origin(url);
    if let Some(fault) = tls::certificate_fault(&error) {
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
    if error.is_timeout() && !error.is_connect() {
        return too_slow(host, what);
    }
    let error = PullError::Unreachable {
        host,
        what: what.to_owned(),
        // Addresses of blobs can have what lets one in in them.
        source: error.without_url(),
    };
    Next::Retry(Box::new(error), None)
}

/// The error of a connection that brings nothing, or next to nothing.
pub(super) fn too_slow(host: String, what: &str) -> Next {
    let what = what.to_owned();
    Next::Retry(Box::new(PullError::TooSlow { host, what }), None)
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
