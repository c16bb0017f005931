//! As many descriptors as the system lets this process have.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit, which is 1,024 on most systems, to the hard one: connections take one or two descriptors each, and
/// there may be 65,535 of them. Without it fewer can be open, which is no reason not to start.
pub(crate) fn raise_limit() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let most = Rlimit {
        current: maximum,
        maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, most) {
        tracing::debug!(%error, "the limit on open files stays as it is");
    }
}
