//! A value has no field to read.

use msb_secrets::SecretValue;

fn read(value: &SecretValue) -> &str {
    &value.bytes
}

fn main() {
    let _ = read;
}
