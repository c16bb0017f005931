//! Entries into an archive.

use std::io::{self, Write};

use tar::{EntryType, Header};

use crate::{BLOCK, Entry, Kind};

/// Seven octal digits: what the header has room for of an owner or group.
const ID_LIMIT: u64 = 0o7_777_777;
/// Eleven of them, of a length or time.
const NUMBER_LIMIT: u64 = 0o77_777_777_777;

/// Writes the entry's headers. A file's data and [`padding`] follow.
///
/// # Errors
/// What `sink` fails with; [`io::ErrorKind::InvalidInput`] for device numbers that a header has no room for.
pub fn write(entry: &Entry, sink: &mut dyn Write) -> io::Result<()> {
    let (kind, link, size, device) = match &entry.kind {
        Kind::Directory => (EntryType::Directory, None, 0, None),
        Kind::File(size) => (EntryType::Regular, None, *size, None),
        Kind::Symlink(target) => (EntryType::Symlink, Some(target), 0, None),
        Kind::HardLink(target) => (EntryType::Link, Some(target), 0, None),
        Kind::CharDevice(major, minor) => (EntryType::Char, None, 0, Some((*major, *minor))),
        Kind::BlockDevice(major, minor) => (EntryType::Block, None, 0, Some((*major, *minor))),
        Kind::Fifo => (EntryType::Fifo, None, 0, None),
    };
    let mut header = Header::new_ustar();
    let mut records = Vec::new();
    let fields = header.as_old_mut();
    text(&mut fields.name, &entry.path, b"path", &mut records);
    if let Some(target) = link {
        text(&mut fields.linkname, target, b"linkpath", &mut records);
    }
    header.set_uid(number(entry.uid, ID_LIMIT, b"uid", &mut records));
    header.set_gid(number(entry.gid, ID_LIMIT, b"gid", &mut records));
    header.set_size(number(size, NUMBER_LIMIT, b"size", &mut records));
    header.set_mtime(number(entry.mtime, NUMBER_LIMIT, b"mtime", &mut records));
    for (name, value) in &entry.xattrs {
        record(
            &[b"SCHILY.xattr.", name.as_slice()].concat(),
            value,
            &mut records,
        );
    }
    if !records.is_empty() {
        let mut extended = Header::new_ustar();
        extended.as_old_mut().name[..1].copy_from_slice(b"x");
        extended.set_entry_type(EntryType::XHeader);
        extended.set_size(records.len() as u64);
        extended.set_cksum();
        sink.write_all(extended.as_bytes())?;
        sink.write_all(&records)?;
        sink.write_all(padding(records.len() as u64))?;
    }
    header.set_entry_type(kind);
    header.set_mode(entry.mode);
    let (major, minor) = device.unwrap_or_default();
    header.set_device_major(major)?;
    header.set_device_minor(minor)?;
    header.set_cksum();
    sink.write_all(header.as_bytes())
}

/// Two empty blocks say that the archive ends here.
///
/// # Errors
/// What `sink` fails with.
pub fn write_end(sink: &mut dyn Write) -> io::Result<()> {
    sink.write_all(&[0; 2 * BLOCK])
}

/// What fills up the last block of so many bytes.
#[must_use]
pub fn padding(size: u64) -> &'static [u8] {
    const ZEROS: [u8; BLOCK] = [0; BLOCK];
    let rest = usize::try_from(size % BLOCK as u64).unwrap_or_default();
    match rest {
        0 => &[],
        rest => &ZEROS[rest..],
    }
}

/// Into the header's field, and whole as a pax record where that is too short.
fn text(field: &mut [u8; 100], value: &[u8], key: &[u8], records: &mut Vec<u8>) {
    let len = value.len().min(field.len());
    field[..len].copy_from_slice(&value[..len]);
    if len < value.len() {
        record(key, value, records);
    }
}

/// What the header's field can hold of it, and all of it as a pax record where that is less.
fn number(value: u64, limit: u64, key: &[u8], records: &mut Vec<u8>) -> u64 {
    if value > limit {
        record(key, value.to_string().as_bytes(), records);
    }
    value.min(limit)
}

/// One pax record: its length counts its own digits.
fn record(key: &[u8], value: &[u8], records: &mut Vec<u8>) {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len != rest + len.to_string().len() {
        len = rest + len.to_string().len();
    }
    records.extend_from_slice(format!("{len} ").as_bytes());
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}
