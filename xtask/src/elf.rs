//! Reads what the image task asks of x86-64 ELF files: interpreter, notes, sections. Pure.

/// A 64-bit little-endian ELF file for x86-64 (System V ABI, "Object Files").
#[derive(Clone, Copy, Debug)]
pub(crate) struct Elf<'a> {
    bytes: &'a [u8],
}

const PT_INTERP: u32 = 3;
const PT_NOTE: u32 = 4;

impl<'a> Elf<'a> {
    /// Some if `bytes` begin with the header of such a file.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let machine = number(bytes, 18, 2)?;
        (bytes.starts_with(b"\x7fELF\x02\x01") && machine == 62).then_some(Self { bytes })
    }

    /// Whether the program needs no dynamic loader.
    pub(crate) fn is_static(self) -> bool {
        self.segments().all(|(kind, _)| kind != PT_INTERP)
    }

    /// Whether the kernel can be entered directly: it has Xen's note 18, the PVH entry point
    /// (`XEN_ELFNOTE_PHYS32_ENTRY`), which is what QEMU looks for.
    pub(crate) fn has_pvh_entry(self) -> bool {
        self.segments()
            .filter(|(kind, _)| *kind == PT_NOTE)
            .any(|(_, notes)| has_note(notes, b"Xen\0", 18))
    }

    /// The contents of the section called `name`.
    pub(crate) fn section(self, name: &str) -> Option<&'a [u8]> {
        let table = index(self.bytes, 0x28, 8)?;
        let size = index(self.bytes, 0x3a, 2)?;
        let count = index(self.bytes, 0x3c, 2)?;
        let names = index(self.bytes, 0x3e, 2)?;
        let header = |at: usize| self.bytes.get(table + at * size..);
        let contents = |header: &[u8]| {
            let start = index(header, 0x18, 8)?;
            self.bytes
                .get(start..start.checked_add(index(header, 0x20, 8)?)?)
        };
        let names = contents(header(names)?)?;
        (0..count).find_map(|at| {
            let header = header(at)?;
            let found = names.get(index(header, 0, 4)?..)?;
            let found = found.split(|byte| *byte == 0).next()?;
            (found == name.as_bytes())
                .then(|| contents(header))
                .flatten()
        })
    }

    /// Program headers: type and contents.
    fn segments(self) -> impl Iterator<Item = (u32, &'a [u8])> {
        let header = move || {
            let table = index(self.bytes, 0x20, 8)?;
            let size = index(self.bytes, 0x36, 2)?;
            Some((table, size, index(self.bytes, 0x38, 2)?))
        };
        let (table, size, count) = header().unwrap_or_default();
        (0..count).filter_map(move |at| {
            let header = self.bytes.get(table + at * size..)?;
            let kind = u32::try_from(number(header, 0, 4)?).ok()?;
            let start = index(header, 8, 8)?;
            let end = start.checked_add(index(header, 0x20, 8)?)?;
            Some((kind, self.bytes.get(start..end)?))
        })
    }
}

fn has_note(mut notes: &[u8], owner: &[u8], kind: u64) -> bool {
    let mut found = || {
        let owner_len = index(notes, 0, 4)?;
        let data_len = index(notes, 4, 4)?;
        let this = notes.get(12..12 + owner_len)? == owner && number(notes, 8, 4)? == kind;
        notes = notes.get(12 + owner_len.next_multiple_of(4) + data_len.next_multiple_of(4)..)?;
        Some(this)
    };
    while let Some(this) = found() {
        if this {
            return true;
        }
    }
    false
}

/// The little-endian number of `len` bytes (up to 8) at `at`.
pub(crate) fn number(bytes: &[u8], at: usize, len: usize) -> Option<u64> {
    let mut wide = [0; 8];
    wide.get_mut(..len)?
        .copy_from_slice(bytes.get(at..at.checked_add(len)?)?);
    Some(u64::from_le_bytes(wide))
}

/// As [`number`], as an index.
pub(crate) fn index(bytes: &[u8], at: usize, len: usize) -> Option<usize> {
    usize::try_from(number(bytes, at, len)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_program_is_dynamic_and_has_its_sections() {
        let bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let elf = Elf::parse(&bytes).unwrap();
        assert!(!elf.is_static());
        assert!(!elf.has_pvh_entry());
        assert!(elf.section(".interp").unwrap().starts_with(b"/"));
        assert!(elf.section(".no-such").is_none());
    }

    #[test]
    fn every_prefix_is_read_without_panic() {
        let bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        for len in (0..4096).chain([bytes.len() / 2]) {
            if let Some(elf) = Elf::parse(&bytes[..len]) {
                let _ = (elf.is_static(), elf.has_pvh_entry(), elf.section(".text"));
            }
        }
    }

    #[test]
    fn note_is_found_behind_others_of_odd_length() {
        let mut notes = Vec::new();
        for (owner, kind, data) in [
            (&b"GNU\0"[..], 3_u32, &b"abcde"[..]),
            (b"Xen\0", 18, b"addr"),
        ] {
            for word in [owner.len() as u64, data.len() as u64, u64::from(kind)] {
                notes.extend_from_slice(&word.to_le_bytes()[..4]);
            }
            notes.extend_from_slice(owner);
            notes.extend_from_slice(data);
            notes.resize(notes.len().next_multiple_of(4), 0);
        }
        assert!(has_note(&notes, b"Xen\0", 18));
        assert!(!has_note(&notes, b"Xen\0", 17));
        assert!(!has_note(&notes[..20], b"Xen\0", 18));
    }
}
