//! What is written is read back, however it is cut it is an error, and nothing is kept that is longer than allowed.

use std::collections::BTreeMap;

use msb_tar::{Entry, Error, Kind, Reader, padding, write, write_end};
use proptest::prelude::*;
use tar::{EntryType, Header};

const LIMIT: u64 = 64 << 10;

type Read = Vec<(Entry, Vec<u8>)>;

/// All entries with their data, and whether the end is marked.
fn entries(archive: &[u8]) -> Result<(Read, bool), Error> {
    let mut reader = Reader::new(archive, LIMIT);
    let mut all = Vec::new();
    while let Some(entry) = reader.next()? {
        let (mut data, mut buffer) = (Vec::new(), [0; 100]);
        loop {
            match reader.data(&mut buffer)? {
                [] => break,
                piece => data.extend_from_slice(piece),
            }
        }
        all.push((entry, data));
    }
    Ok((all, reader.has_end()))
}

fn put(entry: &Entry, data: &[u8], archive: &mut Vec<u8>) {
    write(entry, archive).expect("memory");
    archive.extend_from_slice(data);
    archive.extend_from_slice(padding(data.len() as u64));
}

/// A header block with these data behind it.
fn block(kind: EntryType, data: &[u8]) -> Vec<u8> {
    let mut bytes = announced(kind, data.len() as u64);
    bytes.extend_from_slice(data);
    bytes.extend_from_slice(padding(data.len() as u64));
    bytes
}

/// A header block that announces so many bytes.
fn announced(kind: EntryType, size: u64) -> Vec<u8> {
    let mut header = Header::new_ustar();
    header.as_old_mut().name[..1].copy_from_slice(b"x");
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_cksum();
    header.as_bytes().to_vec()
}

fn records(pairs: &[(&str, &[u8])]) -> Vec<u8> {
    let mut all = Vec::new();
    for (key, value) in pairs {
        let rest = key.len() + value.len() + 3;
        let digits = (1..).find(|digits| (rest + digits).to_string().len() == *digits);
        all.extend(format!("{} {key}=", rest + digits.expect("a length")).bytes());
        all.extend_from_slice(value);
        all.push(b'\n');
    }
    block(EntryType::XHeader, &all)
}

/// The first entry of these blocks.
fn first(blocks: &[Vec<u8>]) -> Result<Entry, Error> {
    let mut archive = blocks.concat();
    write_end(&mut archive).expect("memory");
    entries(&archive).map(|(all, _)| all[0].0.clone())
}

fn any_entry() -> impl Strategy<Value = (Entry, Vec<u8>)> {
    let name = || prop::collection::vec(1..=255_u8, 1..300);
    let kind = prop_oneof![
        Just((Kind::Directory, Vec::new())),
        Just((Kind::Fifo, Vec::new())),
        (0..0x1000_u32, 0..0x10_0000_u32).prop_map(|(a, b)| (Kind::CharDevice(a, b), Vec::new())),
        (0..0x1000_u32, 0..0x10_0000_u32).prop_map(|(a, b)| (Kind::BlockDevice(a, b), Vec::new())),
        prop::collection::vec(any::<u8>(), 0..2000)
            .prop_map(|data| (Kind::File(data.len() as u64), data)),
        name().prop_map(|target| (Kind::Symlink(target), Vec::new())),
        name().prop_map(|target| (Kind::HardLink(target), Vec::new())),
    ];
    // Numbers of every length that a field has and has not room for.
    let number =
        |bits: u32| (0..bits, any::<u64>()).prop_map(move |(shift, n)| n >> (64 - bits) >> shift);
    let attribute = ("[a-z.]{1,30}", prop::collection::vec(any::<u8>(), 0..300));
    let attributes =
        prop::collection::btree_map(attribute.0.prop_map(String::into_bytes), attribute.1, 0..4);
    (
        name(),
        kind,
        0..0o10000_u32,
        number(64),
        number(64),
        number(63),
        attributes,
    )
        .prop_map(|(path, (kind, data), mode, uid, gid, mtime, xattrs)| {
            let entry = Entry {
                path,
                kind,
                mode,
                uid,
                gid,
                mtime,
                xattrs,
            };
            (entry, data)
        })
}

proptest! {
    #[test]
    fn what_is_written_is_read_back_and_every_cut_is_told(
        all in prop::collection::vec(any_entry(), 0..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut archive = Vec::new();
        for (entry, data) in &all {
            put(entry, data, &mut archive);
        }
        let open = archive.clone();
        write_end(&mut archive).expect("memory");
        prop_assert_eq!(entries(&archive).expect("whole"), (all, true));
        // Behind headers and data it may end without a mark, which is told; anywhere else it must not.
        let cut = if open.is_empty() { 0 } else { cut.index(open.len()) };
        match entries(&open[..cut]) {
            Ok((found, has_end)) => {
                prop_assert!(!has_end);
                let data = found.last().map_or(0, |(_, data)| data.len());
                prop_assert!(cut % 512 == 0 || cut % 512 == data % 512, "{cut} {data}");
            }
            Err(error) => prop_assert!(matches!(error, Error::Archive { .. }), "{error}"),
        }
    }

    #[test]
    fn garbage_is_an_error_or_nothing(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        let _ = entries(&bytes);
    }

    #[test]
    fn any_change_of_a_byte_is_no_panic(
        all in prop::collection::vec(any_entry(), 1..3),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut archive = Vec::new();
        for (entry, data) in &all {
            put(entry, data, &mut archive);
        }
        let at = at.index(archive.len());
        archive[at] = byte;
        let _ = entries(&archive);
    }
}

#[test]
fn what_an_archive_announces_is_not_believed() {
    #[track_caller]
    fn check(archive: &[u8], says: &str) {
        let error = entries(archive).expect_err(says).to_string();
        assert!(error.contains(says), "{error}");
    }
    let most = LIMIT;
    check(&announced(EntryType::Regular, u64::MAX), "cut off");
    check(&announced(EntryType::Regular, 1 << 63), "cut off");
    check(&announced(EntryType::Regular, u64::MAX - 600), "cut off");
    check(&announced(EntryType::XHeader, u64::MAX), "too long");
    check(&announced(EntryType::GNULongName, most + 1), "too long");
    check(&announced(EntryType::GNULongLink, most + 1), "too long");
    check(&announced(EntryType::XGlobalHeader, 1 << 40), "too long");
    check(&announced(EntryType::GNULongName, most), "cut off");
    check(&announced(EntryType::GNUSparse, 0), "sparse");
    check(&announced(EntryType::Symlink, 0), "link to nothing");
    check(&announced(EntryType::Link, 0), "link to nothing");
    check(&announced(EntryType::new(b'V'), 0), "unknown type");
}

#[test]
fn what_describes_one_entry_has_one_limit_however_many_headers_it_is_in() {
    let half = vec![b'v'; 30 << 10];
    let attribute = |name: &str| records(&[(&format!("SCHILY.xattr.{name}"), &half)]);
    let file = || block(EntryType::Regular, b"");
    assert_eq!(
        first(&[attribute("a"), attribute("b"), file()])
            .unwrap()
            .xattrs
            .len(),
        2
    );
    let error = first(&[attribute("a"), attribute("b"), attribute("c"), file()]).unwrap_err();
    assert!(error.to_string().contains("too long"), "{error}");
    let name = || block(EntryType::GNULongName, &half);
    let error = first(&[name(), name(), name(), file()]).unwrap_err();
    assert!(error.to_string().contains("too long"), "{error}");
    // Each entry has it for itself, and global headers say nothing about any.
    let global = || block(EntryType::XGlobalHeader, &half);
    let mut many = vec![global(), global(), global()];
    many.extend((0..5).flat_map(|_| [attribute("a"), file()]));
    first(&many).unwrap();
}

#[test]
fn an_archive_may_end_right_behind_the_last_files_data() {
    let mut archive = Vec::new();
    put(&Entry::new("a", Kind::File(3)), b"abc", &mut archive);
    for len in 512..1024 {
        match entries(&archive[..len]) {
            Ok((found, has_end)) => {
                assert!((len == 515 || len == 1024) && !has_end, "{len}");
                assert_eq!(found[0].1, b"abc");
            }
            Err(error) => assert!(
                len != 515 && error.to_string().contains("cut off"),
                "{len} {error}"
            ),
        }
    }
}

#[test]
fn records_count_as_posix_and_go_take_them() {
    #[track_caller]
    fn check(pairs: &[(&str, &[u8])], expected: Option<(u64, u64, u64, &[u8])>) {
        let entry = first(&[records(pairs), block(EntryType::Regular, b"")]);
        let found = entry
            .as_ref()
            .ok()
            .map(|entry| (entry.uid, entry.gid, entry.mtime, entry.path.as_slice()));
        assert_eq!(found, expected, "{pairs:?}: {entry:?}");
    }
    check(&[("uid", b"7"), ("gid", b"8")], Some((7, 8, 0, b"x")));
    check(
        &[("mtime", b"1350244992.023960108")],
        Some((0, 0, 1_350_244_992, b"x")),
    );
    check(&[("mtime", b"-1.5")], Some((0, 0, 0, b"x")));
    check(&[("path", b"a\0b\n=c")], Some((0, 0, 0, b"a\0b\n=c")));
    check(&[("path", b"a"), ("path", b"b")], Some((0, 0, 0, b"b")));
    // What is empty takes back what was said.
    check(&[("path", b"a"), ("path", b"")], Some((0, 0, 0, b"x")));
    check(&[("uid", b"7"), ("uid", b"")], Some((0, 0, 0, b"x")));
    check(
        &[("size", b""), ("gid", b""), ("mtime", b"")],
        Some((0, 0, 0, b"x")),
    );
    check(&[("comment", b"\xff\xfe")], Some((0, 0, 0, b"x")));
    check(&[("uid", b"x")], None);
    check(&[("uid", b"-1")], None);
    check(&[("uid", b"99999999999999999999")], None);
    check(&[("mtime", b"1e9")], None);
    check(&[("GNU.sparse.major", b"1")], None);
    let names: BTreeMap<_, _> = [(b"user.a".to_vec(), b"2".to_vec())].into();
    let twice = records(&[("SCHILY.xattr.user.a", b"1"), ("SCHILY.xattr.user.a", b"2")]);
    assert_eq!(
        first(&[twice, block(EntryType::Regular, b"")])
            .unwrap()
            .xattrs,
        names
    );
}

#[test]
fn paths_in_errors_are_short_and_safe_to_show() {
    let path = b"\x1b[2J\n".repeat(100);
    let name = block(EntryType::GNULongName, &path);
    let error = first(&[name, block(EntryType::new(b'V'), b"")])
        .unwrap_err()
        .to_string();
    assert!(
        !error.contains(['\x1b', '\n']) && error.len() < 1000,
        "{error}"
    );
}
