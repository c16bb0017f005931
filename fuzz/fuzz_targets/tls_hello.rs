//! Any bytes, cut anywhere: the same answer for every cut, and the name in them is the one that is found by hand.
#![no_main]

use libfuzzer_sys::fuzz_target;
use msb_fuzz::cut;
use msb_tls_proxy::fuzzing::{Answer, client_hello};

const LIMIT: usize = 64 * 1024;

/// Takes `len` bytes.
fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(taken)
}

/// Takes a number of `len` bytes, and as many bytes as it says.
fn vector<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let number = take(bytes, len)?
        .iter()
        .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    take(bytes, number)
}

/// The first handshake message, from however many records.
fn message(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        take(&mut bytes, 3)?;
        all.extend_from_slice(vector(&mut bytes, 2)?);
        let mut rest = &all[..];
        if let (Some(_), Some(body)) = (take(&mut rest, 1), vector(&mut rest, 3)) {
            return Some(body.to_vec());
        }
    }
    None
}

/// What the server name extension holds (RFC 6066 section 3).
fn server_name(hello: &[u8]) -> Option<Vec<u8>> {
    let mut rest = hello;
    take(&mut rest, 34)?;
    vector(&mut rest, 1)?;
    vector(&mut rest, 2)?;
    vector(&mut rest, 1)?;
    let mut extensions = vector(&mut rest, 2)?;
    while !extensions.is_empty() {
        let kind = take(&mut extensions, 2)?;
        let mut body = vector(&mut extensions, 2)?;
        if kind == [0, 0] {
            let mut names = vector(&mut body, 2)?;
            take(&mut names, 1)?;
            return vector(&mut names, 2).map(<[u8]>::to_vec);
        }
    }
    None
}

fuzz_target!(|data: &[u8]| {
    let (whole, pieces) = cut(data);
    let at_once = client_hello([&whole[..]], LIMIT);
    assert_eq!(
        client_hello(pieces.iter().map(|it| &it[..]), LIMIT),
        at_once
    );
    // Nor does it hoard.
    let short = client_hello(whole.chunks(1), 16);
    assert!(whole.len() < 16 || short != Answer::NeedMore);
    match at_once {
        Answer::Name(name) => {
            let found = message(&whole).and_then(|hello| server_name(&hello));
            let found = found.expect("a name is there");
            let found = String::from_utf8(found).expect("names are ASCII");
            let found = found.to_ascii_lowercase();
            assert_eq!(name.as_str(), found.strip_suffix('.').unwrap_or(&found));
        }
        Answer::NotTls => assert!(whole[0] != 22 || whole.len() > 1 && whole[1] != 3),
        _ => {}
    }
});
