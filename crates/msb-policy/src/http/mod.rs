//! HTTP rules: methods × host pattern × path glob → allow or deny (SPEC P5).

mod glob;
mod path;
mod policy;
mod rule;
#[cfg(test)]
mod tests;

pub use path::{AmbiguousPath, CanonicalPath};
pub use policy::{HttpCause, HttpDecision, HttpPolicy};
pub use rule::{HttpHosts, HttpRule, Methods};
