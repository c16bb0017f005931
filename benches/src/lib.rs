//! What the benchmark programs share: timed processes, the guests they compare, and how spread is told.
//!
//! A figure that is a ratio is measured as pairs in one run, one side right after the other, because machines are
//! busy with other things too: what disturbs a pair mostly disturbs both of its sides.
#![forbid(unsafe_code)]

mod facts;
mod guest;
pub mod load;
pub mod origin;
mod process;
mod spread;

pub use facts::facts;
pub use guest::{Bare, accelerator, msb, msb_program};
pub use process::{Finished, Running};
pub use spread::Spread;
