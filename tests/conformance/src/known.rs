//! Cases that are known to fail, and why. One that passes all the same is reported, so that this list cannot rot.

use crate::case::{Case, Protocol};

const TWICE: &str = "values are looked for in answers raw and escaped once";

/// Why `case` is known to fail.
pub(crate) fn failure(case: &Case) -> Option<&'static str> {
    let claim = case.claim.as_str();
    match case.protocol {
        Protocol::H1 | Protocol::H2 if claim.contains("twice escaped") => Some(TWICE),
        _ => None,
    }
}
