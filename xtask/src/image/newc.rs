//! Writes cpio archives in the "newc" format of initramfs files
//! (Linux `Documentation/driver-api/early-userspace/buffer-format.rst`). Pure.

/// An archive being written. Owners are root and times zero, so equal files give equal bytes.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;

impl Archive {
    /// Adds a directory with mode 755; the kernel does not create parents by itself.
    pub(crate) fn directory(&mut self, path: &str) {
        self.entry(path, DIRECTORY | 0o755, &[]);
    }

    /// Adds a file with the permission bits `mode`.
    pub(crate) fn file(&mut self, path: &str, mode: u32, contents: &[u8]) {
        self.entry(path, FILE | mode, contents);
    }

    /// The finished archive. The kernel unpacks several, one behind the other.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entries = 0;
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, contents: &[u8]) {
        self.entries += 1;
        let links = 1;
        let device_and_times_unset = 0;
        let len = u32::try_from(contents.len()).expect("files of an initramfs are below 4 GiB");
        let path_len = u32::try_from(path.len() + 1).expect("paths are short");
        let header = [
            self.entries,
            mode,
            device_and_times_unset,
            device_and_times_unset,
            links,
            device_and_times_unset,
            len,
            0,
            0,
            0,
            0,
            path_len,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in header {
            self.bytes
                .extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(contents);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_has_the_documented_layout() {
        let mut archive = Archive::default();
        archive.file("a", 0o755, b"xyz");
        let bytes = archive.finish();
        let header = "070701 00000001 000081ED 00000000 00000000 00000001 00000000 00000003 \
                      00000000 00000000 00000000 00000000 00000002 00000000"
            .replace(' ', "");
        assert!(bytes.starts_with(header.as_bytes()));
        assert_eq!(&bytes[110..116], b"a\0xyz\0");
        assert_eq!(bytes.len() % 4, 0);
        assert!(bytes.ends_with(b"TRAILER!!!\0\0\0\0"));
    }
}
