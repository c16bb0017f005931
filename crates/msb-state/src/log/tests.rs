//! A log is held against a list of what was written.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn read(dir: &Path) -> Vec<(Stream, Vec<u8>)> {
    let mut reader = LogReader::open(dir).unwrap();
    std::iter::from_fn(|| reader.read_entry().unwrap())
        .map(|entry| (entry.stream, entry.bytes))
        .collect()
}

#[test]
fn what_is_written_is_read_back_with_its_streams() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(read(dir.path()), []);
    let long = vec![b'x'; 2 * MAX_ENTRY + 1];
    for _ in 0..2 {
        let mut log = LogWriter::open(dir.path()).unwrap();
        log.write(Stream::Stdout, b"one\n").unwrap();
        log.write(Stream::Stderr, b"\0\xff 1 out 3\n").unwrap();
        log.write(Stream::Msb, b"").unwrap();
        log.write(Stream::Msb, &long).unwrap();
    }
    let once = [
        (Stream::Stdout, b"one\n".to_vec()),
        (Stream::Stderr, b"\0\xff 1 out 3\n".to_vec()),
        (Stream::Msb, long[..MAX_ENTRY].to_vec()),
        (Stream::Msb, long[..MAX_ENTRY].to_vec()),
        (Stream::Msb, b"x".to_vec()),
    ];
    assert_eq!(read(dir.path()), [&once[..], &once[..]].concat());
}

#[test]
fn a_file_cut_anywhere_gives_its_whole_entries_and_is_written_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    let mut log = LogWriter::open(dir.path()).unwrap();
    let mut ends = vec![0];
    for text in ["first", "second\n", "3"] {
        log.write(Stream::Stdout, text.as_bytes()).unwrap();
        ends.push(usize::try_from(log.len).unwrap());
    }
    let whole = fs::read(&path).unwrap();
    for cut in 0..=whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        let expected = ends.iter().filter(|end| **end <= cut).count() - 1;
        assert_eq!(read(dir.path()).len(), expected, "cut at {cut}");
        let mut log = LogWriter::open(dir.path()).unwrap();
        log.write(Stream::Stderr, b"next").unwrap();
        let entries = read(dir.path());
        assert_eq!(entries.len(), expected + 1, "cut at {cut}");
        assert_eq!(entries.last().unwrap().1, b"next");
    }
}

#[test]
fn what_is_no_log_is_passed_over_and_replaced() {
    for garbage in [
        &b"garbage\n"[..],
        b"1 out 0\n\n",
        b"1 out 65537\n",
        b"1 out 3\nabcd\n",
        b"1 out 99999999999999999999\n",
        b"1 oops 1\na\n",
        b"1 out 1 1\na\n",
        b"-1 out 1\na\n",
        &[0; 100],
    ] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), garbage).unwrap();
        assert_eq!(read(dir.path()), [], "{garbage:?}");
        let mut log = LogWriter::open(dir.path()).unwrap();
        log.write(Stream::Msb, b"new").unwrap();
        assert_eq!(read(dir.path()), [(Stream::Msb, b"new".to_vec())]);
    }
}

#[test]
fn the_disk_holds_a_bounded_part_and_it_is_the_last() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = LogWriter::with_limit(dir.path(), 1000).unwrap();
    for number in 0..1000 {
        log.write(Stream::Stdout, number.to_string().as_bytes())
            .unwrap();
    }
    let sizes = [FILE, OLDER].map(|name| fs::metadata(dir.path().join(name)).unwrap().len());
    assert!(sizes.iter().all(|size| *size <= 1000), "{sizes:?}");
    let entries = read(dir.path());
    let first = 1000 - entries.len();
    assert!(entries.len() > 20);
    for (number, (_, bytes)) in (first..1000).zip(entries) {
        assert_eq!(bytes, number.to_string().as_bytes());
    }
}

#[test]
fn a_reader_follows_through_rotations_and_loses_only_what_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let mut reader = LogReader::open(dir.path()).unwrap();
    assert_eq!(reader.read_entry().unwrap(), None);
    let mut log = LogWriter::with_limit(dir.path(), 1000).unwrap();
    let mut number = 0;
    let mut expected = 0;
    for burst in [1, 10, 20, 3, 39, 1] {
        for _ in 0..burst {
            log.write(Stream::Stdout, format!("{number}").as_bytes())
                .unwrap();
            number += 1;
        }
        while let Some(entry) = reader.read_entry().unwrap() {
            assert_eq!(entry.bytes, format!("{expected}").as_bytes());
            expected += 1;
        }
        assert_eq!(expected, number, "nothing is missed");
    }
    for _ in 0..1000 {
        log.write(Stream::Stdout, b"too fast").unwrap();
    }
    log.write(Stream::Stdout, b"last").unwrap();
    let rest: Vec<_> = std::iter::from_fn(|| reader.read_entry().unwrap()).collect();
    assert!(rest.len() < 200);
    assert_eq!(rest.last().unwrap().bytes, b"last");
}

#[test]
fn the_tail_is_the_last_lines_whoever_wrote_them() {
    for (pieces, lines, expected) in [
        (&["a\nb\nc\n"][..], 2, "b\nc\n"),
        (&["a\nb\n", "c\nd"], 2, "c\nd"),
        (&["a\nb\n", "c\nd"], 3, "b\nc\nd"),
        (&["a\nb\n", "c\nd"], 9, "a\nb\nc\nd"),
        (&["a\nb\n"], 0, ""),
        (&["a"], 1, "a"),
        (&[], 1, ""),
        (&["a\n", "b\n", "c\n"], 1, "c\n"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(dir.path()).unwrap();
        for piece in pieces {
            log.write(Stream::Stdout, piece.as_bytes()).unwrap();
        }
        let tail = LogReader::open(dir.path()).unwrap().tail(lines).unwrap();
        let bytes: Vec<u8> = tail.into_iter().flat_map(|entry| entry.bytes).collect();
        assert_eq!(
            String::from_utf8_lossy(&bytes),
            expected,
            "{pieces:?}, {lines}"
        );
    }
}

proptest! {
    #[test]
    fn any_entries_pass_however_often_the_writer_begins_anew(
        writes in vec((0..3_u8, vec(any::<u8>(), 1..200), any::<bool>()), 0..60),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::with_limit(dir.path(), 1 << 20).unwrap();
        let mut expected = Vec::new();
        for (stream, bytes, reopen) in writes {
            if reopen {
                log = LogWriter::with_limit(dir.path(), 1 << 20).unwrap();
            }
            let stream = [Stream::Stdout, Stream::Stderr, Stream::Msb][usize::from(stream)];
            log.write(stream, &bytes).unwrap();
            expected.push((stream, bytes));
        }
        prop_assert_eq!(read(dir.path()), expected);
    }

    #[test]
    fn no_file_makes_the_reader_fail(bytes in vec(any::<u8>(), 0..400), lines in 0..10_usize) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), &bytes).unwrap();
        LogReader::open(dir.path()).unwrap().tail(lines).unwrap();
        LogWriter::open(dir.path()).unwrap().write(Stream::Msb, b"x").unwrap();
        let entries = read(dir.path());
        prop_assert_eq!(entries.last().unwrap().1.as_slice(), b"x");
    }
}
