//! Host names, host patterns and authorities in canonical form.
//!
//! Everything that decides by name (bypass lists, secret scopes, policy rules, identity checks) compares these types,
//! so two spellings of one host cannot be told apart by one check and confused by another. A value of these types is
//! always well formed: parse once, then compare with `==`.
//!
//! ```
//! use msb_name::{Authority, HostName, HostPattern, HostPatternSet};
//!
//! let name: HostName = "API.Bücher.example.".parse()?;
//! assert_eq!(name.as_str(), "api.xn--bcher-kva.example");
//!
//! let patterns: HostPatternSet = ["example.org", "*.xn--bcher-kva.example"]
//!     .into_iter()
//!     .map(str::parse::<HostPattern>)
//!     .collect::<Result<_, _>>()?;
//! assert!(patterns.matches(&name));
//!
//! let authority = Authority::parse("api.example.org:8443")?;
//! assert_eq!(authority.port(), Some(8443));
//! # Ok::<(), msb_name::Error>(())
//! ```
//!
//! # Limits
//! Nothing is resolved here, and the public suffix list is not consulted: `*.com` is a valid [`HostPattern`]. Who
//! must not accept it (secrets do not) says so itself.

#![forbid(unsafe_code)]

mod authority;
mod error;
mod host;
mod name;
mod pattern;

pub use authority::Authority;
pub use error::Error;
pub use host::Host;
pub use name::{HostName, MAX_NAME_LEN};
pub use pattern::{HostPattern, HostPatternSet};
