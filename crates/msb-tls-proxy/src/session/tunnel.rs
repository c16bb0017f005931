//! CONNECT through an intercepted connection: a tunnel of the server's, which is a proxy then, to whatever it likes.
//!
//! The request's authority is where the tunnel leads, so what is for a proxy by definition, its credentials, is judged by
//! the host of the connection instead. All else is judged as in any request: who shares an address with others may hand the
//! request to the one that its Host names (SPEC S6).

use http::header::{self, Entry, HeaderMap, HeaderName};
use http::uri::Scheme;
use http::{Method, StatusCode, Version, request, response};
use msb_name::Authority;
use msb_policy::InterceptedConnection;
use msb_secrets::{Note, RequestRewriter, SecretSet};

use super::head::{self, Refused};
use super::response::{self as answered, ResponseFault};

/// Whether a request asks for one on HTTP/1.
pub(crate) fn is_asked_for(head: &request::Parts) -> bool {
    head.method == Method::CONNECT && head.version != Version::HTTP_2
}

/// Checks `head` and turns it into what the server is to receive; with what rewrites it comes what became of
/// placeholders, and where the tunnel leads.
pub(crate) fn rewrite(
    head: &mut request::Parts,
    connection: &InterceptedConnection,
    secrets: &SecretSet,
) -> Result<(RequestRewriter, Vec<Note>, Authority), Refused> {
    let target = head::authority(head, &Scheme::HTTPS)?;
    let refused = |reason: &str| Refused::Answer {
        status: StatusCode::BAD_REQUEST,
        reason: reason.to_owned(),
    };
    if head.uri.scheme().is_some() || head.uri.path_and_query().is_some() || target.port().is_none()
    {
        return Err(refused("CONNECT needs a host and a port as its target"));
    }
    let framing = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING];
    if framing.iter().any(|name| head.headers.contains_key(name)) {
        return Err(refused("CONNECT has no body"));
    }
    head.headers.remove(header::EXPECT);
    head::remove_hops(head)?;
    let mut credentials = take(&mut head.headers, header::PROXY_AUTHORIZATION);
    let mut rewriter = secrets.request(connection, &target);
    head::inject(head, &mut rewriter).map_err(|fault| Refused::of(fault, ""))?;
    let mut notes = rewriter.take_notes();
    let judged = Authority::new(connection.host().clone(), None);
    let mut rewriter = secrets.request(connection, &judged);
    head::inject_fields(&mut credentials, &mut rewriter).map_err(|fault| Refused::of(fault, ""))?;
    notes.extend(rewriter.take_notes());
    head.headers.extend(credentials);
    head.version = Version::HTTP_11;
    Ok((rewriter, notes, target))
}

/// All lines of one field.
fn take(headers: &mut HeaderMap, name: HeaderName) -> HeaderMap {
    let mut taken = HeaderMap::new();
    if let Entry::Occupied(entry) = headers.entry(name) {
        let (name, values) = entry.remove_entry_mult();
        for value in values {
            taken.append(name.clone(), value);
        }
    }
    taken
}

/// The server's answer that opens the tunnel, whose fields say nothing about a body (RFC 9110 section 9.3.6).
pub(crate) fn opened(head: &mut response::Parts) -> Result<(), ResponseFault> {
    head.headers.remove(header::TRANSFER_ENCODING);
    answered::rewrite(head, false)?;
    head.headers.remove(header::CONTENT_LENGTH);
    Ok(())
}
