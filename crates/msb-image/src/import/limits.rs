//! How much an image may be, and what of it is used up. Pure but for counters that threads share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use msb_tar::Kind;

use super::entries::Entry;
use super::error::LayerError;

const ENTRIES: &str = "entries";
const METADATA: &str = "bytes of names and attributes";

/// What one image may take. The defaults are several times what the largest images in use need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImportLimits {
    /// Bytes of all layers together, unpacked. Default: 32 GiB.
    pub unpacked_bytes: u64,
    /// Entries of all layers together, and directories nobody mentioned. Default: 1,000,000.
    pub entries: u64,
    /// Bytes of paths, link targets and extended attributes. Default: 256 MiB.
    pub metadata_bytes: u64,
    /// Steps of finding paths and hiding what whiteouts name. Default: 200,000,000, about ten seconds.
    pub steps: u64,
    /// Names that `mksquashfs` has to compare: it finds a path by going through all names of each directory on the way, so a
    /// directory of n files takes n². Default: 10,000,000,000, about two minutes: 100,000 files in one directory.
    pub comparisons: u64,
}

impl Default for ImportLimits {
    fn default() -> Self {
        Self {
            unpacked_bytes: 32 << 30,
            entries: 1_000_000,
            metadata_bytes: 256 << 20,
            steps: 200_000_000,
            comparisons: 10_000_000_000,
        }
    }
}

/// What the layers of one image have taken of the limits as they are read, several at once.
#[derive(Clone, Debug)]
pub(super) struct ReadBudget {
    limits: ImportLimits,
    used: Arc<Used>,
}

#[derive(Debug, Default)]
struct Used {
    unpacked_bytes: AtomicU64,
    entries: AtomicU64,
    metadata_bytes: AtomicU64,
}

impl ReadBudget {
    pub(super) fn new(limits: ImportLimits) -> Self {
        Self {
            limits,
            used: Arc::default(),
        }
    }

    pub(super) fn limits(&self) -> &ImportLimits {
        &self.limits
    }

    /// Counts unpacked bytes. Whether they are within the limit.
    pub(super) fn unpacked(&self, bytes: usize) -> bool {
        let bytes = bytes as u64;
        let before = self.used.unpacked_bytes.fetch_add(bytes, Ordering::Relaxed);
        before.saturating_add(bytes) <= self.limits.unpacked_bytes
    }

    /// Counts an entry that is kept in memory.
    pub(super) fn entry(&self, entry: &Entry) -> Result<(), LayerError> {
        let xattrs = entry.meta.xattrs.iter();
        let xattrs = xattrs.map(|(name, value)| name.len() + value.len());
        let link = match &entry.kind {
            Kind::Symlink(target) | Kind::HardLink(target) => target.len(),
            _ => 0,
        };
        let bytes = entry.path.len() + link + xattrs.sum::<usize>();
        let counts = [
            (&self.used.entries, 1, self.limits.entries, ENTRIES),
            (
                &self.used.metadata_bytes,
                bytes as u64,
                self.limits.metadata_bytes,
                METADATA,
            ),
        ];
        for (used, amount, limit, what) in counts {
            let before = used.fetch_add(amount, Ordering::Relaxed);
            if before.saturating_add(amount) > limit {
                return Err(LayerError::Limit { what, limit });
            }
        }
        Ok(())
    }
}

/// What is left of the limits for the tree.
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

    pub(super) fn entry(&mut self) -> Result<(), LayerError> {
        take(&mut self.left.entries, 1, ENTRIES, self.limits.entries)
    }

    pub(super) fn metadata(&mut self, bytes: usize) -> Result<(), LayerError> {
        let limit = self.limits.metadata_bytes;
        take(&mut self.left.metadata_bytes, bytes as u64, METADATA, limit)
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
