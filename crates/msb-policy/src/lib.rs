//! Network policy and the grants that let a secret be written.
