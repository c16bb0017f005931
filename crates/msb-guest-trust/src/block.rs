//! The marked block that holds one authority in a bundle or an anchor: how it is written, found again and taken out.
//!
//! ```text
//! # msb: begin CA sha256:<fingerprint>
//! -----BEGIN CERTIFICATE-----
//! ...
//! -----END CERTIFICATE-----
//! # msb: end CA sha256:<fingerprint>
//! ```
//!
//! Every PEM reader passes over text between sections. A block is only taken out if it is, byte for byte, what would be
//! written for the certificate in it, so nothing that the image put there can be lost.

use std::collections::HashSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use memchr::memmem;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use sha2::{Digest, Sha256};

use crate::certificate::{CaCertificate, hexadecimal, pem};

const CERTIFICATE_BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";

const BEGIN: &str = "# msb: begin CA sha256:";
const END: &str = "# msb: end CA sha256:";

/// Follows the fingerprint in the first block after a bundle whose last line had no end.
const LINE_END_ADDED: &str = " (line end added before)";

/// The block of one authority alone, as an anchor holds it.
pub(crate) fn file(ca: &CaCertificate) -> Vec<u8> {
    render(ca.der(), "\n", false).into_bytes()
}

/// The content with every block taken out and one for each authority that it then lacks put at its end.
///
/// Doing it again changes nothing.
pub(crate) fn with_blocks<'a>(
    content: &[u8],
    cas: impl IntoIterator<Item = &'a CaCertificate>,
) -> Vec<u8> {
    let mut content = without_blocks(content);
    let line_end = line_end_of(&content);
    let mut there: HashSet<Vec<u8>> = certificates(&content).collect();
    let missing: Vec<_> = cas
        .into_iter()
        .filter(|ca| there.insert(ca.der().to_vec()))
        .collect();
    let mut add_line_end = content.last().is_some_and(|last| *last != b'\n');
    for ca in missing {
        if add_line_end {
            content.extend_from_slice(line_end.as_bytes());
        }
        content.extend(render(ca.der(), line_end, add_line_end).into_bytes());
        add_line_end = false;
    }
    content
}

/// The content with every block taken out: what it was before the first of them was put in.
pub(crate) fn without_blocks(content: &[u8]) -> Vec<u8> {
    let mut content = content.to_vec();
    let mut end = content.len();
    while let Some(start) = memmem::rfind(&content[..end], BEGIN.as_bytes()) {
        let Some(block) = Block::at(&content, start) else {
            end = start;
            continue;
        };
        let block_end = start + block.len;
        // If something was appended since, the line end is what keeps it from running into the line before.
        let added = if block.line_end_added && block_end == content.len() {
            block.line_end.len()
        } else {
            0
        };
        content.drain(start - added..block_end);
        // What was before and after may now make a whole block.
        end = content.len();
    }
    content
}

/// Every certificate of the plain kind, in DER, however its lines are broken. What is damaged is passed over.
pub(crate) fn certificates(content: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    memmem::find_iter(content, CERTIFICATE_BEGIN).filter_map(|start| {
        let body = &content[start + CERTIFICATE_BEGIN.len()..];
        let body = &body[..memmem::find(body, b"-----")?];
        let digits: Vec<u8> = body
            .iter()
            .copied()
            .filter(|byte| !byte.is_ascii_whitespace())
            .collect();
        STANDARD.decode(digits).ok()
    })
}

/// Whether there is any certificate, of the plain kind or with OpenSSL's trust settings.
pub(crate) fn has_certificates(content: &[u8]) -> bool {
    memmem::find_iter(content, b"-----BEGIN ").any(|start| {
        let label = &content[start + b"-----BEGIN ".len()..];
        [
            b"CERTIFICATE-----".as_slice(),
            b"TRUSTED CERTIFICATE-----",
            b"X509 CERTIFICATE-----",
        ]
        .iter()
        .any(|known| label.starts_with(known))
    })
}

struct Block {
    len: usize,
    line_end: &'static str,
    line_end_added: bool,
}

impl Block {
    fn at(content: &[u8], start: usize) -> Option<Self> {
        if start > 0 && content[start - 1] != b'\n' {
            return None;
        }
        let text = &content[start..];
        let first_line_len = memchr::memchr(b'\n', text)? + 1;
        let first_line = std::str::from_utf8(&text[..first_line_len]).ok()?;
        let line_end = if first_line.ends_with("\r\n") {
            "\r\n"
        } else {
            "\n"
        };
        let line_end_added = first_line.trim_ascii_end().ends_with(LINE_END_ADDED);
        if line_end_added && !content[..start].ends_with(line_end.as_bytes()) {
            return None;
        }
        let body_len = memmem::find(text, END.as_bytes())?;
        let der = CertificateDer::pem_slice_iter(&text[..body_len])
            .next()?
            .ok()?;
        let expected = render(&der, line_end, line_end_added);
        let len = if text.starts_with(expected.as_bytes()) {
            expected.len()
        } else if text == expected.trim_end().as_bytes() {
            text.len()
        } else {
            return None;
        };
        Some(Self {
            len,
            line_end,
            line_end_added,
        })
    }
}

fn render(der: &[u8], line_end: &str, line_end_added: bool) -> String {
    let fingerprint = hexadecimal(&Sha256::digest(der));
    let note = if line_end_added { LINE_END_ADDED } else { "" };
    let certificate = pem(der, line_end);
    format!("{BEGIN}{fingerprint}{note}{line_end}{certificate}{END}{fingerprint}{line_end}")
}

fn line_end_of(content: &[u8]) -> &'static str {
    match memchr::memchr(b'\n', content) {
        Some(at) if content[..at].ends_with(b"\r") => "\r\n",
        _ => "\n",
    }
}

#[cfg(test)]
mod tests;
