//! Project tasks: images, tests, demo.
fn main() {}
