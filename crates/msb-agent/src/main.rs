//! The guest init and agent.
fn main() {}
