//! What a guest is heard to begin with on a connection that is relayed unread, so that rules can be about it.

use msb_name::HostName;

use crate::Limits;
use crate::session::beginning::{Beginning, Spoken};
use crate::session::hello::HelloReader;

/// The longest first line that is looked at.
const LONGEST_LINE: usize = 8 * 1024;
/// What is let be although it looks like a request: what follows it is none (RFC 9110 section 9.3.6), or cannot be read
/// (RFC 9113 section 3.4).
const UNREADABLE: [&[u8]; 2] = [b"CONNECT ", b"PRI "];

/// What was heard.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// A request that a server may read.
    pub(super) is_http: bool,
    /// The name that TLS claims.
    pub(super) claimed: Option<HostName>,
}

/// Listens until it is clear what is spoken.
pub(super) struct Listener {
    beginning: Beginning,
    /// As much of the beginning as tells what is unreadable.
    first: Vec<u8>,
    hello: Option<HelloReader>,
}

impl Listener {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            beginning: Beginning::new(limits.head_len.min(LONGEST_LINE)),
            first: Vec::new(),
            hello: Some(HelloReader::new(limits.hello_len)),
        }
    }

    /// Takes what the guest sent next. True if there is news in `heard`.
    pub(super) fn push(&mut self, bytes: &[u8], heard: &mut Heard) -> bool {
        let mut has_news = false;
        if let Some(hello) = &mut self.hello {
            match hello.push(bytes) {
                Ok(None) => {}
                Ok(Some(hello)) => {
                    has_news = hello.server_name != heard.claimed;
                    heard.claimed = hello.server_name;
                    self.hello = None;
                }
                Err(_) => self.hello = None,
            }
        }
        let longest = UNREADABLE.iter().map(|first| first.len()).max();
        let room = longest.unwrap_or_default() - self.first.len();
        self.first
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
        if self.beginning.push(bytes) == Spoken::Http && !heard.is_http {
            heard.is_http = !UNREADABLE.iter().any(|is| self.first.starts_with(is));
            has_news |= heard.is_http;
        }
        has_news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_heard_however_they_are_cut() {
        for (text, is_http) in [
            ("GET / HTTP/1.1\r\n", true),
            ("\r\nGET / HTTP/1.1\r\n", true),
            ("PURGE /a HTTP/1.1\r\n", true),
            ("get / http/1.1\r\n", true),
            ("SSH-2.0-x\r\n", false),
            ("CONNECT a.test:443 HTTP/1.1\r\n", false),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", false),
            ("\r\nPRI * HTTP/2.0\r\n\r\n", true),
            ("PING\r\nGET / HTTP/1.1\r\n", false),
        ] {
            for len in 1..=text.len() {
                let mut listener = Listener::new(&Limits::default());
                let mut heard = Heard::default();
                let pieces = text.as_bytes().chunks(len);
                let news = pieces.filter(|piece| listener.push(piece, &mut heard));
                assert_eq!(news.count(), usize::from(is_http), "{text:?} by {len}");
                assert_eq!(heard.is_http, is_http, "{text:?} by {len}");
            }
        }
    }
}
