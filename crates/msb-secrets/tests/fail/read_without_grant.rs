//! A value is read with a grant only.

use msb_secrets::SecretValue;

fn read(value: &SecretValue) -> &[u8] {
    value.expose().unwrap_or_default()
}

fn main() {
    let _ = read;
}
