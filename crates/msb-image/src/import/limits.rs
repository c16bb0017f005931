//! How much an image may be, and what of it is used up. Pure.

use super::error::LayerError;

/// What one image may take. The defaults are several times what the largest images in use need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImportLimits {
    /// Bytes of all layers together, unpacked. Default: 32 GiB.
    pub unpacked_bytes: u64,
    /// Entries of all layers together, and directories nobody mentioned. Default: 1,000,000.
    pub entries: u64,
    /// Bytes of names, link targets and extended attributes. Default: 256 MiB.
    pub metadata_bytes: u64,
    /// Steps of finding paths and hiding what whiteouts name. Default: 200,000,000, about ten seconds.
    pub steps: u64,
}

impl Default for ImportLimits {
    fn default() -> Self {
        Self {
            unpacked_bytes: 32 << 30,
            entries: 1_000_000,
            metadata_bytes: 256 << 20,
            steps: 200_000_000,
        }
    }
}

/// What is left of the limits.
#[derive(Debug)]
pub(super) struct Budget {
    limits: ImportLimits,
    left: ImportLimits,
}

impl Budget {
    pub(super) fn new(limits: ImportLimits) -> Self {
        Self {
            limits,
            left: limits,
        }
    }

    pub(super) fn unpacked_left(&self) -> u64 {
        self.left.unpacked_bytes
    }

    pub(super) fn unpacked_limit(&self) -> u64 {
        self.limits.unpacked_bytes
    }

    pub(super) fn unpacked(&mut self, bytes: u64) {
        self.left.unpacked_bytes = self.left.unpacked_bytes.saturating_sub(bytes);
    }

    pub(super) fn entry(&mut self) -> Result<(), LayerError> {
        take(&mut self.left.entries, 1, "entries", self.limits.entries)
    }

    pub(super) fn metadata(&mut self, bytes: usize) -> Result<(), LayerError> {
        let limit = self.limits.metadata_bytes;
        let what = "bytes of names and attributes";
        take(&mut self.left.metadata_bytes, bytes as u64, what, limit)
    }

    pub(super) fn steps(&mut self, steps: usize) -> Result<(), LayerError> {
        let limit = self.limits.steps;
        let what = "steps through directories";
        take(&mut self.left.steps, steps as u64, what, limit)
    }
}

fn take(left: &mut u64, amount: u64, what: &'static str, limit: u64) -> Result<(), LayerError> {
    *left = left
        .checked_sub(amount)
        .ok_or(LayerError::Limit { what, limit })?;
    Ok(())
}
