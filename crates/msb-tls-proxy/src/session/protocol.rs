//! Which protocol a connection speaks: what the guest offers, what the server chooses, what the guest is offered.

use crate::NonHttp;

/// What is spoken inside TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

/// What no client offers: a server that accepts this alone ends the handshake with the alert
/// `no_application_protocol` (RFC 7301 section 3.2).
const NONE: &[u8] = b"none of the offered";

impl Protocol {
    fn parse(name: &[u8]) -> Option<Self> {
        match name {
            b"http/1.1" => Some(Self::Http1),
            b"h2" => Some(Self::Http2),
            _ => None,
        }
    }

    fn name(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"http/1.1",
            Self::Http2 => b"h2",
        }
    }

    /// What a connection speaks that agreed on `alpn`, if on anything, after the guest had offered `guest`. `None` if only
    /// what is said will show it. Who offers HTTP alone means HTTP; without relaying, so does everybody.
    pub(crate) fn agreed(
        alpn: Option<&[u8]>,
        guest: &[Vec<u8>],
        non_http: NonHttp,
    ) -> Option<Self> {
        let said = alpn.and_then(Self::parse);
        let means_http = non_http == NonHttp::Refuse
            || alpn.is_none() && !guest.is_empty() && guest.iter().all(|name| is_http(name));
        said.or_else(|| means_http.then_some(Self::Http1))
    }
}

/// Whether this names HTTP, carried or not.
fn is_http(name: &[u8]) -> bool {
    let versions: [&[u8]; 4] = [b"http/0.9", b"http/1.0", b"h2c", b"hq"];
    let families: [&[u8]; 4] = [b"h3", b"h2-", b"hq-", b"spdy/"];
    Protocol::parse(name).is_some()
        || versions.contains(&name)
        || families.iter().any(|family| name.starts_with(family))
}

/// Whether a protocol of this name is carried.
fn is_carried(name: &[u8], non_http: NonHttp) -> bool {
    Protocol::parse(name).is_some() || non_http == NonHttp::Relay && !is_http(name)
}

/// What to offer the server of what the guest offers, in the guest's order; `None` if the guest offers only what is
/// not carried.
pub(crate) fn offer_upstream(guest: &[Vec<u8>], non_http: NonHttp) -> Option<Vec<Vec<u8>>> {
    let carried = guest.iter().filter(|name| is_carried(name, non_http));
    let carried: Vec<_> = carried.cloned().collect();
    (guest.is_empty() || !carried.is_empty()).then_some(carried)
}

/// What the server made of the offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Upstream<'a> {
    /// It chose this, or nothing.
    Chose(Option<&'a [u8]>),
    /// It is not there, and the guest is to be told.
    Unreached,
    /// It speaks nothing that was offered.
    NothingInCommon,
}

/// The one protocol to accept from a guest that offers `guest`; `None` for a handshake without any.
pub(crate) fn accept_from_guest(
    guest: &[Vec<u8>],
    upstream: Upstream<'_>,
    non_http: NonHttp,
) -> Option<Vec<u8>> {
    if guest.is_empty() {
        return None;
    }
    // HTTP/2 has to be agreed on; all else may be spoken without a word about it.
    let does_without = |name: &Vec<u8>| is_carried(name, non_http) && name != b"h2";
    match upstream {
        Upstream::Chose(Some(chosen)) => Some(chosen.to_vec()),
        Upstream::Chose(None) if guest.iter().any(does_without) => None,
        Upstream::Unreached => {
            let first = guest.iter().find_map(|name| Protocol::parse(name));
            Some(first.map_or(NONE, Protocol::name).to_vec())
        }
        Upstream::Chose(None) | Upstream::NothingInCommon => Some(NONE.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<Vec<u8>> {
        names.iter().map(|name| name.as_bytes().to_vec()).collect()
    }

    #[test]
    fn the_server_is_offered_what_can_be_carried_in_the_guests_order() {
        for (guest, with_others, http_alone) in [
            (&[][..], Some(&[][..]), Some(&[][..])),
            (
                &["h2", "http/1.1"],
                Some(&["h2", "http/1.1"]),
                Some(&["h2", "http/1.1"]),
            ),
            (
                &["http/1.1", "h2"],
                Some(&["http/1.1", "h2"]),
                Some(&["http/1.1", "h2"]),
            ),
            (
                &["acme-tls/1", "h2"],
                Some(&["acme-tls/1", "h2"]),
                Some(&["h2"]),
            ),
            (&["postgresql"], Some(&["postgresql"]), None),
            (&["http/1.0"], None, None),
            (
                &["http/0.9", "h2c", "h3", "h3-29", "hq", "spdy/3.1"],
                None,
                None,
            ),
        ] {
            for (non_http, expected) in
                [(NonHttp::Relay, with_others), (NonHttp::Refuse, http_alone)]
            {
                assert_eq!(
                    offer_upstream(&names(guest), non_http),
                    expected.map(names),
                    "{guest:?} {non_http:?}"
                );
            }
        }
    }

    #[test]
    fn the_guest_is_offered_what_the_server_chose() {
        let refused = Some(NONE);
        for (guest, upstream, expected, http_alone) in [
            (
                &["h2", "http/1.1"][..],
                Upstream::Chose(Some(b"h2")),
                Some(&b"h2"[..]),
                Some(&b"h2"[..]),
            ),
            (
                &["h2", "http/1.1"],
                Upstream::Chose(Some(b"http/1.1")),
                Some(b"http/1.1"),
                Some(b"http/1.1"),
            ),
            (&["h2", "http/1.1"], Upstream::Chose(None), None, None),
            (&["h2"], Upstream::Chose(None), refused, refused),
            (
                &["mqtt"],
                Upstream::Chose(Some(b"mqtt")),
                Some(b"mqtt"),
                Some(b"mqtt"),
            ),
            (&["mqtt"], Upstream::Chose(None), None, refused),
            (&["mqtt", "h2"], Upstream::Chose(None), None, refused),
            (&[], Upstream::Chose(None), None, None),
            (&[], Upstream::Unreached, None, None),
            (
                &["h2", "http/1.1"],
                Upstream::Unreached,
                Some(b"h2"),
                Some(b"h2"),
            ),
            (
                &["http/1.1"],
                Upstream::Unreached,
                Some(b"http/1.1"),
                Some(b"http/1.1"),
            ),
            (&["acme-tls/1"], Upstream::Unreached, refused, refused),
            (&["h2"], Upstream::NothingInCommon, refused, refused),
        ] {
            for (non_http, expected) in [(NonHttp::Relay, expected), (NonHttp::Refuse, http_alone)]
            {
                let accepted = accept_from_guest(&names(guest), upstream, non_http);
                assert_eq!(
                    accepted.as_deref(),
                    expected,
                    "{guest:?} {upstream:?} {non_http:?}"
                );
            }
        }
    }

    #[test]
    fn what_is_spoken_shows_by_itself_where_alpn_says_nothing_of_http() {
        let (http1, http2) = (Some(Protocol::Http1), Some(Protocol::Http2));
        for (alpn, guest, expected, http_alone) in [
            (Some(&b"h2"[..]), &["h2", "http/1.1"][..], http2, http2),
            (Some(b"http/1.1"), &["http/1.1"], http1, http1),
            (None, &["http/1.1"], http1, http1),
            (None, &["h2", "http/1.1"], http1, http1),
            (None, &["http/1.1", "imap"], None, http1),
            (None, &[], None, http1),
            (Some(b"postgresql"), &["postgresql"], None, http1),
        ] {
            for (non_http, expected) in [(NonHttp::Relay, expected), (NonHttp::Refuse, http_alone)]
            {
                let agreed = Protocol::agreed(alpn, &names(guest), non_http);
                assert_eq!(agreed, expected, "{alpn:?} {guest:?} {non_http:?}");
            }
        }
    }
}
