//! A grant is for one request and cannot be kept in a copy.

use msb_policy::InjectGrant;

fn keep(grant: &InjectGrant) -> InjectGrant {
    grant.clone()
}

fn main() {
    let _ = keep;
}
