//! Cases that are known to fail, and why. One that passes all the same is reported, so that this list cannot rot.

use crate::case::Case;

/// Part of what a case has to do, and why it does not. There is none at the moment.
const KNOWN: &[(&str, &str)] = &[];

/// Why `case` is known to fail.
pub(crate) fn failure(case: &Case) -> Option<&'static str> {
    let known = KNOWN.iter().find(|(claim, _)| case.claim.contains(claim));
    known.map(|(_, why)| *why)
}
