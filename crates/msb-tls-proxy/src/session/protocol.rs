//! Which protocol a connection speaks: what the guest offers, what the server chooses, what the guest is offered.

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

    /// What a connection speaks that agreed on `alpn`, if on anything. Who does not say speaks HTTP/1.1.
    pub(crate) fn agreed(alpn: Option<&[u8]>) -> Self {
        alpn.and_then(Self::parse).unwrap_or(Self::Http1)
    }
}

/// What to offer the server of what the guest offers, in the guest's order; `None` if the guest offers only what is
/// not carried.
pub(crate) fn offer_upstream(guest: &[Vec<u8>]) -> Option<Vec<Vec<u8>>> {
    let known = guest
        .iter()
        .filter_map(|name| Some(Protocol::parse(name)?.name().to_vec()));
    let known: Vec<_> = known.collect();
    (guest.is_empty() || !known.is_empty()).then_some(known)
}

/// What the server made of the offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Upstream<'a> {
    /// It chose this, or nothing, and will speak HTTP/1.1.
    Chose(Option<&'a [u8]>),
    /// It is not there, and the guest is to be told.
    Unreached,
    /// It speaks nothing that was offered.
    NothingInCommon,
}

/// The one protocol to accept from a guest that offers `guest`; `None` for a handshake without any.
pub(crate) fn accept_from_guest(guest: &[Vec<u8>], upstream: Upstream<'_>) -> Option<Vec<u8>> {
    if guest.is_empty() {
        return None;
    }
    let offers = |protocol: Protocol| guest.iter().any(|name| name == protocol.name());
    match upstream {
        Upstream::Chose(Some(chosen)) => Some(chosen.to_vec()),
        Upstream::Chose(None) if offers(Protocol::Http1) => None,
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
        for (guest, expected) in [
            (&[][..], Some(&[][..])),
            (&["h2", "http/1.1"], Some(&["h2", "http/1.1"])),
            (&["http/1.1", "h2"], Some(&["http/1.1", "h2"])),
            (&["acme-tls/1", "h2"], Some(&["h2"])),
            (&["acme-tls/1"], None),
            (&["http/1.0"], None),
        ] {
            assert_eq!(
                offer_upstream(&names(guest)),
                expected.map(names),
                "{guest:?}"
            );
        }
    }

    #[test]
    fn the_guest_is_offered_what_the_server_chose() {
        let refused = Some(NONE);
        for (guest, upstream, expected) in [
            (
                &["h2", "http/1.1"][..],
                Upstream::Chose(Some(b"h2")),
                Some(&b"h2"[..]),
            ),
            (
                &["h2", "http/1.1"],
                Upstream::Chose(Some(b"http/1.1")),
                Some(b"http/1.1"),
            ),
            (&["h2", "http/1.1"], Upstream::Chose(None), None),
            (&["h2"], Upstream::Chose(None), refused),
            (&[], Upstream::Chose(None), None),
            (&[], Upstream::Unreached, None),
            (&["h2", "http/1.1"], Upstream::Unreached, Some(b"h2")),
            (&["http/1.1"], Upstream::Unreached, Some(b"http/1.1")),
            (&["acme-tls/1"], Upstream::Unreached, refused),
            (&["h2"], Upstream::NothingInCommon, refused),
        ] {
            let accepted = accept_from_guest(&names(guest), upstream);
            assert_eq!(accepted.as_deref(), expected, "{guest:?} {upstream:?}");
        }
    }
}
