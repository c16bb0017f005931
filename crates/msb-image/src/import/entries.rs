//! Entries of a tar archive, read as a stream within bounds.
//!
//! Header blocks are the `tar` crate's; its own reader is not used, because it keeps names and attributes of any
//! length in memory. What is a header without data is decided as Go's archive/tar does, which the tools that make
//! images are written with.

use std::io::{self, Read};

use tar::{EntryType, Header};

use super::error::LayerError;

const BLOCK: usize = 512;
const BLOCK_BYTES: u64 = 512;
/// Of one long name or one set of extended attributes, in bytes. Linux allows 64 KiB for each attribute.
const EXTENSION_LIMIT: u64 = 1 << 20;

/// Owner, mode, time and extended attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    /// Permission bits, set-id and sticky ones included.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds since 1970, as squashfs keeps them.
    pub(super) mtime: u32,
    /// Those that squashfs can keep, by their whole name.
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum EntryKind {
    Directory,
    /// Its data follow.
    File,
    Symlink(Vec<u8>),
    /// To a path of the file system.
    HardLink(Vec<u8>),
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
}

/// One entry without its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// As the archive says it.
    pub(super) path: Vec<u8>,
    pub(super) kind: EntryKind,
    pub(super) meta: Meta,
    /// Bytes of data, of a file only.
    pub(super) size: u64,
}

/// The entries of the archive that `from` yields.
#[derive(Debug)]
pub(super) struct Entries<R> {
    from: R,
    at: u64,
    /// Of the current entry's data.
    data_left: u64,
    padding: u64,
}

/// What extension headers say about the entry behind them.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<u64>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<R: Read> Entries<R> {
    pub(super) fn new(from: R) -> Self {
        Self {
            from,
            at: 0,
            data_left: 0,
            padding: 0,
        }
    }

    /// Where in the archive this is, in bytes: behind `next`, where the entry's data begin.
    pub(super) fn position(&self) -> u64 {
        self.at
    }

    /// The reader, to be read to its end.
    pub(super) fn into_inner(self) -> R {
        self.from
    }

    /// The next entry; what was not read of the last one's data is passed over.
    ///
    /// # Errors
    /// [`LayerError`], or what reading fails with.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, Fault> {
        let mut extensions = Extensions::default();
        loop {
            self.skip()?;
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            let size = self.number(header.entry_size(), &header.as_old().size)?;
            match header.entry_type() {
                EntryType::GNULongName => extensions.path = Some(self.extension(size, true)?),
                EntryType::GNULongLink => extensions.link = Some(self.extension(size, true)?),
                EntryType::XHeader => {
                    let records = self.extension(size, false)?;
                    if extensions.read(&records).is_none() {
                        return Err(self.wrong("an extended header that does not parse"));
                    }
                }
                // Says nothing about files.
                EntryType::XGlobalHeader => drop(self.extension(size, false)?),
                _ => return self.entry(&header, extensions, size).map(Some),
            }
        }
    }

    fn entry(&mut self, header: &Header, with: Extensions, size: u64) -> Result<Entry, Fault> {
        let path = with
            .path
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let kind = self.kind(header, &path, with.link)?;
        let size = match kind {
            EntryKind::File => with.size.unwrap_or(size),
            _ => 0,
        };
        let old = header.as_old();
        let uid = with
            .uid
            .map_or_else(|| self.number(header.uid(), &old.uid), Ok)?;
        let gid = with
            .gid
            .map_or_else(|| self.number(header.gid(), &old.gid), Ok)?;
        let mtime = match with.mtime {
            Some(mtime) => mtime,
            // Before 1970 is 1970.
            None if old.mtime[0] == 0xff => 0,
            None => self.number(header.mtime(), &old.mtime)?,
        };
        let mode = header.mode().map(u64::from);
        let mode = self.number(mode, &old.mode)?;
        let id = |id: u64, what| {
            u32::try_from(id).map_err(|_| {
                LayerError::entry(&path, format!("has the {what} {id}, more than Linux knows"))
            })
        };
        let meta = Meta {
            mode: u32::try_from(mode & 0o7777).unwrap_or_default(),
            uid: id(uid, "owner")?,
            gid: id(gid, "group")?,
            mtime: u32::try_from(mtime).unwrap_or(u32::MAX),
            xattrs: with.xattrs,
        };
        self.data_left = size;
        self.padding = (BLOCK_BYTES - size % BLOCK_BYTES) % BLOCK_BYTES;
        Ok(Entry {
            path,
            kind,
            meta,
            size,
        })
    }

    fn kind(
        &self,
        header: &Header,
        path: &[u8],
        link: Option<Vec<u8>>,
    ) -> Result<EntryKind, Fault> {
        let target = || {
            link.or_else(|| Some(header.link_name_bytes()?.into_owned()))
                .filter(|target| !target.is_empty())
                .ok_or_else(|| LayerError::entry(path, "is a link to nothing"))
        };
        let device = || {
            let part = |part: io::Result<Option<u32>>| part.ok().flatten();
            let (major, minor) = (part(header.device_major()), part(header.device_minor()));
            // What a Linux device number and squashfs have room for.
            match (major, minor) {
                (Some(major @ ..0x1000), Some(minor @ ..0x10_0000)) => Ok((major, minor)),
                _ => Err(LayerError::entry(
                    path,
                    "is a device with impossible numbers",
                )),
            }
        };
        Ok(match header.entry_type() {
            // Archives of before 1988.
            EntryType::Regular if header.as_old().linkflag == [0] && path.ends_with(b"/") => {
                EntryKind::Directory
            }
            EntryType::Regular | EntryType::Continuous => EntryKind::File,
            EntryType::Directory => EntryKind::Directory,
            EntryType::Symlink => EntryKind::Symlink(target()?),
            EntryType::Link => EntryKind::HardLink(target()?),
            EntryType::Fifo => EntryKind::Fifo,
            EntryType::Char => {
                device().map(|(major, minor)| EntryKind::CharDevice(major, minor))?
            }
            EntryType::Block => {
                device().map(|(major, minor)| EntryKind::BlockDevice(major, minor))?
            }
            EntryType::GNUSparse => {
                return Err(LayerError::entry(
                    path,
                    "is stored as a sparse file of GNU tar, which layers are not",
                )
                .into());
            }
            other => {
                let problem = format!("is of the unknown type {:?}", char::from(other.as_byte()));
                return Err(LayerError::entry(path, problem).into());
            }
        })
    }

    /// The next header block, checked by its sum; None at the archive's end.
    fn header(&mut self) -> Result<Option<Header>, Fault> {
        let Some(block) = self.block()? else {
            return Ok(None);
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

    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, Fault> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.from.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(self.wrong("it is cut off in a header")),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.at += BLOCK_BYTES;
        Ok(Some(block))
    }

    fn extension(&mut self, size: u64, is_name: bool) -> Result<Vec<u8>, Fault> {
        if size > EXTENSION_LIMIT {
            return Err(self.wrong("a name or attributes of more than 1 MiB"));
        }
        self.data_left = size;
        self.padding = (BLOCK_BYTES - size % BLOCK_BYTES) % BLOCK_BYTES;
        let mut bytes = Vec::new();
        io::copy(self, &mut bytes)?;
        if self.data_left > 0 {
            return Err(self.wrong("it is cut off in a name or attributes"));
        }
        if is_name && let Some(end) = bytes.iter().position(|byte| *byte == 0) {
            bytes.truncate(end);
        }
        Ok(bytes)
    }

    fn skip(&mut self) -> Result<(), Fault> {
        io::copy(self, &mut io::sink())?;
        let padding = self.padding;
        let passed = io::copy(&mut (&mut self.from).take(padding), &mut io::sink())?;
        if self.data_left > 0 || passed < padding {
            return Err(self.wrong("it is cut off in an entry's data"));
        }
        self.at += padding;
        self.padding = 0;
        Ok(())
    }

    /// A field; nothing written in it is 0, as every tar takes it.
    fn number(&self, read: io::Result<u64>, field: &[u8]) -> Result<u64, Fault> {
        if field.iter().all(|byte| matches!(byte, 0 | b' ')) {
            return Ok(0);
        }
        read.map_err(|_| self.wrong("a header with a field that is no number"))
    }

    fn wrong(&self, problem: &'static str) -> Fault {
        LayerError::Tar {
            at: self.at,
            problem,
        }
        .into()
    }
}

/// The current entry's data.
impl<R: Read> Read for Entries<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most =
            usize::try_from(self.data_left).map_or(buffer.len(), |left| left.min(buffer.len()));
        if most == 0 {
            return Ok(0);
        }
        let read = self.from.read(&mut buffer[..most])?;
        self.data_left -= read as u64;
        self.at += read as u64;
        Ok(read)
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
        let number = || std::str::from_utf8(value).ok()?.parse::<u64>().ok();
        match key {
            // An empty value takes back what was said before.
            b"path" => self.path = Some(value.to_owned()).filter(|path| !path.is_empty()),
            b"linkpath" => self.link = Some(value.to_owned()).filter(|path| !path.is_empty()),
            b"size" => self.size = Some(number()?),
            b"uid" => self.uid = Some(number()?),
            b"gid" => self.gid = Some(number()?),
            b"mtime" => {
                let whole = std::str::from_utf8(value).ok()?.split('.').next()?;
                self.mtime = Some(u64::try_from(whole.parse::<i64>().ok()?).unwrap_or(0));
            }
            // The files would come out under other names, with other contents.
            _ if key.starts_with(b"GNU.sparse.") => return None,
            _ => {
                let name = key.strip_prefix(b"SCHILY.xattr.").unwrap_or_default();
                if is_kept(name) {
                    self.xattrs.retain(|(other, _)| other != name);
                    self.xattrs.push((name.to_owned(), value.to_owned()));
                }
            }
        }
        Some(())
    }
}

/// Whether squashfs has room for the attribute, and it means to the guest what it meant to the image's maker: those of
/// overlayfs would hide files of the image.
fn is_kept(name: &[u8]) -> bool {
    let kept = [b"user.".as_slice(), b"trusted.", b"security."];
    let prefix = kept.into_iter().find(|prefix| name.starts_with(prefix));
    prefix.is_some_and(|prefix| !name[prefix.len()..].starts_with(b"overlay."))
        && name.len() <= 255
        && !name.contains(&0)
}

/// Why there is no next entry.
#[derive(Debug)]
pub(super) enum Fault {
    Layer(LayerError),
    /// The stream fails; what that means its owner knows.
    Io(io::Error),
}

impl From<LayerError> for Fault {
    fn from(error: LayerError) -> Self {
        Self::Layer(error)
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
