//! A grant is made by the policy only.

use msb_name::HostName;
use msb_policy::{InjectGrant, SecretId};

fn main() {
    let host: HostName = "evil.test".parse().unwrap();
    let _ = InjectGrant { secret: SecretId::new(0), host };
}
