//! One QEMU microvm: described, started, watched and ended.
