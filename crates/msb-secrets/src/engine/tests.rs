//! The engine against tables, and against a reference that is slow and obvious.

mod forms;
mod reference;
mod spelled;
mod streaming;

use super::{Engine, Found, Hay, Search};

/// Every match in a whole input, left to right, as (needle, start, end).
fn find_all(engine: &Engine, input: &[u8]) -> Vec<Found> {
    let mut all = Vec::new();
    let (mut from, mut cursor) = (0, super::Cursor::default());
    while let Search::Found(found) = engine.find(&Hay::whole(input), from, &mut cursor) {
        all.push(found);
        from = found.end;
    }
    all
}

fn engine(needles: &[&str]) -> Engine {
    Engine::new(needles.iter().map(|needle| needle.as_bytes()))
}
