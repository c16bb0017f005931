//! CONNECT through an intercepted connection: a tunnel of the server's, which is a proxy then, to whatever it likes.
//!
//! The request's authority is where the tunnel leads, so it is judged by the host of the connection instead: that is who
//! reads its fields.

use http::header;
use http::uri::Scheme;
use http::{Method, StatusCode, Version, request, response};
use msb_name::Authority;
use msb_policy::InterceptedConnection;
use msb_secrets::{RequestRewriter, SecretSet};

use super::head::{self, Refused};
use super::response::{self as answered, ResponseFault};

/// Whether a request asks for one on HTTP/1.
pub(crate) fn is_asked_for(head: &request::Parts) -> bool {
    head.method == Method::CONNECT && head.version != Version::HTTP_2
}

/// Checks `head` and turns it into what the server is to receive; with what rewrites it comes where the tunnel leads.
pub(crate) fn rewrite(
    head: &mut request::Parts,
    connection: &InterceptedConnection,
    secrets: &SecretSet,
) -> Result<(RequestRewriter, String), Refused> {
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
    let judged = Authority::new(connection.host().clone(), None);
    let mut rewriter = secrets.request(connection, &judged);
    head::inject(head, &mut rewriter).map_err(|fault| Refused::of(fault, ""))?;
    head.version = Version::HTTP_11;
    Ok((rewriter, target.to_string()))
}

/// The server's answer that opens the tunnel, whose fields say nothing about a body (RFC 9110 section 9.3.6).
pub(crate) fn opened(head: &mut response::Parts) -> Result<(), ResponseFault> {
    head.headers.remove(header::TRANSFER_ENCODING);
    answered::rewrite(head, false)?;
    head.headers.remove(header::CONTENT_LENGTH);
    Ok(())
}
