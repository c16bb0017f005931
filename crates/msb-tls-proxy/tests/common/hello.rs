//! ClientHellos written by hand.

/// A TLS 1.2 ClientHello whose server name is `name`, whatever is in it.
pub fn hello_for(name: &[u8]) -> Vec<u8> {
    let u16s = |len: usize| u16::try_from(len).unwrap().to_be_bytes();
    let with_len = |bytes: &[u8]| [&u16s(bytes.len())[..], bytes].concat();
    let server_name = [&[0][..], &with_len(name)].concat();
    let extension = |kind: u16, body: &[u8]| [&kind.to_be_bytes()[..], &with_len(body)].concat();
    let extensions = [
        extension(0, &with_len(&server_name)),
        // P-256; uncompressed; ECDSA with SHA-256; extended master secret.
        extension(10, &[0, 2, 0, 23]),
        extension(11, &[1, 0]),
        extension(13, &[0, 2, 4, 3]),
        extension(23, &[]),
    ]
    .concat();
    let body = [
        &[3, 3][..],
        &[7; 32],
        &[0],
        &with_len(&[0xc0, 0x2b]),
        &[1, 0],
        &with_len(&extensions),
    ]
    .concat();
    let message = [&[1, 0][..], &with_len(&body)].concat();
    [&[22, 3, 1][..], &with_len(&message)].concat()
}
