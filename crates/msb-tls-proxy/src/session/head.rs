//! A request head on its way to the server: whom it is for, what it may carry, what is replaced.

use h2::ext::Protocol;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{PathAndQuery, Scheme};
use http::{Method, StatusCode, Uri, Version, request};
use msb_name::Authority;
use msb_policy::{HttpPolicy, InterceptedConnection, UpstreamTrust, check_identity};
use msb_secrets::{
    BodyKind, LengthChange, Location, RequestRewriter, ResponseScrubber, Rewritten, SecretSet,
    Violation,
};

use crate::event::one_line;
use crate::rules::{Asked, Denial, visible};

/// Fields that concern one connection only (RFC 9110 section 7.6.1).
const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Settings of the upgrade to HTTP/2 without TLS, which is never passed on (attack 14).
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// A request that may be sent.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Goes on with the body and the trailers.
    pub(crate) rewriter: RequestRewriter,
    /// Takes values out of the answer, if it may hold any.
    pub(crate) scrubber: Option<ResponseScrubber>,
    /// If the guest asks for a WebSocket: what rewrites its messages, or `None` where there is no secret, and nothing is
    /// read.
    pub(crate) websocket: Option<Option<RequestRewriter>>,
    /// The guest waits for a 100 before it sends the body.
    pub(crate) expects_continue: bool,
    /// The path without its query, in visible ASCII.
    pub(crate) path: String,
}

/// A request of which nothing is sent.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The guest is told.
    Answer {
        /// With which status.
        status: StatusCode,
        /// In one line.
        reason: String,
    },
    /// The guest is reset.
    Violation {
        /// What was found.
        violation: Violation,
        /// The path without its query, unless the placeholder is in it.
        path: Option<String>,
    },
    /// A rule denies it.
    Denied(Denial),
}

impl From<(StatusCode, String)> for Refused {
    fn from((status, reason): (StatusCode, String)) -> Self {
        Self::Answer { status, reason }
    }
}

impl Refused {
    fn answer(status: StatusCode, reason: impl AsRef<str>) -> Self {
        Self::Answer {
            status,
            reason: one_line(reason.as_ref()),
        }
    }

    fn bad(reason: impl AsRef<str>) -> Self {
        Self::answer(StatusCode::BAD_REQUEST, reason)
    }

    /// Why nothing could be put in.
    pub(super) fn of(fault: InjectFault, path: &str) -> Self {
        match fault {
            InjectFault::Violation(violation) => Self::violation(violation, path),
            fault => Self::answer(StatusCode::BAD_GATEWAY, fault.to_string()),
        }
    }

    fn violation(violation: Violation, path: &str) -> Self {
        let in_path = *violation.location() == Location::Path;
        Self::Violation {
            violation,
            path: (!in_path).then(|| path.to_owned()),
        }
    }
}

/// Checks `head`, which is `asked` for, and turns it into what the server is to receive.
///
/// Violations come before everything else that could be said: a misdirected request with a
/// placeholder in it is a violation (SPEC S6).
pub(crate) fn rewrite(
    head: &mut request::Parts,
    connection: &InterceptedConnection,
    secrets: &SecretSet,
    (asked, rules): (&Asked, &HttpPolicy),
) -> Result<Plan, Refused> {
    let scheme = match connection.upstream() {
        UpstreamTrust::Plaintext => Scheme::HTTP,
        UpstreamTrust::Verified(_) | UpstreamTrust::VerificationOff => Scheme::HTTPS,
    };
    let authority = authority(head, &scheme)?;
    let path = visible(head.uri.path());
    let expects_continue = expects_continue(head)?;
    let upgrade = upgrade(head);
    remove_hops(head)?;

    let mut rewriter = secrets.request(connection, &authority);
    inject(head, &mut rewriter).map_err(|fault| Refused::of(fault, &path))?;
    check_identity(connection, &authority).map_err(|misdirected| {
        Refused::answer(
            StatusCode::MISDIRECTED_REQUEST,
            format!("misdirected request: {misdirected}"),
        )
    })?;
    let extended = head.extensions.get::<Protocol>();
    let on_stream = extended.is_some_and(is_websocket) && !has_body(&head.headers);
    if head.method == Method::CONNECT && !on_stream {
        let reason = match extended {
            None => "CONNECT inside an intercepted connection is not supported yet",
            Some(_) => "of extended CONNECT only one for WebSocket is supported",
        };
        return Err(Refused::answer(StatusCode::NOT_IMPLEMENTED, reason));
    }
    if let Some(denial) = asked.denied(rules) {
        return Err(Refused::Denied(denial));
    }
    if upgrade == Upgrade::Other || upgrade == Upgrade::WebSocket && !may_switch(head) {
        return Err(Refused::answer(
            StatusCode::NOT_IMPLEMENTED,
            "of upgrades only a GET for WebSocket is supported",
        ));
    }
    if head.version == Version::HTTP_2 {
        // What the fields say of the authority is in the target (RFC 9113 section 8.3.1).
        head.headers.remove(header::HOST);
        head.uri = absolute_form(&head.uri, &authority)?;
    } else {
        if scheme == Scheme::HTTPS {
            head.uri = origin_form(&head.uri);
        }
        // Else the server may be a proxy, which needs its target whole.
        head.version = Version::HTTP_11;
    }
    let websocket = (upgrade == Upgrade::WebSocket || on_stream).then(|| {
        let field = |value| HeaderValue::from_static(value);
        let headers = &mut head.headers;
        if on_stream {
            headers.remove(header::CONTENT_LENGTH);
        } else {
            headers.insert(header::CONNECTION, field("Upgrade"));
            headers.insert(header::UPGRADE, field("websocket"));
        }
        if secrets.is_empty() {
            return None;
        }
        // What extensions make of messages could not be read.
        headers.remove(header::SEC_WEBSOCKET_EXTENSIONS);
        Some(secrets.request(connection, &authority))
    });
    let scrubber = scrubber(connection, secrets);
    if scrubber.is_some() && head.headers.contains_key(header::ACCEPT_ENCODING) {
        // What comes compressed all the same is decoded; this spares both sides the work. Who was offered no coding
        // has no reason to use one.
        let identity = HeaderValue::from_static("identity");
        head.headers.insert(header::ACCEPT_ENCODING, identity);
    }
    Ok(Plan {
        rewriter,
        scrubber,
        websocket,
        expects_continue,
        path,
    })
}

/// What takes values out of the answers of a host that may have received one: in this request, in an earlier one, or on
/// another connection, for a value may be stored there and read back later (attack 20).
pub(crate) fn scrubber(
    connection: &InterceptedConnection,
    secrets: &SecretSet,
) -> Option<ResponseScrubber> {
    let host = connection.host().name()?;
    let may_know = |(env, _)| {
        secrets
            .scope(env)
            .is_some_and(|(_, scope)| scope.allows(host))
    };
    if !secrets.env().any(may_know) {
        return None;
    }
    let scrubber = secrets.response();
    // Without a value to look for, as every secret's switch says, nothing in a text can change.
    let looks = scrubber.body(BodyKind::Text).length_change() == LengthChange::Possible;
    looks.then_some(scrubber)
}

/// The authority of a request, if it says one only (RFC 9112 section 3.2, RFC 9113 section 8.3.1).
pub(crate) fn authority(
    head: &request::Parts,
    scheme: &Scheme,
) -> Result<Authority, (StatusCode, String)> {
    let bad = |reason: &str| (StatusCode::BAD_REQUEST, one_line(reason));
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => Some(host),
        (None, _) if head.version == Version::HTTP_2 && head.uri.authority().is_some() => None,
        _ => return Err(bad("the request needs exactly one Host")),
    };
    let parse = |text: &str| Authority::parse(text).map_err(|error| bad(&error.to_string()));
    let host = host
        .map(|host| match host.to_str() {
            Ok(host) => parse(host),
            Err(_) => Err(bad("the Host is not ASCII")),
        })
        .transpose()?;
    let target = head.uri.authority().map(|target| parse(target.as_str()));
    let (target, host) = match (target.transpose()?, host) {
        (None, None) => return Err(bad("the request needs exactly one Host")),
        (None, Some(host)) => return Ok(host),
        (Some(target), host) => (target.clone(), host.unwrap_or(target)),
    };
    if head.uri.scheme().is_some_and(|other| other != scheme) {
        return Err(bad(&format!("the target's scheme is not {scheme}")));
    }
    // A tunnel's target names a port that its Host need not.
    let port_counts = head.method != Method::CONNECT || head.extensions.get::<Protocol>().is_some();
    if target.host() != host.host() || port_counts && target != host {
        return Err(bad("the target and the Host name different authorities"));
    }
    Ok(target)
}

/// `/path?query`, or `*`.
pub(crate) fn origin_form(uri: &Uri) -> Uri {
    let path = uri.path_and_query().cloned();
    Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")))
}

/// `https://authority/path?query`, with the authority as the guest wrote it if it wrote it there.
fn absolute_form(uri: &Uri, authority: &Authority) -> Result<Uri, Refused> {
    if uri.authority().is_some() && uri.scheme().is_some() {
        return Ok(uri.clone());
    }
    let path = uri.path_and_query().cloned();
    let absolute = Uri::builder()
        .scheme(Scheme::HTTPS)
        .authority(authority.to_string())
        .path_and_query(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    absolute
        .build()
        .map_err(|_| Refused::bad("the target cannot be told from the request"))
}

fn expects_continue(head: &request::Parts) -> Result<bool, Refused> {
    let mut expectations = head.headers.get_all(header::EXPECT).iter();
    match (expectations.next(), expectations.next()) {
        (None, _) => Ok(false),
        (Some(value), None) if value.as_bytes().eq_ignore_ascii_case(b"100-continue") => {
            // An expectation in HTTP/1.0 is ignored (RFC 9110 section 10.1.1).
            Ok(head.version == Version::HTTP_11)
        }
        _ => Err(Refused::answer(
            StatusCode::EXPECTATION_FAILED,
            "the only expectation supported is 100-continue",
        )),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upgrade {
    /// None, or one that a client goes on without (RFC 9110 section 7.8).
    Ignorable,
    WebSocket,
    Other,
}

/// Whether the request asks for a WebSocket.
pub(crate) fn asks_for_websocket(head: &request::Parts) -> bool {
    upgrade(head) == Upgrade::WebSocket
}

/// What the guest offers to switch to. Other versions of HTTP, and TLS, are offers of clients that go on without as well
/// (curl and Java send `h2c` with every first request); who offers anything else needs it, and is told.
fn upgrade(head: &request::Parts) -> Upgrade {
    let headers = &head.headers;
    let mut options = tokens(headers, &header::CONNECTION);
    // RFC 9110 section 7.8: else it is not for this hop, or means nothing.
    if head.version != Version::HTTP_11
        || !options.any(|option| option.eq_ignore_ascii_case(b"upgrade"))
    {
        return Upgrade::Ignorable;
    }
    let mut wanted = Upgrade::Ignorable;
    for token in tokens(headers, &header::UPGRADE) {
        let begins = |with: &[u8]| {
            let start = token.get(..with.len());
            start.is_some_and(|start| start.eq_ignore_ascii_case(with))
        };
        let ignorable = token.eq_ignore_ascii_case(b"h2c") || begins(b"http/") || begins(b"tls/");
        wanted = match wanted {
            _ if ignorable => wanted,
            Upgrade::Ignorable if token.eq_ignore_ascii_case(b"websocket") => Upgrade::WebSocket,
            _ => Upgrade::Other,
        };
    }
    wanted
}

/// Whether a request for a WebSocket is one as RFC 6455 section 4.1 has it. Who asks for a switch in a request with a
/// body would have the rest of that body read in the new protocol.
fn may_switch(head: &request::Parts) -> bool {
    head.method == Method::GET && head.version == Version::HTTP_11 && !has_body(&head.headers)
}

fn has_body(headers: &HeaderMap) -> bool {
    headers.contains_key(header::TRANSFER_ENCODING)
        || headers
            .get(header::CONTENT_LENGTH)
            .is_some_and(|length| length != "0")
}

/// Whether what is asked for on a stream is a WebSocket (RFC 8441 section 5).
fn is_websocket(protocol: &Protocol) -> bool {
    protocol.as_str() == "websocket"
}

/// Fields of a message that end at this hop.
pub(crate) struct Hops {
    /// Their names.
    pub(crate) names: Vec<HeaderName>,
    /// What is wrong with the `Connection` field.
    pub(crate) fault: Option<&'static str>,
}

/// Finds what RFC 9110 section 7.6.1 tells an intermediary to remove.
pub(crate) fn hop_by_hop(headers: &HeaderMap) -> Hops {
    let mut hops = Hops {
        names: HOP_BY_HOP.to_vec(),
        fault: None,
    };
    for option in tokens(headers, &header::CONNECTION) {
        match HeaderName::from_bytes(option) {
            Ok(name) if [header::HOST, header::CONTENT_LENGTH].contains(&name) => {
                hops.fault = Some("Connection names a field that every recipient needs");
            }
            Ok(name) => hops.names.push(name),
            Err(_) => hops.fault = Some("Connection holds an option that is no token"),
        }
    }
    hops
}

pub(super) fn remove_hops(head: &mut request::Parts) -> Result<(), Refused> {
    let headers = &mut head.headers;
    let Hops { names, fault } = hop_by_hop(headers);
    if let Some(fault) = fault {
        return Err(Refused::bad(fault));
    }
    let chunked = headers.contains_key(header::TRANSFER_ENCODING);
    let trailers =
        tokens(headers, &header::TE).any(|token| token.eq_ignore_ascii_case(b"trailers"));
    for name in names {
        headers.remove(name);
    }
    headers.remove(HTTP2_SETTINGS);
    if head.version == Version::HTTP_2 {
        // There a guest cannot be told to go on before it is answered, so its server must not wait for that; and no
        // guest may wait for ever (RFC 9110 section 10.1.1).
        headers.remove(header::EXPECT);
        if trailers {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
        return Ok(());
    }
    if chunked {
        // Ours: the body is framed anew, and a GET's is not without being told.
        headers.insert(
            header::TRANSFER_ENCODING,
            HeaderValue::from_static("chunked"),
        );
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
    Ok(())
}

/// Why a field could not be rewritten.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InjectFault {
    /// The request must not be sent.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// The value holds a control character.
    #[error("a secret's value cannot stand in a header")]
    Unwritable,
    /// The target cannot hold the value.
    #[error("with a secret's value in its query the target is too long")]
    TooLong,
}

pub(super) fn inject(
    head: &mut request::Parts,
    rewriter: &mut RequestRewriter,
) -> Result<(), InjectFault> {
    // The absolute form and CONNECT's authority are searched, too.
    if let Some(target) = rewriter.rewrite_target(&head.uri.to_string())? {
        head.uri = Uri::from_maybe_shared(target.into_bytes()).map_err(|_| InjectFault::TooLong)?;
    }
    inject_fields(&mut head.headers, rewriter)
}

pub(super) fn inject_fields(
    headers: &mut HeaderMap,
    rewriter: &mut RequestRewriter,
) -> Result<(), InjectFault> {
    for (name, value) in headers {
        if let Some(new) = rewriter.header_value(name.as_str(), value.as_bytes())? {
            *value = sensitive(new)?;
        }
    }
    Ok(())
}

/// Replaces placeholders in trailers.
pub(crate) fn inject_trailers(
    trailers: &mut HeaderMap,
    rewriter: &mut RequestRewriter,
) -> Result<(), InjectFault> {
    for (name, value) in trailers {
        if let Some(new) = rewriter.trailer_value(name.as_str(), value.as_bytes())? {
            *value = sensitive(new)?;
        }
    }
    Ok(())
}

fn sensitive(value: Rewritten) -> Result<HeaderValue, InjectFault> {
    let mut value =
        HeaderValue::from_maybe_shared(value.into_bytes()).map_err(|_| InjectFault::Unwritable)?;
    value.set_sensitive(true);
    Ok(value)
}

/// The elements of a comma-separated list, over all lines of a field (RFC 9110 section 5.6.1).
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
}
