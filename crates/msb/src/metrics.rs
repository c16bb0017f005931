//! How the guest is doing.

use std::time::Duration;

use msb_agent_proto::v1::{MeasureRequest, Measurements};

use crate::Error;
use crate::exec::explain;
use crate::link::Link;

/// What the guest says about itself. It is not trusted: nothing of this bounds it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Metrics {
    /// Since its start.
    pub uptime: Duration,
    /// Its memory in bytes, without what its kernel takes for itself.
    pub memory_total: u64,
    /// What programs could still have of it, in bytes.
    pub memory_available: u64,
    /// How many programs ran or wanted to, on average over the last minute.
    pub load: f64,
    /// Processes and threads, the kernel's own included.
    pub processes: u32,
    /// The room in its root file system, in bytes. What is written there is in memory.
    pub disk_total: u64,
    /// What is left of that, in bytes.
    pub disk_available: u64,
    /// How many programs its kernel has killed for want of memory.
    pub killed_for_memory: u64,
}

pub(crate) async fn measure(link: &Link) -> Result<Metrics, Error> {
    let mut client = link.client();
    let call = client.measure(MeasureRequest {});
    Ok(link.answer(call, explain).await?.into_inner().into())
}

impl From<Measurements> for Metrics {
    fn from(measured: Measurements) -> Self {
        // Loads are small; one that is not is none.
        let load = u32::try_from(measured.load_milli).unwrap_or(u32::MAX);
        Self {
            uptime: Duration::from_millis(measured.uptime_ms),
            memory_total: measured.memory_total_bytes,
            memory_available: measured.memory_available_bytes,
            load: f64::from(load) / 1000.0,
            processes: measured.processes,
            disk_total: measured.disk_total_bytes,
            disk_available: measured.disk_available_bytes,
            killed_for_memory: measured.killed_for_memory,
        }
    }
}
