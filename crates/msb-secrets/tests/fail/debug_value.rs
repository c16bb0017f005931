//! A value cannot be formatted for debugging.

use msb_secrets::SecretValue;

fn show(value: &SecretValue) -> String {
    format!("{value:?}")
}

fn main() {
    let _ = show;
}
