//! WebSocket frames by hand.

pub const MASK: [u8; 4] = [7, 8, 9, 10];

/// A frame of a guest's.
pub fn masked(first: u8, text: &str) -> Vec<u8> {
    let mut frame = vec![first, 0x80 | u8::try_from(text.len()).unwrap()];
    frame.extend_from_slice(&MASK);
    frame.extend(
        text.bytes()
            .zip(MASK.iter().cycle())
            .map(|(byte, key)| byte ^ key),
    );
    frame
}

/// A frame of a server's.
pub fn plain(first: u8, text: &str) -> Vec<u8> {
    [&[first, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
}
