//! Entries of an archive, one after another.

use std::io::{self, Read};

use tar::{EntryType, Header};

use crate::extensions::Extensions;
use crate::{BLOCK, Entry, Error, Kind, padding};

/// Passed over at once, in bytes.
const CHUNK: usize = 16 << 10;

/// The entries of the archive that a stream yields, and their data. Reads no further than it has to.
#[derive(Debug)]
pub struct Reader<R> {
    from: R,
    at: u64,
    /// Of the current entry's data.
    left: u64,
    padding: u64,
    /// Most bytes that may describe one entry besides its header block.
    extension_limit: u64,
    has_end: bool,
}

impl<R: Read> Reader<R> {
    /// Reads from `from`. Long names, pax records and attributes of one entry have `extension_limit` bytes together at most,
    /// which is also the most that is kept in memory.
    pub fn new(from: R, extension_limit: u64) -> Self {
        Self {
            from,
            at: 0,
            left: 0,
            padding: 0,
            extension_limit,
            has_end: false,
        }
    }

    /// How much was read of the archive, in bytes: behind [`next`](Self::next) the entry's data begin here.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// Whether the archive's end was marked as such. Some tools leave that out.
    pub fn has_end(&self) -> bool {
        self.has_end
    }

    /// The stream, to be read on behind the archive's end.
    pub fn into_inner(self) -> R {
        self.from
    }

    /// The next entry, or None at the end. What was not read of the last one's data is passed over.
    ///
    /// # Errors
    /// [`Error`]. The reader is of no more use then.
    #[expect(
        clippy::should_implement_trait,
        reason = "an entry and its data are read in turn, which no iterator allows"
    )]
    pub fn next(&mut self) -> Result<Option<Entry>, Error> {
        let mut extensions = Extensions::default();
        let mut room = self.extension_limit;
        loop {
            if !self.skip()? {
                return Ok(None);
            }
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            let size = self.number(header.entry_size(), &header.as_old().size)?;
            match header.entry_type() {
                EntryType::GNULongName => extensions.path = Some(self.name(size, &mut room)?),
                EntryType::GNULongLink => extensions.link = Some(self.name(size, &mut room)?),
                EntryType::XHeader => {
                    let records = self.extension(size, &mut room)?;
                    if extensions.read(&records).is_none() {
                        return Err(self.wrong("an extended header that does not parse"));
                    }
                }
                // Says nothing about one file.
                EntryType::XGlobalHeader => {
                    let mut room = self.extension_limit;
                    drop(self.extension(size, &mut room)?);
                }
                _ => return self.entry(&header, extensions, size).map(Some),
            }
        }
    }

    /// Some of the current file's data; empty at its end.
    ///
    /// # Errors
    /// [`Error::Archive`] if it is cut off, [`Error::Read`].
    pub fn data<'a>(&mut self, buffer: &'a mut [u8]) -> Result<&'a [u8], Error> {
        let most = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        if most == 0 {
            return Ok(&[]);
        }
        let len = read(&mut self.from, &mut buffer[..most])?;
        if len == 0 {
            return Err(self.wrong("it is cut off in an entry's data"));
        }
        self.left -= len as u64;
        self.at += len as u64;
        Ok(&buffer[..len])
    }

    fn entry(&mut self, header: &Header, with: Extensions, size: u64) -> Result<Entry, Error> {
        let path = with
            .path
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let kind = match kind(header, &path, with.link, with.size.unwrap_or(size)) {
            Ok(kind) => kind,
            Err(problem) => return Err(Error::Entry { path, problem }),
        };
        let old = header.as_old();
        let said_or = |said: Option<u64>, read: io::Result<u64>, field: &[u8]| match said {
            Some(said) => Ok(said),
            None => self.number(read, field),
        };
        let uid = said_or(with.uid, header.uid(), &old.uid)?;
        let gid = said_or(with.gid, header.gid(), &old.gid)?;
        let mtime = match with.mtime {
            Some(mtime) => mtime,
            // Before 1970.
            None if old.mtime[0] == 0xff => 0,
            None => self.number(header.mtime(), &old.mtime)?,
        };
        let mode = self.number(header.mode().map(u64::from), &old.mode)?;
        self.left = match kind {
            Kind::File(size) => size,
            _ => 0,
        };
        self.padding = padding(self.left).len() as u64;
        Ok(Entry {
            path,
            kind,
            mode: u32::try_from(mode & 0o7777).unwrap_or_default(),
            uid,
            gid,
            mtime,
            xattrs: with.xattrs,
        })
    }

    /// The next header block, checked by its sum; None at the archive's end.
    fn header(&mut self) -> Result<Option<Header>, Error> {
        let Some(block) = self.block()? else {
            return Ok(None);
        };
        if block.iter().all(|byte| *byte == 0) {
            return match self.block()? {
                Some(second) if second.iter().any(|byte| *byte != 0) => {
                    Err(self.wrong("one empty block between entries"))
                }
                _ => {
                    self.has_end = true;
                    Ok(None)
                }
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

    fn name(&mut self, size: u64, room: &mut u64) -> Result<Vec<u8>, Error> {
        let mut name = self.extension(size, room)?;
        if let Some(end) = name.iter().position(|byte| *byte == 0) {
            name.truncate(end);
        }
        Ok(name)
    }

    /// The data of an extension header, if there is room for them. They take up room as they come.
    fn extension(&mut self, size: u64, room: &mut u64) -> Result<Vec<u8>, Error> {
        *room = room
            .checked_sub(size)
            .ok_or_else(|| self.wrong("an entry with names and attributes that are too long"))?;
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

    /// Passes over what is left of an entry. Whether anything may follow: some tools end their archives right behind the last
    /// file's data, which Go's archive/tar takes, too.
    fn skip(&mut self) -> Result<bool, Error> {
        let mut chunk = [0; CHUNK];
        while !self.data(&mut chunk)?.is_empty() {}
        let padding = usize::try_from(self.padding).unwrap_or(BLOCK);
        self.padding = 0;
        let mut passed = 0;
        while passed < padding {
            match read(&mut self.from, &mut chunk[passed..padding])? {
                0 if passed == 0 => return Ok(false),
                0 => return Err(self.wrong("it is cut off behind an entry's data")),
                len => passed += len,
            }
        }
        self.at += padding as u64;
        Ok(true)
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

/// The current file's data. An archive that is cut off is an error of [`io::ErrorKind::UnexpectedEof`].
impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.data(buffer)
            .map(<[u8]>::len)
            .map_err(|error| match error {
                Error::Read(error) => error,
                cut_off => io::Error::new(io::ErrorKind::UnexpectedEof, cut_off),
            })
    }
}

fn read(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match from.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

/// What the entry is, or why it cannot be. What has no data is decided as Go's archive/tar does.
fn kind(
    header: &Header,
    path: &[u8],
    link: Option<Vec<u8>>,
    size: u64,
) -> Result<Kind, &'static str> {
    let target = || {
        link.or_else(|| Some(header.link_name_bytes()?.into_owned()))
            .filter(|target| !target.is_empty())
            .ok_or("is a link to nothing")
    };
    let device = || {
        let part = |part: io::Result<Option<u32>>| part.ok().flatten();
        let (major, minor) = (part(header.device_major()), part(header.device_minor()));
        match (major, minor) {
            (Some(major @ ..0x1000), Some(minor @ ..0x10_0000)) => Ok((major, minor)),
            _ => Err("is a device with impossible numbers"),
        }
    };
    match header.entry_type() {
        // Archives of before 1988.
        EntryType::Regular if header.as_old().linkflag == [0] && path.ends_with(b"/") => {
            Ok(Kind::Directory)
        }
        EntryType::Regular | EntryType::Continuous => Ok(Kind::File(size)),
        EntryType::Directory => Ok(Kind::Directory),
        EntryType::Symlink => target().map(Kind::Symlink),
        EntryType::Link => target().map(Kind::HardLink),
        EntryType::Fifo => Ok(Kind::Fifo),
        EntryType::Char => device().map(|(major, minor)| Kind::CharDevice(major, minor)),
        EntryType::Block => device().map(|(major, minor)| Kind::BlockDevice(major, minor)),
        EntryType::GNUSparse => Err("is stored as a sparse file of GNU tar"),
        _ => Err("is of an unknown type"),
    }
}
