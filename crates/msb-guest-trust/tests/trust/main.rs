//! The whole way on fixture roots: what is read, planned and applied, seen from outside and by foreign tools.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the crate's ban on files is for its pure modules, these tests are about files"
)]
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

mod distributions;
mod environment;
mod extracted;
mod java;
mod many_roots;
mod namespaces;
mod nss;
mod odd_roots;
mod policies;
mod subject_hash;
mod support;
mod tools;
