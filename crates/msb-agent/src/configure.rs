//! The first call: what turns a booted machine into this sandbox's machine.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use msb_agent_proto::v1::ConfigureRequest;
use msb_guest_trust::{
    CaCertificate, Facts, TrustRequest, apply, environment as trust_environment, plan,
};
use rustix::process::{Resource, Rlimit};

use crate::{network, timings};

/// The environment every exec starts from.
pub(crate) type Environment = BTreeMap<String, String>;

/// What every exec starts from.
pub(crate) struct Defaults {
    pub(crate) environment: Environment,
    pub(crate) ulimits: Vec<(Resource, Rlimit)>,
}

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Applies the request. What fails without ending the boot comes back as warnings.
pub(crate) fn configure(request: ConfigureRequest) -> (Environment, Vec<String>) {
    timings::mark("asked to configure");
    let mut warnings = network::configure(request.network.as_ref());
    timings::mark("network up");
    if let Err(error) = name_host(&request.hostname) {
        warnings.push(format!("host name {:?}: {error}", request.hostname));
    }
    // What depends on the user each exec adds.
    let mut environment: Environment = [("PATH".to_owned(), DEFAULT_PATH.to_owned())].into();
    environment.extend(request.env);
    warnings.extend(trust(&request.ca_pem, &mut environment));
    timings::mark("trust in place");
    timings::report();
    (environment, warnings)
}

fn name_host(name: &str) -> std::io::Result<()> {
    rustix::system::sethostname(name.as_bytes())?;
    fs::create_dir_all("/etc")?;
    fs::write("/etc/hostname", format!("{name}\n"))?;
    let hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
    fs::write("/etc/hosts", hosts_text(&hosts, name))
}

/// Adds the authorities to the guest's trust stores and to the environment of clients with their own.
fn trust(cas: &[bytes::Bytes], environment: &mut Environment) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut certificates = Vec::new();
    for pem in cas {
        match CaCertificate::from_pem(pem) {
            Ok(parsed) => certificates.extend(parsed),
            Err(error) => warnings.push(format!("trust: {error}")),
        }
    }
    if certificates.is_empty() {
        // The root is new at each boot: nothing of a former one could be in it.
        return warnings;
    }
    let root = Path::new("/");
    let existing = |name: &str| environment.get(name).cloned();
    let facts = Facts::read_with(root, &existing);
    let report = apply(root, &plan(&facts, &TrustRequest { cas: &certificates }));
    warnings.extend(
        report
            .failed
            .iter()
            .map(|failure| format!("trust: {failure}")),
    );
    let variables = trust_environment(&report.trusted, &existing);
    environment.extend(variables);
    warnings
}

/// The image's own file, with what every Linux program expects to find in it.
fn hosts_text(existing: &str, name: &str) -> String {
    let knows = |host: &str| {
        existing
            .lines()
            .map(|line| line.split('#').next().unwrap_or_default())
            .any(|line| {
                line.split_ascii_whitespace()
                    .skip(1)
                    .any(|word| word == host)
            })
    };
    let mut text = existing.to_owned();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    if !knows("localhost") {
        text.push_str("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n");
    }
    if !name.is_empty() && !knows(name) {
        text.push_str(&format!("127.0.1.1 {name}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_gain_what_is_missing_and_keep_what_is_there() {
        for (existing, name, expected) in [
            (
                "",
                "worker",
                "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n127.0.1.1 worker\n",
            ),
            (
                "127.0.0.1 localhost",
                "worker",
                "127.0.0.1 localhost\n127.0.1.1 worker\n",
            ),
            (
                "127.0.0.1 localhost worker\n",
                "worker",
                "127.0.0.1 localhost worker\n",
            ),
            (
                "# localhost\n",
                "",
                "# localhost\n127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n",
            ),
        ] {
            assert_eq!(hosts_text(existing, name), expected);
        }
    }
}
