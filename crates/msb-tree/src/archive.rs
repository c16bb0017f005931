//! Entries of a tar archive: written, and read as a stream within bounds.
//!
//! Header blocks are the `tar` crate's; its own reader is not used, because it keeps names of any length in memory.

use std::io::{self, Read, Write};

use tar::{EntryType, Header};

use crate::Error;

const BLOCK: usize = 512;
/// Of one name, in bytes, its extended header's other records included. Linux' paths end at 4096.
const EXTENSION_LIMIT: u64 = 64 << 10;

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    /// So many bytes of data follow.
    File(u64),
    Symlink(Vec<u8>),
    /// To another entry's name.
    HardLink(Vec<u8>),
}

/// One entry without its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// As the archive says it.
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    /// Permission, set-id and sticky bits.
    pub(crate) mode: u32,
    /// Seconds since 1970.
    pub(crate) mtime: u64,
}

/// Writes the entry's header. A file's data and [`padding`] follow.
pub(crate) fn write(entry: &Entry, sink: &mut dyn Write) -> io::Result<()> {
    let mut header = Header::new_ustar();
    let (kind, link, size) = match &entry.kind {
        Kind::Directory => (EntryType::Directory, None, 0),
        Kind::File(size) => (EntryType::Regular, None, *size),
        Kind::Symlink(target) => (EntryType::Symlink, Some(target), 0),
        Kind::HardLink(target) => (EntryType::Link, Some(target), 0),
    };
    let mut records = Vec::new();
    let fields = header.as_old_mut();
    set(&mut fields.name, &entry.path, "path", &mut records);
    if let Some(target) = link {
        set(&mut fields.linkname, target, "linkpath", &mut records);
    }
    if !records.is_empty() {
        let mut extended = Header::new_ustar();
        extended.set_entry_type(EntryType::XHeader);
        extended.set_size(records.len() as u64);
        extended.set_cksum();
        sink.write_all(extended.as_bytes())?;
        sink.write_all(&records)?;
        sink.write_all(padding(records.len() as u64))?;
    }
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(entry.mode);
    header.set_mtime(entry.mtime);
    header.set_uid(0);
    header.set_gid(0);
    header.set_cksum();
    sink.write_all(header.as_bytes())
}

/// Two empty blocks say that the archive ends here.
pub(crate) fn write_end(sink: &mut dyn Write) -> io::Result<()> {
    sink.write_all(&[0; 2 * BLOCK])
}

/// What fills up the last block of so many bytes.
pub(crate) fn padding(size: u64) -> &'static [u8] {
    const ZEROS: [u8; BLOCK] = [0; BLOCK];
    let rest = usize::try_from(size % BLOCK as u64).unwrap_or_default();
    match rest {
        0 => &[],
        rest => &ZEROS[rest..],
    }
}

/// Into the header's field, or as a pax record where that is too short.
fn set(field: &mut [u8; 100], value: &[u8], key: &str, records: &mut Vec<u8>) {
    if value.len() <= field.len() {
        field[..value.len()].copy_from_slice(value);
        return;
    }
    // The record's length counts its own digits.
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len != rest + len.to_string().len() {
        len = rest + len.to_string().len();
    }
    records.extend_from_slice(format!("{len} {key}=").as_bytes());
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// The entries of the archive that `from` yields.
#[derive(Debug)]
pub(crate) struct Entries<R> {
    from: R,
    at: u64,
    /// Of the current entry's data.
    left: u64,
    padding: u64,
}

/// What extension headers say about the entry behind them.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    mtime: Option<u64>,
}

impl<R: Read> Entries<R> {
    pub(crate) fn new(from: R) -> Self {
        Self {
            from,
            at: 0,
            left: 0,
            padding: 0,
        }
    }

    /// The next entry, or `None` at the end. What was not read of the last one's data is passed over.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, Error> {
        let mut extensions = Extensions::default();
        loop {
            self.skip()?;
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            let size = self.number(header.entry_size(), &header.as_old().size)?;
            match header.entry_type() {
                EntryType::GNULongName => extensions.path = Some(self.name(size)?),
                EntryType::GNULongLink => extensions.link = Some(self.name(size)?),
                EntryType::XHeader => {
                    let records = self.extension(size)?;
                    if extensions.read(&records).is_none() {
                        return Err(self.wrong("an extended header that does not parse"));
                    }
                }
                // Says nothing about one file.
                EntryType::XGlobalHeader => drop(self.extension(size)?),
                _ => return self.entry(&header, extensions, size).map(Some),
            }
        }
    }

    /// Reads on behind the archive's end, so that whoever writes the stream is not cut off.
    pub(crate) fn drain(mut self) -> Result<(), Error> {
        io::copy(&mut self.from, &mut io::sink())
            .map(drop)
            .map_err(Error::Stream)
    }

    /// Some of the current file's data; empty at its end.
    pub(crate) fn data<'a>(&mut self, buffer: &'a mut [u8]) -> Result<&'a [u8], Error> {
        let most = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        if most == 0 {
            return Ok(&[]);
        }
        let len = read(&mut self.from, &mut buffer[..most])?;
        if len == 0 {
            return Err(self.wrong("it is cut off in a file"));
        }
        self.left -= len as u64;
        self.at += len as u64;
        Ok(&buffer[..len])
    }

    fn entry(&mut self, header: &Header, with: Extensions, size: u64) -> Result<Entry, Error> {
        let path = with
            .path
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let refused = |problem| Error::Refused {
            path: crate::unpack::path_of(&path),
            problem,
        };
        let link = with
            .link
            .or_else(|| Some(header.link_name_bytes()?.into_owned()))
            .filter(|target| !target.is_empty());
        let target = || link.ok_or_else(|| refused("is a link to nothing"));
        let kind = match header.entry_type() {
            EntryType::Directory => Kind::Directory,
            // As archives of before 1988 have directories.
            EntryType::Regular if path.ends_with(b"/") => Kind::Directory,
            EntryType::Regular | EntryType::Continuous => Kind::File(with.size.unwrap_or(size)),
            EntryType::Symlink => Kind::Symlink(target()?),
            EntryType::Link => Kind::HardLink(target()?),
            EntryType::Char | EntryType::Block => return Err(refused("is a device")),
            EntryType::Fifo => return Err(refused("is a pipe")),
            _ => return Err(refused("is of a kind that is not known")),
        };
        self.left = match kind {
            Kind::File(size) => size,
            _ => 0,
        };
        self.padding = padding(self.left).len() as u64;
        let mode = self.number(header.mode().map(u64::from), &header.as_old().mode)?;
        let mtime = match with.mtime {
            Some(mtime) => mtime,
            // Before 1970 is 1970.
            None if header.as_old().mtime[0] == 0xff => 0,
            None => self.number(header.mtime(), &header.as_old().mtime)?,
        };
        Ok(Entry {
            path,
            kind,
            mode: u32::try_from(mode & 0o7777).unwrap_or_default(),
            mtime,
        })
    }

    /// The next header block, checked by its sum; None at the archive's end.
    fn header(&mut self) -> Result<Option<Header>, Error> {
        let Some(block) = self.block()? else {
            return Err(self.wrong("it is cut off before its end"));
        };
        if block.iter().all(|byte| *byte == 0) {
            return match self.block()? {
                Some(second) if second.iter().any(|byte| *byte != 0) => {
                    Err(self.wrong("one empty block between entries"))
                }
                _ => Ok(None),
            };
        }
        let mut header = Header::new_old();
        header.as_mut_bytes().copy_from_slice(&block);
        let before = block[..148].iter().chain(&block[156..]);
        let sum: u32 = before.map(|byte| u32::from(*byte)).sum::<u32>() + 8 * u32::from(b' ');
        if header.cksum().ok() != Some(sum) {
            return Err(self.wrong("no header with a right checksum"));
        }
        Ok(Some(header))
    }

    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, Error> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match read(&mut self.from, &mut block[filled..])? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(self.wrong("it is cut off in a header")),
                len => filled += len,
            }
        }
        self.at += BLOCK as u64;
        Ok(Some(block))
    }

    fn name(&mut self, size: u64) -> Result<Vec<u8>, Error> {
        let mut name = self.extension(size)?;
        if let Some(end) = name.iter().position(|byte| *byte == 0) {
            name.truncate(end);
        }
        Ok(name)
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>, Error> {
        if size > EXTENSION_LIMIT {
            return Err(self.wrong("a name of more than 64 KiB"));
        }
        self.left = size;
        self.padding = padding(size).len() as u64;
        let (mut bytes, mut chunk) = (Vec::new(), [0; 4096]);
        loop {
            match self.data(&mut chunk)? {
                [] => return Ok(bytes),
                piece => bytes.extend_from_slice(piece),
            }
        }
    }

    fn skip(&mut self) -> Result<(), Error> {
        self.left = self
            .left
            .checked_add(self.padding)
            .ok_or_else(|| self.wrong("a file larger than there can be"))?;
        self.padding = 0;
        let mut chunk = [0; 4096];
        while !self.data(&mut chunk)?.is_empty() {}
        Ok(())
    }

    /// A field; nothing written in it is 0, as every tar takes it.
    fn number(&self, read: io::Result<u64>, field: &[u8]) -> Result<u64, Error> {
        if field.iter().all(|byte| matches!(byte, 0 | b' ')) {
            return Ok(0);
        }
        read.map_err(|_| self.wrong("a header with a field that is no number"))
    }

    fn wrong(&self, problem: &'static str) -> Error {
        Error::Archive {
            at: self.at,
            problem,
        }
    }
}

fn read(from: &mut impl Read, buffer: &mut [u8]) -> Result<usize, Error> {
    loop {
        match from.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => return read.map_err(Error::Stream),
        }
    }
}

impl Extensions {
    /// Takes the records of a POSIX extended header; None if they do not parse.
    fn read(&mut self, mut records: &[u8]) -> Option<()> {
        while !records.is_empty() {
            let space = records.iter().take(20).position(|byte| *byte == b' ')?;
            let len: usize = std::str::from_utf8(&records[..space]).ok()?.parse().ok()?;
            let record = records.get(space + 1..len)?.strip_suffix(b"\n")?;
            let equals = record.iter().position(|byte| *byte == b'=')?;
            self.set(&record[..equals], &record[equals + 1..])?;
            records = &records[len..];
        }
        Some(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let text = || std::str::from_utf8(value).ok();
        match key {
            // An empty value takes back what was said before.
            b"path" => self.path = Some(value.to_owned()).filter(|path| !path.is_empty()),
            b"linkpath" => self.link = Some(value.to_owned()).filter(|path| !path.is_empty()),
            b"size" => self.size = Some(text()?.parse().ok()?),
            b"mtime" => {
                let whole = text()?.split('.').next()?;
                self.mtime = Some(u64::try_from(whole.parse::<i64>().ok()?).unwrap_or(0));
            }
            // The file would come out under another name, with other contents.
            _ if key.starts_with(b"GNU.sparse.") => return None,
            _ => {}
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entries(mut archive: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, Error> {
        let mut entries = Entries::new(&mut archive);
        let mut all = Vec::new();
        while let Some(entry) = entries.next()? {
            let (mut data, mut chunk) = (Vec::new(), [0; 7]);
            loop {
                match entries.data(&mut chunk)? {
                    [] => break,
                    piece => data.extend_from_slice(piece),
                }
            }
            all.push((entry, data));
        }
        Ok(all)
    }

    fn name() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![1..=255_u8, Just(b'/')];
        prop::collection::vec(byte, 1..300)
            .prop_filter("no directory", |name| !name.ends_with(b"/"))
    }

    fn kind() -> impl Strategy<Value = (Kind, Vec<u8>)> {
        let data = prop::collection::vec(any::<u8>(), 0..1500);
        prop_oneof![
            Just((Kind::Directory, Vec::new())),
            name().prop_map(|target| (Kind::Symlink(target), Vec::new())),
            name().prop_map(|target| (Kind::HardLink(target), Vec::new())),
            data.prop_map(|data| (Kind::File(data.len() as u64), data)),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(all in prop::collection::vec((name(), kind(), 0..0o10000_u32, 0..1_u64 << 40), 0..8)) {
            let mut archive = Vec::new();
            let mut expected = Vec::new();
            for (path, (kind, data), mode, mtime) in all {
                let entry = Entry { path, kind, mode, mtime };
                write(&entry, &mut archive).expect("memory");
                archive.extend_from_slice(&data);
                archive.extend_from_slice(padding(data.len() as u64));
                expected.push((entry, data));
            }
            let open = archive.clone();
            write_end(&mut archive).expect("memory");
            prop_assert_eq!(entries(&archive).expect("whole"), expected);
            // However far it has come: what is cut off is known to be.
            for cut in [0, open.len() / 2, open.len()] {
                let cut_off = entries(&open[..cut]);
                prop_assert!(matches!(cut_off, Err(Error::Archive { .. })), "{:?}", cut_off);
            }
        }

        #[test]
        fn garbage_is_an_error(bytes in prop::collection::vec(any::<u8>(), 512..4096)) {
            let _ = entries(&bytes);
        }
    }

    #[test]
    fn what_an_archive_announces_is_not_believed() {
        let header = |kind: EntryType, size: u64| {
            let mut header = Header::new_ustar();
            header.as_old_mut().name[..1].copy_from_slice(b"x");
            header.set_entry_type(kind);
            header.set_size(size);
            header.set_cksum();
            header.as_bytes().to_vec()
        };
        for (archive, part) in [
            (header(EntryType::Regular, u64::MAX), "cut off in a file"),
            (header(EntryType::XHeader, u64::MAX), "more than 64 KiB"),
            (header(EntryType::GNULongName, 65537), "more than 64 KiB"),
            (
                header(EntryType::XGlobalHeader, 1 << 40),
                "more than 64 KiB",
            ),
            (header(EntryType::Char, 0), "is a device"),
            (header(EntryType::Block, 0), "is a device"),
            (header(EntryType::Fifo, 0), "is a pipe"),
            (header(EntryType::GNUSparse, 0), "not known"),
            (header(EntryType::Symlink, 0), "link to nothing"),
        ] {
            let error = entries(&archive).expect_err(part).to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
