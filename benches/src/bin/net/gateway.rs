//! msb's side: the network of a sandbox in a process of its own, as the rivals' are.

use std::os::fd::AsFd as _;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use msb_net::{Config, Link};
use msb_policy::NetworkPolicy;

/// The first argument that makes this program a gateway, whose TAP device is its standard input.
pub(crate) const GATEWAY: &str = "gateway";
/// More than any case opens.
pub(crate) const MAX_FLOWS: usize = 65_000;

/// Serves the guest until the device is gone; the argument is the name server to ask.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let nameserver = args.first().context("no name server")?.parse()?;
    crate::raise_descriptor_limit()?;
    let device = std::io::stdin().as_fd().try_clone_to_owned()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut config = Config::new(Arc::new(NetworkPolicy::parse("public,host")?));
        config.max_flows = MAX_FLOWS;
        config.nameservers = Some(vec![nameserver]);
        let link = Link::tap(device).context("standard input is no TAP device")?;
        let (network, mut flows) = msb_net::start(link, config);
        while let Some(flow) = flows.recv().await {
            tokio::spawn(flow.relay());
        }
        drop(network);
        Ok(())
    })
}
