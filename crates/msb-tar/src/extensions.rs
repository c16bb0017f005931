//! What extension headers say about the entry behind them.

use std::collections::BTreeMap;

/// Of one entry, from all its headers.
#[derive(Debug, Default)]
pub(crate) struct Extensions {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<u64>,
    pub(crate) gid: Option<u64>,
    pub(crate) mtime: Option<u64>,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Extensions {
    /// Takes the records of a POSIX extended header; None if they do not parse.
    pub(crate) fn read(&mut self, mut records: &[u8]) -> Option<()> {
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
        let text = || Some(value.to_owned()).filter(|text| !text.is_empty());
        // An empty value takes back what was said before.
        match key {
            b"path" => self.path = text(),
            b"linkpath" => self.link = text(),
            b"size" => self.size = number(value)?,
            b"uid" => self.uid = number(value)?,
            b"gid" => self.gid = number(value)?,
            b"mtime" => self.mtime = time(value)?,
            // The file would come out under another name, with other contents.
            _ if key.starts_with(b"GNU.sparse.") => return None,
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.insert(name.to_owned(), value.to_owned());
                }
            }
        }
        Some(())
    }
}

/// A number, or nothing; None if it is neither.
fn number(value: &[u8]) -> Option<Option<u64>> {
    match value {
        [] => Some(None),
        _ => std::str::from_utf8(value).ok()?.parse().ok().map(Some),
    }
}

/// As [`number`]: whole seconds, no fewer than 0.
fn time(value: &[u8]) -> Option<Option<u64>> {
    if value.is_empty() {
        return Some(None);
    }
    let whole = std::str::from_utf8(value).ok()?.split('.').next()?;
    let seconds = whole.parse::<i64>().ok()?;
    Some(Some(u64::try_from(seconds).unwrap_or(0)))
}
