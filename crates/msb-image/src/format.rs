//! Tells kernels, squashfs and ext4 files from other files by their first bytes. Pure.

use crate::resolve::DiskFormat;

/// Bytes of a file's beginning that the checks here need.
pub(crate) const HEAD_BYTES: usize = 2048;

/// A file system in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Disk {
    pub(crate) format: DiskFormat,
    /// Its length in bytes, by itself.
    pub(crate) len: u64,
    /// It is as it was when it was unmounted: a guest cannot replay what its journal has left.
    pub(crate) is_clean: bool,
}

/// The file system that `head` begins, if it begins one that a guest can have as its root.
pub(crate) fn disk(head: &[u8]) -> Option<Disk> {
    let squashfs = squashfs_len(head).map(|len| Disk {
        format: DiskFormat::Squashfs,
        len,
        is_clean: true,
    });
    squashfs.or_else(|| ext4(head))
}

/// The ext2, ext3 or ext4 file system that `head` begins; all three are mounted as ext4 (Linux
/// `Documentation/filesystems/ext4/super.rst`: superblock at 1024, in it the number of blocks at 4 and 0x150, the
/// size of blocks at 24, the magic at 0x38, features at 0x60, all little-endian).
fn ext4(head: &[u8]) -> Option<Disk> {
    const NEEDS_RECOVERY: u32 = 0x4;
    const HAS_64_BIT_NUMBERS: u32 = 0x80;
    let superblock = head.get(1024..)?;
    let number = |at: usize| {
        let bytes = superblock.get(at..at + 4)?.try_into().ok()?;
        Some(u32::from_le_bytes(bytes))
    };
    if superblock.get(0x38..0x3a)? != [0x53, 0xef] {
        return None;
    }
    let features = number(0x60)?;
    let high = match features & HAS_64_BIT_NUMBERS {
        0 => 0,
        _ => number(0x150)?,
    };
    let blocks = u64::from(high) << 32 | u64::from(number(4)?);
    // Linux takes blocks of 1 to 64 KiB.
    let block_bytes = 1024_u64 << number(24).filter(|shift| *shift <= 6)?;
    Some(Disk {
        format: DiskFormat::Ext4,
        len: blocks.checked_mul(block_bytes)?,
        is_clean: features & NEEDS_RECOVERY == 0,
    })
}

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
    fn ext4_is_known_by_its_magic_and_says_its_length() {
        let mut head = vec![0; HEAD_BYTES];
        let mut set = |at: usize, value: u32| {
            head[1024 + at..1024 + at + 4].copy_from_slice(&value.to_le_bytes());
            disk(&head)
        };
        assert_eq!(set(4, 100), None);
        let ext4 = |len| {
            Some(Disk {
                format: DiskFormat::Ext4,
                len,
                is_clean: true,
            })
        };
        assert_eq!(set(0x38, 0xef53), ext4(102_400));
        assert_eq!(set(24, 2), ext4(409_600));
        assert_eq!(set(0x150, 1), ext4(409_600), "only with its feature");
        assert_eq!(set(0x60, 0x80), ext4(((1 << 32) + 100) * 4096));
        assert_eq!(set(0x60, 0x84).map(|disk| disk.is_clean), Some(false));
        assert_eq!(set(24, 7), None, "no size of blocks that there is");
        assert_eq!(set(24, u32::MAX), None);
        set(24, 6);
        assert_eq!(set(0x150, u32::MAX), None, "more bytes than can be counted");
        assert_eq!(disk(&head[..1100]), None);
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
