//! The flags about how much of the network a sandbox may use.

use clap::Args;
use msb::NetworkBuilder;

#[derive(Clone, Debug, Args)]
pub(crate) struct LimitArgs {
    /// How many TCP connections may be open at once, and as many flows of UDP; more are refused. Default: 256.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) max_connections: Option<u16>,
}

impl LimitArgs {
    /// Applies the flags.
    pub(crate) fn network(&self, mut network: NetworkBuilder) -> NetworkBuilder {
        if let Some(connections) = self.max_connections {
            network = network.max_connections(connections);
        }
        network
    }
}
