//! Tests of msb on real guests.
