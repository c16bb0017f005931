//! Kernels, initramfs files and root disks, by name or by path.
