//! The msb command.
fn main() {}
