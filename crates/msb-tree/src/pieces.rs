//! A stream of bytes as pieces that are handed on one by one, as channels carry them.

use std::fmt;
use std::io::{self, Read, Write};

/// Collects what is written into pieces of one size, and hands each on. The last one leaves with [`Write::flush`].
pub struct PieceWriter<F> {
    piece: Vec<u8>,
    size: usize,
    send: F,
}

impl<F: FnMut(Vec<u8>) -> io::Result<()>> PieceWriter<F> {
    /// Pieces of `size` bytes go to `send`, whose error is the writer's.
    pub fn new(size: usize, send: F) -> Self {
        Self {
            piece: Vec::with_capacity(size),
            size,
            send,
        }
    }
}

impl<F: FnMut(Vec<u8>) -> io::Result<()>> Write for PieceWriter<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = bytes.len().min(self.size - self.piece.len());
        self.piece.extend_from_slice(&bytes[..len]);
        if self.piece.len() == self.size {
            self.flush()?;
        }
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let next = Vec::with_capacity(self.size);
        (self.send)(std::mem::replace(&mut self.piece, next))
    }
}

/// Reads pieces one after another.
pub struct PieceReader<B, F> {
    piece: Option<B>,
    /// Of the piece.
    read: usize,
    next: F,
}

impl<B: AsRef<[u8]>, F: FnMut() -> io::Result<Option<B>>> PieceReader<B, F> {
    /// `next` waits for a piece; `None` is the end.
    pub fn new(next: F) -> Self {
        Self {
            piece: None,
            read: 0,
            next,
        }
    }
}

impl<B: AsRef<[u8]>, F: FnMut() -> io::Result<Option<B>>> Read for PieceReader<B, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let rest = self.piece.as_ref().map_or(&[][..], AsRef::as_ref);
            let rest = rest.get(self.read..).unwrap_or_default();
            if !rest.is_empty() {
                let len = rest.len().min(buffer.len());
                buffer[..len].copy_from_slice(&rest[..len]);
                self.read += len;
                return Ok(len);
            }
            self.read = 0;
            self.piece = (self.next)()?;
            if self.piece.is_none() {
                return Ok(0);
            }
        }
    }
}

impl<F> fmt::Debug for PieceWriter<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PieceWriter").finish_non_exhaustive()
    }
}

impl<B, F> fmt::Debug for PieceReader<B, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PieceReader").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_in_pieces_is_read_from_them(
            writes in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..10),
            size in 1..30_usize,
        ) {
            let mut pieces = Vec::new();
            let mut writer = PieceWriter::new(size, |piece| {
                pieces.push(piece);
                Ok(())
            });
            for bytes in &writes {
                writer.write_all(bytes).expect("taken");
            }
            writer.flush().expect("taken");
            let last = pieces.len().saturating_sub(1);
            prop_assert!(pieces.iter().take(last).all(|piece| piece.len() == size));
            let mut pieces = pieces.into_iter();
            let mut read = Vec::new();
            let mut reader = PieceReader::new(|| Ok(pieces.next()));
            reader.read_to_end(&mut read).expect("given");
            prop_assert_eq!(read, writes.concat());
        }
    }
}
