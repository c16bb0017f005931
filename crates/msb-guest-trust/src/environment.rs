//! The variables for clients that bring a bundle of their own, set only where neither the image nor the user did.

use std::collections::BTreeSet;

use crate::plan::{Needs, Plan};

/// Variables that name a bundle which replaces the client's own.
pub(crate) const BUNDLE_VARIABLES: &[&str] = &[
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "GIT_SSL_CAINFO",
    "AWS_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "NIX_SSL_CERT_FILE",
];

/// A variable that is set to the bundle, unless its client would then no longer read what another one names.
struct Variable {
    name: &'static str,
    /// Variables that the client reads if this one is not set.
    read_next: &'static [&'static str],
}

const VARIABLES: &[Variable] = &[
    // OpenSSL, Go, rustls-native-certs, Ruby, .NET
    Variable {
        name: "SSL_CERT_FILE",
        read_next: &[],
    },
    // the curl program
    Variable {
        name: "CURL_CA_BUNDLE",
        read_next: &["SSL_CERT_FILE"],
    },
    // Python's requests
    Variable {
        name: "REQUESTS_CA_BUNDLE",
        read_next: &["CURL_CA_BUNDLE"],
    },
    // pip, which carries requests
    Variable {
        name: "PIP_CERT",
        read_next: &["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"],
    },
    Variable {
        name: "GIT_SSL_CAINFO",
        read_next: &[],
    },
    // botocore
    Variable {
        name: "AWS_CA_BUNDLE",
        read_next: &["REQUESTS_CA_BUNDLE"],
    },
    Variable {
        name: "CARGO_HTTP_CAINFO",
        read_next: &["SSL_CERT_FILE"],
    },
    Variable {
        name: "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
        read_next: &[],
    },
];

/// Which files hold all requested authorities after [`apply`](crate::apply()). Kept for as long as the guest runs
/// programs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trusted {
    /// The best whole bundle, as the guest spells its path. `None` if there is none, or nothing was requested.
    pub bundle: Option<String>,
    /// A file with the authorities and nothing else.
    pub ca_file: Option<String>,
    /// A hashed directory that holds the authorities.
    pub hashed_directory: Option<String>,
    /// Everything that may be named in a variable and needs no change.
    files: BTreeSet<String>,
    /// The user's value of `NODE_EXTRA_CA_CERTS`, and the merged file.
    node_extra: Option<(String, String)>,
}

impl Trusted {
    /// `done[n]` says whether action `n` of the plan was done.
    pub(crate) fn after(plan: &Plan, done: &[bool]) -> Self {
        let met = |needs: &Needs| needs.iter().all(|index| done[*index]);
        if !plan.requested {
            return Self::default();
        }
        let bundles = || {
            plan.bundles
                .iter()
                .filter(|bundle| bundle.needs.as_ref().is_some_and(met))
        };
        // The first of those that had roots, or else the first.
        let best = bundles()
            .filter(|bundle| bundle.system)
            .min_by_key(|bundle| !bundle.has_roots);
        Self {
            bundle: best.and_then(|bundle| bundle.names.first().cloned()),
            ca_file: plan
                .ca_files
                .iter()
                .find(|(_, needs)| met(needs))
                .map(|(name, _)| name.clone()),
            hashed_directory: plan
                .hashed
                .iter()
                .find(|hashed| met(&hashed.needs))
                .map(|hashed| hashed.name.clone()),
            files: bundles()
                .flat_map(|bundle| bundle.names.iter().cloned())
                .collect(),
            node_extra: plan
                .node_extra
                .as_ref()
                .filter(|(_, _, needs)| met(needs))
                .map(|(value, merged, _)| (value.clone(), merged.clone())),
        }
    }
}

/// The variables to set for a program whose environment has the `existing` ones.
///
/// Nothing that is in `existing`, empty or not, is given another value, with one exception: `NODE_EXTRA_CA_CERTS` is
/// pointed at a file which also holds what it named, if it named that when the facts were read. A variable is left out
/// if its client would otherwise look at another one that `existing` does have. The order is always the same.
#[must_use]
pub fn environment(
    trusted: &Trusted,
    existing: &dyn Fn(&str) -> Option<String>,
) -> Vec<(String, String)> {
    let mut variables = Vec::new();
    let mut set = |name: &str, value: &str| variables.push((name.to_owned(), value.to_owned()));
    let is_set = |name: &str| existing(name).is_some();

    if let Some(bundle) = &trusted.bundle {
        for variable in VARIABLES {
            if !is_set(variable.name) && !variable.read_next.iter().any(|name| is_set(name)) {
                set(variable.name, bundle);
            }
        }
    }
    // Only needed where OpenSSL was told to read a bundle that lacks the authorities: it reads the directory as well.
    if let (Some(file), Some(directory)) = (existing("SSL_CERT_FILE"), &trusted.hashed_directory)
        && !trusted.files.contains(&file)
        && !is_set("SSL_CERT_DIR")
    {
        set("SSL_CERT_DIR", directory);
    }
    if let Some(ca_file) = &trusted.ca_file {
        match existing("NODE_EXTRA_CA_CERTS") {
            None => set("NODE_EXTRA_CA_CERTS", ca_file),
            Some(value) if trusted.files.contains(&value) => {}
            Some(value) => {
                if let Some((named, merged)) = &trusted.node_extra
                    && *named == value
                {
                    set("NODE_EXTRA_CA_CERTS", merged);
                }
            }
        }
        if !is_set("DENO_CERT") {
            set("DENO_CERT", ca_file);
        }
        if !is_set("DENO_TLS_CA_STORE") {
            set("DENO_TLS_CA_STORE", "mozilla,system");
        }
    }
    variables
}
