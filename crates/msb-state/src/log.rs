//! What a sandbox's command wrote and what happened to it, in two files of bounded length: the older one goes when the
//! newer one is full.
//!
//! An entry is a line `MILLISECONDS STREAM LENGTH`, then so many bytes, then a line break: any bytes pass, and a person
//! can read it. What a killed writer has left half-written is taken off by the next.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use crate::Error;
use crate::crash::{is_armed, point};
use crate::files::{self, Tried as _};
use crate::record::now_ms;

const FILE: &str = "log";
const OLDER: &str = "log.1";
/// The supervisor's own standard error: empty unless something is broken.
const EARLY: &str = "supervisor.log";
/// How much of it is looked at, in bytes.
const EARLY_BYTES: u64 = 64 * 1024;

/// The most bytes in one entry; more are several.
const MAX_ENTRY: usize = 64 * 1024;
/// `18446744073709551615 out 65536\n`, with room.
const MAX_HEAD: usize = 48;
/// How long each of the two files may get, in bytes.
pub(crate) const MAX_FILE: u64 = 8 * 1024 * 1024;

/// Who wrote an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// The command, on its standard output.
    Stdout,
    /// The command, on its standard error.
    Stderr,
    /// msb itself, about the sandbox: one line of text.
    Msb,
}

impl Stream {
    fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "out",
            Self::Stderr => "err",
            Self::Msb => "msb",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Stdout, Self::Stderr, Self::Msb]
            .into_iter()
            .find(|stream| stream.as_str() == text)
    }
}

/// A piece of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When it was written, in milliseconds since 1970.
    pub time_ms: u64,
    /// Who wrote it.
    pub stream: Stream,
    /// What, 1 to 65,536 bytes. The guest decides about them.
    pub bytes: Vec<u8>,
}

/// Writes a log on.
#[derive(Debug)]
pub struct LogWriter {
    dir: PathBuf,
    file: File,
    len: u64,
    max: u64,
}

impl LogWriter {
    pub(crate) fn open(dir: &Path) -> Result<Self, Error> {
        Self::with_limit(dir, MAX_FILE)
    }

    pub(crate) fn with_limit(dir: &Path, max: u64) -> Result<Self, Error> {
        let path = dir.join(FILE);
        let file = files::open(&path)?;
        let mut whole = Walk::default();
        while whole.next(&file).tried("read", &path)?.is_some() {}
        let len = whole.taken;
        file.set_len(len).tried("write", &path)?;
        Ok(Self {
            dir: dir.to_owned(),
            file,
            len,
            max,
        })
    }

    /// Writes `bytes`, in several entries if they are many.
    ///
    /// # Errors
    /// The system's refusal, such as a full disk; what could not be written is lost, and later calls try anew.
    pub fn write(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        for bytes in bytes.chunks(MAX_ENTRY) {
            self.write_entry(stream, bytes)?;
        }
        Ok(())
    }

    fn write_entry(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        let head = format!("{} {} {}\n", now_ms(), stream.as_str(), bytes.len());
        let entry = [head.as_bytes(), bytes, b"\n"].concat();
        if self.len > 0 && self.len + entry.len() as u64 > self.max {
            self.rotate()?;
        }
        if is_armed("log-half-written") {
            let _ = self.file.write_all_at(&entry[..entry.len() / 2], self.len);
            point("log-half-written");
        }
        if let Err(error) = self.file.write_all_at(&entry, self.len) {
            // Behind a shorter entry the rest of this one would be taken for damage.
            let _ = self.file.set_len(self.len);
            return Err(error);
        }
        self.len += entry.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let named = files::open_to_read(&self.dir.join(FILE)).ok();
        if inode(named.as_ref()) != inode(Some(&self.file)) {
            // Another sandbox's by now.
            return Err(io::Error::other("the log was removed"));
        }
        fs::rename(self.dir.join(FILE), self.dir.join(OLDER))?;
        point("log-rotated");
        self.file = files::open(&self.dir.join(FILE)).map_err(io::Error::other)?;
        self.len = 0;
        Ok(())
    }
}

/// Reads a log while it is written.
#[derive(Debug)]
pub struct LogReader {
    dir: PathBuf,
    current: Option<(File, Walk)>,
    /// The file to go on with.
    later: Option<File>,
}

impl LogReader {
    pub(crate) fn open(dir: &Path) -> Result<Self, Error> {
        let mut reader = Self {
            dir: dir.to_owned(),
            current: None,
            later: None,
        };
        reader.begin()?;
        Ok(reader)
    }

    fn file(&self, name: &str) -> Result<Option<File>, Error> {
        let path = self.dir.join(name);
        match files::open_to_read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => opened.tried("read", &path).map(Some),
        }
    }

    /// Opens the older file and the newer one, as they are at one moment.
    fn begin(&mut self) -> Result<(), Error> {
        loop {
            let newer = self.file(FILE)?;
            let older = self.file(OLDER)?;
            let still = self.file(FILE)?;
            if inode(newer.as_ref()) == inode(still.as_ref()) {
                let mut files = older.into_iter().chain(newer);
                self.current = files.next().map(|file| (file, Walk::default()));
                self.later = files.next();
                return Ok(());
            }
        }
    }

    /// The next entry; `None` if there is none yet. A reader that is overtaken by the writer misses what is gone.
    ///
    /// # Errors
    /// The system's refusal. What is no entry is passed over with the rest of its file.
    pub fn read_entry(&mut self) -> Result<Option<Entry>, Error> {
        loop {
            let Some((file, walk)) = &mut self.current else {
                self.begin()?;
                if self.current.is_none() {
                    return Ok(None);
                }
                continue;
            };
            let path = self.dir.join(FILE);
            if let Some(entry) = walk.next(file).tried("read", &path)? {
                return Ok(Some(entry));
            }
            if let Some(later) = self.later.take() {
                self.current = Some((later, Walk::default()));
                continue;
            }
            let own = inode(Some(file));
            let (named, older) = (self.file(FILE)?, self.file(OLDER)?);
            if named.is_none() || inode(named.as_ref()) == own {
                return Ok(None);
            }
            // It was renamed. Between the last read and that, something may have been written.
            if let Some((file, walk)) = &mut self.current
                && let Some(entry) = walk.next(file).tried("read", &path)?
            {
                return Ok(Some(entry));
            }
            if inode(older.as_ref()) == own {
                self.later = named;
            } else {
                self.begin()?;
            }
        }
    }

    /// Goes to where the last `lines` lines begin.
    ///
    /// # Errors
    /// As [`read_entry`](Self::read_entry).
    pub fn tail(&mut self, lines: usize) -> Result<Vec<Entry>, Error> {
        let mut kept = VecDeque::new();
        let mut count = 0;
        while let Some(entry) = self.read_entry()? {
            count += lines_in(&entry.bytes);
            kept.push_back(entry);
            while let Some(first) = kept.front()
                && count - lines_in(&first.bytes) >= lines
                && kept.len() > 1
            {
                count -= lines_in(&first.bytes);
                kept.pop_front();
            }
        }
        if lines == 0 {
            return Ok(Vec::new());
        }
        if let Some(first) = kept.front_mut() {
            let over = count.saturating_sub(lines);
            let breaks = first.bytes.iter().enumerate().filter(|(_, b)| **b == b'\n');
            if let Some((at, _)) = over.checked_sub(1).and_then(|n| breaks.clone().nth(n)) {
                first.bytes.drain(..=at);
            }
        }
        Ok(kept.into())
    }
}

/// Lines that end in a piece, and one that has begun.
fn lines_in(bytes: &[u8]) -> usize {
    let ends = bytes.iter().filter(|byte| **byte == b'\n').count();
    ends + usize::from(bytes.last().is_some_and(|last| *last != b'\n'))
}

fn inode(file: Option<&File>) -> Option<(u64, u64)> {
    let data = file?.metadata().ok()?;
    Some((data.dev(), data.ino()))
}

/// Goes through the entries of one file.
#[derive(Debug, Default)]
struct Walk {
    /// How far the file has been taken.
    taken: u64,
    /// What was read of it; from `start` on it has not been taken yet.
    read: Vec<u8>,
    start: usize,
    is_damaged: bool,
}

enum Parsed {
    Entry(Entry, usize),
    Incomplete,
    Damaged,
}

impl Walk {
    fn next(&mut self, file: &File) -> io::Result<Option<Entry>> {
        while !self.is_damaged {
            // Nobody has written one of this length.
            self.is_damaged = self.taken > MAX_FILE;
            match parse(&self.read[self.start..]) {
                Parsed::Entry(entry, len) => {
                    self.start += len;
                    self.taken += len as u64;
                    return Ok(Some(entry));
                }
                Parsed::Damaged => self.is_damaged = true,
                Parsed::Incomplete => {
                    self.read.drain(..std::mem::take(&mut self.start));
                    let had = self.read.len();
                    self.read.resize(had + MAX_ENTRY, 0);
                    let len = file.read_at(&mut self.read[had..], self.taken + had as u64)?;
                    self.read.truncate(had + len);
                    if len == 0 {
                        // What is there in part may be written anew.
                        self.read.clear();
                        return Ok(None);
                    }
                }
            }
        }
        Ok(None)
    }
}

fn parse(bytes: &[u8]) -> Parsed {
    let head = &bytes[..bytes.len().min(MAX_HEAD)];
    let Some(end) = head.iter().position(|byte| *byte == b'\n') else {
        return match bytes.len() < MAX_HEAD {
            true => Parsed::Incomplete,
            false => Parsed::Damaged,
        };
    };
    let fields = || {
        let mut words = str::from_utf8(&head[..end]).ok()?.split(' ');
        let time_ms = words.next()?.parse().ok()?;
        let stream = Stream::parse(words.next()?)?;
        let len = words.next()?.parse::<usize>().ok()?;
        let is_whole = words.next().is_none() && (1..=MAX_ENTRY).contains(&len);
        is_whole.then_some((time_ms, stream, len))
    };
    let Some((time_ms, stream, len)) = fields() else {
        return Parsed::Damaged;
    };
    match bytes[end + 1..].split_at_checked(len) {
        Some((_, [])) | None => Parsed::Incomplete,
        Some((content, [b'\n', ..])) => {
            let bytes = content.to_vec();
            let entry = Entry {
                time_ms,
                stream,
                bytes,
            };
            Parsed::Entry(entry, end + 1 + len + 1)
        }
        Some(_) => Parsed::Damaged,
    }
}

/// The supervisor's standard error, from its beginning.
pub(crate) fn early(dir: &Path) -> Result<File, Error> {
    let path = dir.join(EARLY);
    files::remove(&path)?;
    files::open(&path)
}

pub(crate) fn early_lines(dir: &Path, lines: usize) -> String {
    let tail = || {
        let file = files::open_to_read(&dir.join(EARLY)).ok()?;
        let len = file.metadata().ok()?.len();
        let from = len.saturating_sub(EARLY_BYTES);
        let mut bytes = vec![0; usize::try_from(len - from).ok()?];
        file.read_exact_at(&mut bytes, from).ok()?;
        Some(bytes)
    };
    let bytes = tail().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let kept: Vec<String> = text.lines().map(printable).collect();
    kept[kept.len().saturating_sub(lines)..].join("\n")
}

fn printable(line: &str) -> String {
    let shown = |c: char| if c.is_control() && c != '\t' { ' ' } else { c };
    line.chars().map(shown).collect()
}

#[cfg(test)]
mod tests;
