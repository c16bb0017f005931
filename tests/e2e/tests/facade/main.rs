//! The crate `msb` on real guests. A boot takes seconds, so one guest serves every claim of its test.

mod bounds;
mod confinement;
mod detached;
mod exec;
mod files;
mod http_rules;
mod interception;
mod network;
mod secrets;
mod storage;
mod teardown;
mod terminals;
mod trust;
mod users;
