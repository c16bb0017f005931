//! A value comes from a set only, so that its id is its own.

use msb_policy::SecretId;
use msb_secrets::SecretValue;

fn main() {
    let _ = SecretValue::new(SecretId::new(0), String::new().into());
}
