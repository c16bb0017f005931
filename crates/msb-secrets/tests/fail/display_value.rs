//! A value cannot be displayed.

use msb_secrets::SecretValue;

fn show(value: &SecretValue) -> String {
    value.to_string()
}

fn main() {
    let _ = show;
}
