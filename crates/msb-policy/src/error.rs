//! What can be wrong with a policy's configuration.

/// A policy that cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A word in a profile list that names no profile.
    #[error(
        "{word:?} in the network profile {text:?} is not known: expected a comma-separated list of public, private, host, metadata, all, or none alone"
    )]
    UnknownProfile {
        /// The word.
        word: String,
        /// The whole list.
        text: String,
    },
    /// `none` beside another profile.
    #[error("the network profile {text:?} contradicts itself: none stands alone")]
    NoneIsAlone {
        /// The whole list.
        text: String,
    },
    /// A bypass pattern that is not a host pattern.
    #[error("bypass pattern")]
    Bypass(#[source] msb_name::Error),
}
