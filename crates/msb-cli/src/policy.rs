//! The flags about what may be reached.

use clap::Args;
use msb::NetworkBuilder;
use msb::policy::{Action, HttpRule, Rule};

#[derive(Clone, Debug, Args)]
pub(crate) struct PolicyArgs {
    /// What may be reached: a comma-separated list of public, private, host, metadata, all, none. `host` opens every
    /// service on the host, those listening on its loopback interface only included. Default: public, or nothing where
    /// --net-default or --net-default-egress is given.
    #[arg(long = "net", value_name = "PROFILES")]
    pub(crate) net: Option<String>,

    /// A rule that comes before the profiles: `allow|deny[:egress|ingress|any]@TARGET[:PROTOCOLS[:PORTS]]`, such as
    /// `allow@10.0.0.5:tcp:5432` or `deny@*.example.com`. TARGET is any, an address or block (IPv6 in brackets), a host, *.domain
    /// or a group: public, private, reserved, loopback, link-local, metadata, multicast, host. The first rule that matches
    /// decides. May be repeated.
    #[arg(long = "net-rule", value_name = "RULE")]
    pub(crate) net_rules: Vec<Rule>,

    /// What happens where no rule matches: allow or deny.
    #[arg(long, value_name = "ACTION", conflicts_with_all = ["net_default_egress", "net_default_ingress"])]
    pub(crate) net_default: Option<Action>,

    /// As --net-default, for what is opened from inside only. Default: deny.
    #[arg(long, value_name = "ACTION")]
    pub(crate) net_default_egress: Option<Action>,

    /// As --net-default, for connections to published ports only. Default: allow.
    #[arg(long, value_name = "ACTION")]
    pub(crate) net_default_ingress: Option<Action>,

    /// A rule about requests: 'allow|deny METHODS HOST[/PATH]', such as 'allow GET,HEAD api.github.com/repos/**'. A host
    /// that some rule names is denied what no rule allows, and everything that is not HTTP. May be repeated.
    #[arg(long = "http-rule", value_name = "RULE")]
    pub(crate) http_rules: Vec<HttpRule>,
}

impl PolicyArgs {
    /// Applies the flags.
    pub(crate) fn network(&self, mut network: NetworkBuilder) -> NetworkBuilder {
        if let Some(profiles) = &self.net {
            network = network.profiles(profiles);
        }
        for rule in &self.net_rules {
            network = network.rule(rule);
        }
        if let Some(action) = self.net_default_egress.or(self.net_default) {
            network = network.default_egress(action);
        }
        if let Some(action) = self.net_default_ingress.or(self.net_default) {
            network = network.default_ingress(action);
        }
        for rule in &self.http_rules {
            network = network.http_rule(rule);
        }
        network
    }
}
