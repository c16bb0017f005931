//! Benchmarks of msb.
