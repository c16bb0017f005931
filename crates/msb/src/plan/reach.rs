//! Whether what secrets are for can be reached at all.

use msb_name::{HostName, HostPattern};
use msb_net::HostEntry;
use msb_policy::{Action, Direction, NetworkPolicy};
use msb_secrets::Secret;

use super::Interception;
use crate::Error;

/// Refuses a secret that nothing could put in (SPEC S12); returns warnings for those that may be half out of reach.
pub(super) fn check_reach(
    secrets: &[Secret],
    policy: &NetworkPolicy,
    hosts: &[(HostName, HostEntry)],
    interception: Option<&Interception>,
) -> Result<Vec<String>, Error> {
    let Some(secret) = secrets.first() else {
        return Ok(Vec::new());
    };
    let allows = policy.rules().any(|rule| rule.action() == Action::Allow);
    if !allows && policy.default_of(Direction::Egress) == Action::Deny {
        return Err(Error::Config(format!(
            "nothing could put the secret {} in: the network policy allows nothing; allow its hosts or drop the secret",
            secret.env()
        )));
    }
    check_names(secrets, policy, hosts)?;
    if let Some(interception) = interception {
        return check_bypass(secrets, interception);
    }
    match secrets.iter().find(|secret| secret.requires_tls_identity()) {
        Some(secret) => Err(Error::Config(format!(
            "nothing could put the secret {} in: TLS interception is switched off; switch it on or drop the secret",
            secret.env()
        ))),
        None => Ok(Vec::new()),
    }
}

/// Refuses a secret for a host that the policy does not let the guest resolve.
fn check_names(
    secrets: &[Secret],
    policy: &NetworkPolicy,
    hosts: &[(HostName, HostEntry)],
) -> Result<(), Error> {
    for secret in secrets {
        for pattern in secret.scope().patterns().iter() {
            let HostPattern::Exact(host) = &pattern else {
                continue;
            };
            if hosts.iter().any(|(name, _)| name == host) {
                continue;
            }
            policy.decide_name(host).map_err(|denial| {
                let env = secret.env();
                Error::Config(format!(
                    "nothing could put the secret {env} in for {host}: {denial}; allow the host or drop it from the secret"
                ))
            })?;
        }
    }
    Ok(())
}

/// Refuses a secret for a host that is bypassed by name; returns warnings for patterns that overlap.
pub(crate) fn check_bypass(
    secrets: &[Secret],
    interception: &Interception,
) -> Result<Vec<String>, Error> {
    let mut warnings = Vec::new();
    for secret in secrets {
        let env = secret.env();
        for pattern in secret.scope().patterns().iter() {
            match &pattern {
                HostPattern::Exact(host)
                    if secret.requires_tls_identity() && interception.bypass.covers(host) =>
                {
                    return Err(Error::Config(format!(
                        "nothing could put the secret {env} in for {host}: that host is bypassed; drop the bypass or the host"
                    )));
                }
                _ => {}
            }
            for bypass in interception.bypass.iter().filter(|b| b.overlaps(&pattern)) {
                warnings.push(format!(
                    "the secret {env} is allowed for {pattern}, but is not put in for what the bypass {bypass} covers"
                ));
            }
        }
    }
    Ok(warnings)
}
