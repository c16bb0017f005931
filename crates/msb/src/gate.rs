//! A guest's stream of which nothing is passed on before its server name was decided about (SPEC P4).
//!
//! What comes from the server passes at once, so protocols in which the server speaks first are not held up.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use msb_name::HostName;
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// As for ClientHellos that are intercepted (SPEC T3).
const MAX_HELLO_LEN: usize = 64 * 1024;
/// How much is read of a hello at once.
const PIECE: usize = 4096;
/// A TLS record of type handshake (RFC 8446 section 5.1).
const HANDSHAKE_RECORD: u8 = 22;

/// Whether a flow may go on whose first bytes claim this. Called once, before anything of it is passed on.
pub(crate) type Decide = Box<dyn FnOnce(Claimed<'_>) -> bool + Send>;

/// What the first bytes of a flow claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claimed<'a> {
    /// This name, or none.
    Name(Option<&'a HostName>),
    /// Two servers could read them in two ways.
    Ambiguous,
}

/// See the module's description.
pub(crate) struct Gated<S> {
    stream: S,
    gate: Gate,
}

enum Gate {
    /// What was read, which is passed on first.
    Open(Vec<u8>),
    Closed {
        hello: Box<Hello>,
        decide: Option<Decide>,
    },
    Refused,
}

impl<S> Gated<S> {
    /// A stream whose name, read from its first bytes, is handed to `decide`.
    pub(crate) fn new(stream: S, decide: Decide) -> Self {
        let gate = Gate::Closed {
            hello: Box::default(),
            decide: Some(decide),
        };
        Self { stream, gate }
    }
}

/// What the first bytes are.
#[derive(Debug, PartialEq, Eq)]
enum First {
    /// The beginning of a ClientHello.
    Incomplete,
    /// A ClientHello with this name, or no TLS, which has none.
    Claims(Option<HostName>),
    /// Nothing that a server could only read in one way.
    Malformed,
}

#[derive(Default)]
struct Hello {
    acceptor: Acceptor,
    raw: Vec<u8>,
}

impl Hello {
    fn push(&mut self, bytes: &[u8]) -> First {
        self.raw.extend_from_slice(bytes);
        if self.raw.first() != Some(&HANDSHAKE_RECORD) {
            return First::Claims(None);
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            if !matches!(self.acceptor.read_tls(&mut rest), Ok(1..)) {
                return First::Malformed;
            }
            match self.acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let name = accepted.client_hello().server_name().map(HostName::parse);
                    return name.transpose().map_or(First::Malformed, First::Claims);
                }
                Err(_) => return First::Malformed,
            }
        }
        if self.raw.len() < MAX_HELLO_LEN {
            First::Incomplete
        } else {
            First::Malformed
        }
    }
}

impl<S: AsyncRead + Unpin> Gated<S> {
    /// Reads until the gate is open.
    fn poll_open(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let (hello, decide) = match &mut self.gate {
                Gate::Open(_) => return Poll::Ready(Ok(())),
                Gate::Refused => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                Gate::Closed { hello, decide } => (hello, decide),
            };
            let mut piece = [0; PIECE];
            let mut buffer = ReadBuf::new(&mut piece);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer))?;
            let first = match buffer.filled() {
                // Half a hello claims nothing that a server could act on, and no byte of it is sent.
                [] if hello.raw.is_empty() => First::Claims(None),
                [] => First::Malformed,
                bytes => hello.push(bytes),
            };
            let may_pass = match (first, decide.take()) {
                (First::Incomplete, again) => {
                    *decide = again;
                    continue;
                }
                (First::Claims(name), Some(decide)) => decide(Claimed::Name(name.as_ref())),
                (First::Malformed, Some(decide)) => decide(Claimed::Ambiguous),
                (_, None) => false,
            };
            self.gate = if may_pass {
                Gate::Open(std::mem::take(&mut hello.raw))
            } else {
                Gate::Refused
            };
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gated<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_open(context))?;
        let Self { stream, gate } = &mut *self;
        match gate {
            Gate::Open(unread) if !unread.is_empty() => {
                let len = unread.len().min(buffer.remaining());
                buffer.put_slice(&unread[..len]);
                unread.drain(..len);
                Poll::Ready(Ok(()))
            }
            _ => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gated<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// The ClientHello of a client that wants `name`.
    fn hello(name: &str) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let name = name.to_owned().try_into().unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    /// What was asked, and what came through; `None`: a reset. `passes` is the answer for a name and for what is ambiguous.
    fn pass(pieces: &[&[u8]], passes: [bool; 2]) -> (Vec<String>, Option<Vec<u8>>) {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&asked);
        let decide: Decide = Box::new(move |claimed| {
            let (told, passes) = match claimed {
                Claimed::Name(Some(name)) => (name.to_string(), passes[0]),
                Claimed::Name(None) => ("none".to_owned(), passes[0]),
                Claimed::Ambiguous => ("ambiguous".to_owned(), passes[1]),
            };
            record.lock().unwrap().push(told);
            passes
        });
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.build().unwrap();
        let read = runtime.block_on(async {
            let (mut guest, stream) = tokio::io::duplex(1 << 20);
            let mut gated = Gated::new(stream, decide);
            let feed = async {
                for piece in pieces {
                    guest.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
                drop(guest);
            };
            let mut read = Vec::new();
            let (result, ()) = tokio::join!(gated.read_to_end(&mut read), feed);
            result.ok().map(|_| read)
        });
        let asked = asked.lock().unwrap().clone();
        (asked, read)
    }

    #[test]
    fn the_claimed_name_decides_however_the_hello_is_cut() {
        let bytes = hello("a.test");
        for cut in 1..bytes.len() {
            let (first, rest) = bytes.split_at(cut);
            for (allow, expected) in [(true, Some([&bytes[..], b"more"].concat())), (false, None)] {
                let got = pass(&[first, rest, b"more"], [allow, !allow]);
                assert_eq!(got, (vec!["a.test".to_owned()], expected), "cut at {cut}");
            }
        }
    }

    #[test]
    fn what_is_no_tls_claims_nothing() {
        let none = || vec!["none".to_owned()];
        for text in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"SSH-2.0-x\r\n", b""] {
            let got = pass(&[text], [true, false]);
            assert_eq!(got, (none(), Some(text.to_vec())));
        }
        assert_eq!(pass(&[b"EHLO x\r\n"], [false, true]), (none(), None));
        let no_name = hello("192.0.2.1");
        let got = pass(&[&no_name], [true, false]);
        assert_eq!(got, (none(), Some(no_name.clone())));
    }

    /// Two servers could read it differently; whether that matters is the policy's to say.
    #[test]
    fn what_cannot_be_read_as_a_hello_is_told_as_such() {
        let whole = hello("a.test");
        let mut broken = whole.clone();
        broken[5] = 99;
        let endless = [&[22, 3, 1, 0x40, 0][..], &[1, 0, 0xff, 0xff], &[0; 0x3ffc]].concat();
        let cut = &whole[..whole.len() - 1];
        for bytes in [&broken[..], &endless.repeat(8), cut] {
            let ambiguous = || vec!["ambiguous".to_owned()];
            assert_eq!(pass(&[bytes], [true, false]), (ambiguous(), None));
            let expected = Some(bytes.to_vec());
            assert_eq!(pass(&[bytes], [false, true]), (ambiguous(), expected));
        }
    }

    #[tokio::test]
    async fn a_server_that_speaks_first_is_not_held_up() {
        let (mut guest, stream) = tokio::io::duplex(64);
        let mut gated = Gated::new(stream, Box::new(|_| false));
        gated.write_all(b"220 hello\r\n").await.unwrap();
        let mut greeting = [0; 11];
        guest.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting, b"220 hello\r\n");
    }
}
