//! The guest's first bytes: a ClientHello, not yet one, or none.

use std::fmt;

use msb_name::HostName;
use rustls::server::{Accepted, AcceptedAlert, Acceptor};

/// A TLS record of type handshake (RFC 8446 section 5.1).
pub(crate) const HANDSHAKE_RECORD: u8 = 22;
/// The major version of every record since SSL 3.0.
const RECORD_MAJOR_VERSION: u8 = 3;

/// Reads a ClientHello from bytes as they arrive, and keeps them.
pub(crate) struct HelloReader {
    acceptor: Acceptor,
    raw: Vec<u8>,
    limit: usize,
}

impl HelloReader {
    /// Reads at most `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            acceptor: Acceptor::default(),
            raw: Vec::new(),
            limit,
        }
    }

    /// Takes the bytes that arrived next: `None` asks for more, an error is final.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Option<Hello>, HelloFault> {
        self.raw.extend_from_slice(bytes);
        let expected = [HANDSHAKE_RECORD, RECORD_MAJOR_VERSION];
        if expected.iter().zip(&self.raw).any(|(want, is)| want != is) {
            return Err(HelloFault::NotTls);
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            // Reading from a slice fails only when a message outgrows what the library holds.
            if !matches!(self.acceptor.read_tls(&mut rest), Ok(1..)) {
                return Err(HelloFault::TooLarge);
            }
            match self.acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let left = rest.len();
                    return self.finish(accepted, left).map(Some);
                }
                Err((error, alert)) => {
                    return Err(HelloFault::Malformed {
                        reason: error.to_string(),
                        alert: Some(Alert(alert)),
                    });
                }
            }
        }
        if self.raw.len() >= self.limit {
            return Err(HelloFault::TooLarge);
        }
        Ok(None)
    }

    fn finish(&mut self, accepted: Accepted, left: usize) -> Result<Hello, HelloFault> {
        let hello = accepted.client_hello();
        let server_name = hello.server_name().map(HostName::parse).transpose();
        let server_name = server_name.map_err(|error| HelloFault::Malformed {
            reason: error.to_string(),
            alert: None,
        })?;
        let alpn = hello
            .alpn()
            .map(|protocols| protocols.map(<[u8]>::to_vec).collect())
            .unwrap_or_default();
        let raw = std::mem::take(&mut self.raw);
        Ok(Hello {
            server_name,
            alpn,
            unread: raw[raw.len() - left..].to_vec(),
            raw,
            accepted,
        })
    }
}

/// A whole ClientHello.
pub(crate) struct Hello {
    /// The server name, if there was one. An IP address there counts as none (RFC 6066 section 3).
    pub(crate) server_name: Option<HostName>,
    /// The protocols offered, in order; empty without the extension.
    pub(crate) alpn: Vec<Vec<u8>>,
    /// Everything the guest sent so far, to be replayed where the connection is bypassed.
    pub(crate) raw: Vec<u8>,
    /// The end of `raw` that came after what `accepted` has taken in.
    pub(crate) unread: Vec<u8>,
    /// From which the handshake goes on.
    pub(crate) accepted: Accepted,
}

impl fmt::Debug for Hello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hello")
            .field("server_name", &self.server_name)
            .field("alpn", &self.alpn)
            .field("raw_len", &self.raw.len())
            .finish_non_exhaustive()
    }
}

/// Why there will be no ClientHello.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HelloFault {
    /// Something other than TLS.
    #[error("the guest does not speak TLS on a port where it is intercepted")]
    NotTls,
    /// A ClientHello larger than the limit.
    #[error("the ClientHello is too large")]
    TooLarge,
    /// TLS, but wrong.
    #[error("the ClientHello is malformed: {reason}")]
    Malformed {
        /// What the TLS library says.
        reason: String,
        /// What to send the guest.
        alert: Option<Alert>,
    },
}

/// A TLS alert that is ready to be sent.
pub(crate) struct Alert(AcceptedAlert);

impl Alert {
    /// The bytes to send.
    pub(crate) fn into_bytes(mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // Writing to memory does not fail; a guest that gets no alert sees the connection end.
        let _ = self.0.write_all(&mut bytes);
        bytes
    }
}

impl fmt::Debug for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Alert")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::pki_types::ServerName;

    use super::*;

    const LIMIT: usize = 64 * 1024;

    /// What a real client (rustls) sends first to `name`.
    fn client_hello(name: &str, alpn: &[&[u8]]) -> Vec<u8> {
        let root = msb_testkit::TestRoot::new();
        let config = msb_testkit::client_config(&root.der(), alpn);
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client = rustls::ClientConnection::new(Arc::clone(&config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    /// The same handshake message in records of at most `size` bytes.
    fn in_records(hello: &[u8], size: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for piece in hello[5..].chunks(size) {
            bytes.extend_from_slice(&hello[..3]);
            bytes.extend_from_slice(&u16::try_from(piece.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(piece);
        }
        bytes
    }

    fn push_in_two(bytes: &[u8], cut: usize) -> Result<Option<Hello>, HelloFault> {
        let mut reader = HelloReader::new(LIMIT);
        match reader.push(&bytes[..cut])? {
            Some(hello) => Ok(Some(hello)),
            None => reader.push(&bytes[cut..]),
        }
    }

    #[track_caller]
    fn check_hello(bytes: &[u8], name: Option<&str>, alpn: &[&[u8]]) {
        for cut in 0..bytes.len() {
            let hello = push_in_two(bytes, cut).unwrap().unwrap();
            let found = hello.server_name.as_ref().map(HostName::as_str);
            assert_eq!(found, name, "cut at {cut}");
            assert_eq!(hello.alpn, alpn, "cut at {cut}");
            assert_eq!(hello.raw, bytes, "cut at {cut}");
        }
    }

    #[test]
    fn a_hello_is_read_whole_however_it_is_split() {
        let hello = client_hello("api.example.test", &[b"h2", b"http/1.1"]);
        check_hello(&hello, Some("api.example.test"), &[b"h2", b"http/1.1"]);
        check_hello(
            &in_records(&hello, 100),
            Some("api.example.test"),
            &[b"h2", b"http/1.1"],
        );
    }

    #[test]
    fn a_hello_in_one_byte_records_is_read() {
        let hello = in_records(&client_hello("a.test", &[]), 1);
        let mut reader = HelloReader::new(LIMIT);
        let found = reader.push(&hello).unwrap().unwrap();
        assert_eq!(found.server_name.unwrap().as_str(), "a.test");
    }

    #[test]
    fn a_hello_without_a_name_is_a_hello() {
        check_hello(&client_hello("192.0.2.1", &[]), None, &[]);
    }

    #[test]
    fn every_prefix_of_a_hello_asks_for_more() {
        let hello = client_hello("api.example.test", &[]);
        for end in 0..hello.len() {
            let answer = HelloReader::new(LIMIT).push(&hello[..end]);
            assert!(matches!(answer, Ok(None)), "{end}: {answer:?}");
        }
    }

    #[test]
    fn what_follows_a_hello_is_kept() {
        let mut bytes = client_hello("a.test", &[]);
        let len = bytes.len();
        bytes.extend_from_slice(b"more");
        let hello = HelloReader::new(LIMIT).push(&bytes).unwrap().unwrap();
        assert_eq!(hello.raw.len(), len + 4);
        assert!(b"more".ends_with(&hello.unread[..]));
    }

    #[track_caller]
    fn check_not_tls(bytes: &[u8]) {
        for end in 1..=bytes.len() {
            let answer = HelloReader::new(LIMIT).push(&bytes[..end]);
            let prefix_fits = end == 1 && bytes[0] == 22;
            assert!(
                prefix_fits || matches!(answer, Err(HelloFault::NotTls)),
                "{end}: {answer:?}"
            );
        }
    }

    #[test]
    fn other_protocols_are_not_tls() {
        check_not_tls(b"GET / HTTP/1.1\r\n\r\n");
        check_not_tls(b"SSH-2.0-OpenSSH_9.2\r\n");
        check_not_tls(&[0x80, 0x2e, 0x01, 0x00, 0x02]);
        check_not_tls(&[22, 9, 9]);
    }

    #[test]
    fn a_broken_hello_is_malformed_and_answered_with_an_alert() {
        let mut hello = client_hello("a.test", &[]);
        hello[5] = 2;
        let Err(HelloFault::Malformed { alert, .. }) = HelloReader::new(LIMIT).push(&hello) else {
            panic!("a ServerHello was taken for a ClientHello");
        };
        let bytes = alert.unwrap().into_bytes();
        assert_eq!(bytes[0], 21, "an alert record");
    }

    #[test]
    fn a_hello_over_the_limit_is_too_large() {
        let hello = client_hello("a.test", &[]);
        let answer = HelloReader::new(hello.len() - 1).push(&hello[..hello.len() - 1]);
        assert!(matches!(answer, Err(HelloFault::TooLarge)), "{answer:?}");
    }

    #[test]
    fn a_hello_that_announces_more_than_it_may_is_refused() {
        // 16 MiB announced, sent in full records.
        let mut bytes = vec![22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff];
        bytes.resize(5 + 0x4000, 0);
        let mut reader = HelloReader::new(LIMIT);
        let answer = (0..8).find_map(|index| {
            let record = if index == 0 {
                bytes.clone()
            } else {
                [&[22, 3, 1, 0x40, 0][..], &[0; 0x4000]].concat()
            };
            reader.push(&record).err()
        });
        assert!(
            matches!(
                answer,
                Some(HelloFault::TooLarge | HelloFault::Malformed { .. })
            ),
            "{answer:?}"
        );
    }
}
