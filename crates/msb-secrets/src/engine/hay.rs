//! The bytes under search, and three-valued answers about them: yes, no, or not known before more bytes come.

/// How many bytes before a position can matter: `\u0041` before a needle is one character.
pub(crate) const BEHIND: usize = 6;

/// Bytes to search, what came right before them, and whether more can follow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hay<'a> {
    /// At most the last [`BEHIND`] bytes before `data`.
    pub(crate) behind: &'a [u8],
    pub(crate) data: &'a [u8],
    /// Whether `data` ends the input.
    pub(crate) last: bool,
}

/// A byte, or why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peek {
    Byte(u8),
    End,
    More,
}

/// An answer that holds for every continuation of the input, or the wish for more of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step<T> {
    Is(T),
    Not,
    More,
}

impl<'a> Hay<'a> {
    /// A whole input.
    pub(crate) fn whole(data: &'a [u8]) -> Self {
        Self {
            behind: &[],
            data,
            last: true,
        }
    }

    pub(crate) fn peek(&self, at: usize) -> Peek {
        match self.data.get(at) {
            Some(byte) => Peek::Byte(*byte),
            None if self.last => Peek::End,
            None => Peek::More,
        }
    }

    /// The byte `back` (1 to [`BEHIND`]) positions before `at`.
    pub(crate) fn before(&self, at: usize, back: usize) -> Option<u8> {
        match at.checked_sub(back) {
            Some(index) => self.data.get(index).copied(),
            None => self
                .behind
                .len()
                .checked_sub(back - at)
                .map(|index| self.behind[index]),
        }
    }
}

/// A character that can stand inside a token: a placeholder that begins or ends with one does not match next to one.
pub(crate) fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

pub(crate) fn hex_value(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

pub(crate) fn hex_pair(high: u8, low: u8) -> Option<u8> {
    Some(hex_value(high)? << 4 | hex_value(low)?)
}
