//! Keys in order, so that those that begin alike stand together: all of them are compared with the hay in one walk.

use super::key::Key;

/// Distinct or equal keys with something attached, in the order of the keys.
#[derive(Debug)]
pub(crate) struct Sorted<T> {
    keys: Vec<Key>,
    values: Vec<T>,
}

/// The keys that begin with the `depth` bytes walked so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Walk {
    low: usize,
    high: usize,
    depth: usize,
}

impl Walk {
    pub(crate) fn is_over(&self) -> bool {
        self.low == self.high
    }
}

impl<T> Sorted<T> {
    pub(crate) fn new(entries: impl IntoIterator<Item = (Key, T)>) -> Self {
        let mut entries: Vec<_> = entries.into_iter().collect();
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        let (keys, values) = entries.into_iter().unzip();
        Self { keys, values }
    }

    pub(crate) fn walk(&self) -> Walk {
        Walk {
            low: 0,
            high: self.keys.len(),
            depth: 0,
        }
    }

    /// Takes the next key that ends where the walk stands. All of them have to be taken before the next step.
    pub(crate) fn ended(&self, walk: &mut Walk) -> Option<&T> {
        if walk.is_over() || self.keys[walk.low].len() > walk.depth {
            return None;
        }
        walk.low += 1;
        Some(&self.values[walk.low - 1])
    }

    /// Goes on with the keys whose next byte is `byte`.
    pub(crate) fn step(&self, walk: &mut Walk, byte: u8) {
        let keys = &self.keys[walk.low..walk.high];
        let next = |key: &Key| key[walk.depth];
        let (Some(first), Some(last)) = (keys.first(), keys.last()) else {
            return;
        };
        if next(first) != byte || next(last) != byte {
            let before = keys.partition_point(|key| next(key) < byte);
            let within = keys[before..].partition_point(|key| next(key) == byte);
            walk.low += before;
            walk.high = walk.low + within;
        }
        walk.depth += 1;
    }

    /// What is attached to the keys of the walk.
    pub(crate) fn rest(&self, walk: &Walk) -> &[T] {
        &self.values[walk.low..walk.high]
    }

    /// Whether a key begins with `bytes`.
    pub(crate) fn begins(&self, bytes: &[u8]) -> bool {
        let mut walk = self.walk();
        for byte in bytes {
            while self.ended(&mut walk).is_some() {}
            if walk.is_over() {
                return false;
            }
            self.step(&mut walk, *byte);
        }
        !walk.is_over()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(keys: &[&str]) -> Sorted<String> {
        Sorted::new(
            keys.iter()
                .map(|key| (key.as_bytes().into(), (*key).to_owned())),
        )
    }

    #[test]
    fn a_walk_meets_every_key_that_the_text_begins_with() {
        let keys = sorted(&["abc", "a", "b", "abd", "abcd", "b"]);
        let ended = |text: &str| {
            let (mut walk, mut all) = (keys.walk(), Vec::new());
            for byte in text.bytes() {
                keys.step(&mut walk, byte);
                while let Some(key) = keys.ended(&mut walk) {
                    all.push(key.as_str());
                }
            }
            all
        };
        assert_eq!(ended("abcde"), ["a", "abc", "abcd"]);
        assert_eq!(ended("abx"), ["a"]);
        assert_eq!(ended("b"), ["b", "b"]);
        assert_eq!(ended("x"), [""; 0]);
    }

    #[test]
    fn beginnings_are_those_of_keys() {
        let keys = sorted(&["ab", "abcd", "x"]);
        for (text, expected) in [
            ("", true),
            ("a", true),
            ("abc", true),
            ("abcd", true),
            ("abd", false),
            ("abcde", false),
            ("xx", false),
        ] {
            assert_eq!(keys.begins(text.as_bytes()), expected, "{text}");
        }
    }
}
