//! Mozilla's roots, for images that have no bundle of their own. Only there with the feature `mozilla-roots`.

use crate::certificate::CaCertificate;

#[cfg(feature = "mozilla-roots")]
pub(crate) fn mozilla() -> Vec<CaCertificate> {
    webpki_root_certs::TLS_SERVER_ROOT_CERTS
        .iter()
        .filter_map(|der| CaCertificate::from_der(der).ok())
        .collect()
}

#[cfg(not(feature = "mozilla-roots"))]
pub(crate) fn mozilla() -> Vec<CaCertificate> {
    Vec::new()
}
