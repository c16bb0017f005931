//! Tells kernels and squashfs files from other files by their first bytes. Pure.

/// Bytes of a file's beginning that the checks here need.
pub(crate) const HEAD_BYTES: usize = 1024;

/// Whether `head` begins a kernel that QEMU's microvm boots with `-kernel`: an ELF image for
/// x86-64 or a bzImage (Linux `Documentation/arch/x86/boot.rst`: "HdrS" at 0x202).
pub(crate) fn is_kernel(head: &[u8]) -> bool {
    const ELF_64_LITTLE_ENDIAN: &[u8] = b"\x7fELF\x02\x01";
    const EM_X86_64: &[u8] = &[62, 0];
    let elf = head.starts_with(ELF_64_LITTLE_ENDIAN) && head.get(18..20) == Some(EM_X86_64);
    elf || head.get(0x202..0x206) == Some(b"HdrS")
}

/// Length of the squashfs 4.x file system that `head` begins, or None if it begins none
/// (superblock: magic at 0, major version at 28, bytes used at 40, all little-endian).
pub(crate) fn squashfs_len(head: &[u8]) -> Option<u64> {
    let major = head.get(28..30)?;
    let bytes_used = head.get(40..48)?.try_into().ok()?;
    (head.starts_with(b"hsqs") && major == [4, 0]).then(|| u64::from_le_bytes(bytes_used))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_elf_for_x86_64_or_bzimage() {
        let mut elf = vec![0; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[18] = 62;
        assert!(is_kernel(&elf));
        elf[18] = 183;
        assert!(!is_kernel(&elf), "an ELF file for another machine");

        let mut bzimage = vec![0; HEAD_BYTES];
        bzimage[0x202..0x206].copy_from_slice(b"HdrS");
        assert!(is_kernel(&bzimage));
        assert!(!is_kernel(&bzimage[..0x204]));
        assert!(!is_kernel(b""));
    }

    #[test]
    fn squashfs_is_known_by_magic_and_major_version() {
        let mut head = vec![0; 96];
        head[..4].copy_from_slice(b"hsqs");
        head[28] = 4;
        head[40..48].copy_from_slice(&4096_u64.to_le_bytes());
        assert_eq!(squashfs_len(&head), Some(4096));
        assert_eq!(squashfs_len(&head[..40]), None);
        head[28] = 3;
        assert_eq!(squashfs_len(&head), None);
    }
}
