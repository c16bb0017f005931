//! Bodies put by curl.

use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use crate::rig::{Rig, pattern};

/// What the server says to `len` octets of the pattern.
pub(crate) fn put(rig: &Rig, curl: &Path, url: &str, len: usize) -> Vec<u8> {
    let mut put = rig.guest.command(curl);
    put.args(["-sS", "-T", "-", "-H", "Transfer-Encoding:", "-H"])
        .args([&format!("Content-Length: {len}"), url]);
    let mut put = put
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = put.stdin.take().unwrap();
    // It fails when curl ends early, which then says why.
    let feed = std::thread::spawn(move || stdin.write_all(&pattern(len)).is_ok());
    let said = put.wait_with_output().unwrap().stdout;
    feed.join().unwrap();
    said
}
