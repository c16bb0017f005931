//! Mozilla's roots, for images that have no bundle of their own. Only there with the feature `mozilla-roots`.

/// Each in DER.
#[cfg(feature = "mozilla-roots")]
pub(crate) fn mozilla() -> impl Iterator<Item = &'static [u8]> {
    webpki_root_certs::TLS_SERVER_ROOT_CERTS
        .iter()
        .map(AsRef::as_ref)
}

#[cfg(not(feature = "mozilla-roots"))]
pub(crate) fn mozilla() -> impl Iterator<Item = &'static [u8]> {
    std::iter::empty()
}
