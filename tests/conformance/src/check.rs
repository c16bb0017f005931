//! What every client has to find, whatever it is.

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::case::{Mode, Protocol};
use crate::lab::{API, Lab, OTHER, PLACEHOLDER, UNTRUSTED, VALUE};
use crate::request::{Answer, Request};

pub(crate) const VALUES: &str = "the placeholder in a header, a query, a JSON body and a form arrives as the real value, escaped \
     for its place, once and nowhere else; the answer that repeats it shows the placeholder.";
pub(crate) const OTHER_TEXT: &str = "a request without a placeholder is answered; one with a placeholder of a secret that is not for this host ends the connection, and the host does not see it.";
pub(crate) const UNTRUSTED_TEXT: &str = "a server whose certificate nobody trusts is told as 502 or as a TLS alert, and sees no request.";

/// How one kind of client sends requests: all of them in one go.
pub(crate) trait Send {
    /// One answer for each request.
    ///
    /// # Errors
    /// When the client does not run.
    fn send(
        &self,
        lab: &Lab,
        mode: Mode,
        protocol: Protocol,
        requests: &[Request],
    ) -> Result<Vec<Answer>>;
}

/// The parts of a request a client can put a placeholder in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Header,
    Query,
    Json,
    Form,
}

pub(crate) const ALL: &[Place] = &[Place::Header, Place::Query, Place::Json, Place::Form];

impl Place {
    fn request(self, host: &'static str, id: &str) -> Request {
        let escaped = PLACEHOLDER.replace('$', "%24");
        match self {
            Self::Header => Request::get(host, format!("/{id}header"))
                .header("authorization", format!("Bearer {PLACEHOLDER}")),
            Self::Query => Request::get(host, format!("/{id}query?key={escaped}&other=1")),
            Self::Json => Request::get(host, format!("/{id}json")).post(
                "application/json",
                format!("{{\"key\": \"{PLACEHOLDER}\", \"other\": 1}}"),
            ),
            Self::Form => Request::get(host, format!("/{id}form")).post(
                "application/x-www-form-urlencoded",
                format!("key={escaped}&other=1"),
            ),
        }
    }

    /// What the origin has to find there.
    fn check(self, record: &crate::record::Record) -> Result<()> {
        let found = match self {
            Self::Header => {
                let value = record.header("authorization").unwrap_or_default();
                value.strip_prefix("Bearer ").map(str::to_owned)
            }
            Self::Query => record
                .target
                .split_once('?')
                .and_then(|(_, query)| field(query)),
            Self::Json => {
                let body: Value =
                    serde_json::from_slice(&record.body).context("no JSON arrived")?;
                body["key"].as_str().map(str::to_owned)
            }
            Self::Form => field(&String::from_utf8_lossy(&record.body)),
        };
        ensure!(
            found.as_deref() == Some(VALUE),
            "{self:?}: the origin saw {found:?} in {record:?}"
        );
        Ok(())
    }
}

/// The value arrives wherever `client` can put the placeholder.
pub(crate) fn values(
    lab: &Lab,
    client: &impl Send,
    (mode, protocol): (Mode, Protocol),
    host: &'static str,
    (places, id): (&[Place], &str),
) -> Result<()> {
    let requests: Vec<_> = places.iter().map(|place| place.request(host, id)).collect();
    let answers = client.send(lab, mode, protocol, &requests)?;
    ensure!(
        answers.len() == places.len(),
        "{} answers to {} requests",
        answers.len(),
        places.len()
    );
    for ((place, request), answer) in places.iter().zip(&requests).zip(&answers) {
        let (version, body) = match answer {
            Answer::Status {
                status: 200,
                version,
                body,
            } => (version, body),
            other => bail!("{place:?}: {other:?}"),
        };
        check_version(protocol, version).with_context(|| format!("{place:?}"))?;
        let path = request.target.split('?').next().unwrap_or_default();
        let records = settled(lab, host, path);
        let [record] = records.as_slice() else {
            bail!("{place:?}: {} requests arrived", records.len());
        };
        place.check(record)?;
        ensure!(
            !record.text().contains("MSB_API_KEY"),
            "{place:?}: a placeholder arrived: {record:?}"
        );
        ensure!(
            record.is_complete,
            "{place:?}: the length is wrong: {record:?}"
        );
        check_version(protocol, record.version.trim_start_matches("HTTP/"))
            .with_context(|| format!("{place:?}, at the origin"))?;
        if host == API {
            check_echo(body).with_context(|| format!("{place:?}"))?;
        }
    }
    Ok(())
}

/// `version` is empty where the client does not tell.
fn check_version(protocol: Protocol, version: &str) -> Result<()> {
    let expected = if protocol == Protocol::H2 { "2" } else { "1.1" };
    ensure!(
        version.is_empty() || version.starts_with(expected),
        "HTTP/{version} was spoken"
    );
    Ok(())
}

/// The origin repeats what it got, and the client must not learn the value by that.
fn check_echo(body: &str) -> Result<()> {
    let escaped = serde_json::to_string(VALUE)?;
    let escaped = escaped.trim_matches('"');
    for shown in [VALUE, escaped, "sk-", "sk%2D"] {
        ensure!(!body.contains(shown), "the answer shows the value: {body}");
    }
    ensure!(
        body.contains("MSB_API_KEY"),
        "the answer does not show the placeholder: {body}"
    );
    Ok(())
}

/// A placeholder heading elsewhere ends the connection.
pub(crate) fn other(
    lab: &Lab,
    client: &impl Send,
    (mode, protocol): (Mode, Protocol),
    id: &str,
) -> Result<()> {
    let without = Request::get(OTHER, format!("/{id}without"));
    let with = Place::Header.request(OTHER, &format!("{id}with-"));
    let answers = client.send(lab, mode, protocol, &[without, with])?;
    let [without, with] = answers.as_slice() else {
        bail!("{} answers to 2 requests", answers.len());
    };
    // Without this, a client that gets nowhere would pass.
    match without {
        Answer::Status {
            status: 200,
            version,
            ..
        } => check_version(protocol, version)?,
        other => bail!("without a placeholder: {other:?}"),
    }
    ensure!(
        matches!(with, Answer::Broken(_)),
        "it was answered: {with:?}"
    );
    let received = lab.received(OTHER, &format!("{id}with-"));
    ensure!(received.is_empty(), "it arrived: {received:?}");
    Ok(())
}

/// A server that is not trusted is told in the client's own protocol, or as an alert.
pub(crate) fn untrusted(
    lab: &Lab,
    client: &impl Send,
    (mode, protocol): (Mode, Protocol),
    id: &str,
) -> Result<()> {
    let request = Place::Header.request(UNTRUSTED, id);
    for answer in &client.send(lab, mode, protocol, &[request])? {
        match answer {
            Answer::Status { status: 502, .. } => {}
            Answer::Broken(text) if text.to_lowercase().contains("alert") => {}
            other => bail!("neither 502 nor an alert: {other:?}"),
        }
    }
    let received = lab.received(UNTRUSTED, id);
    ensure!(received.is_empty(), "it arrived: {received:?}");
    Ok(())
}

/// What arrived; a log may be written a moment after the answer.
pub(crate) fn settled(lab: &Lab, host: &str, id: &str) -> Vec<crate::record::Record> {
    let limit = std::time::Duration::from_secs(2);
    // What is missing is told by whoever looks at the records.
    let _ = crate::process::wait_for("a record", limit, || !lab.received(host, id).is_empty());
    lab.received(host, id)
}

/// The field `key` of a query or form.
fn field(text: &str) -> Option<String> {
    let found = text
        .split('&')
        .find_map(|field| field.strip_prefix("key="))?;
    decode(found)
}

/// Percent-decoding (WHATWG URL, application/x-www-form-urlencoded).
fn decode(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let (mut decoded, mut at) = (Vec::new(), 0);
    while let Some(byte) = bytes.get(at) {
        at += 1;
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = std::str::from_utf8(bytes.get(at..at + 2)?).ok()?;
                at += 2;
                u8::from_str_radix(digits, 16).ok()?
            }
            other => *other,
        });
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_decoded_as_forms_are() {
        assert_eq!(field("a=1&key=a%2Bb+%22&c").as_deref(), Some("a+b \""));
        assert_eq!(field("key=%2"), None);
        assert_eq!(field("a=1"), None);
    }
}
