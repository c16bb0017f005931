//! A placeholder that looks like a value, for programs that check how a key is written.

use crate::Error;

/// Characters needed behind the prefix: 12 digits stand by chance in one of 10^12 places.
const LEAST_TAIL: usize = 12;

/// Prefixes of well-known keys that no separator ends.
const PREFIXES: [&str; 5] = ["AKIA", "ASIA", "AIza", "SG.", "eyJ"];

/// Prefix, length, separators and kinds of characters of `value`; the characters themselves come from `env` alone.
pub(crate) fn of(env: &str, value: &str) -> Result<String, Error> {
    let refuse = |problem| {
        Err(Error::NoLikeness {
            env: env.to_owned(),
            problem,
        })
    };
    if !value.bytes().all(|byte| byte.is_ascii_graphic()) {
        return refuse("is expected to be printable ASCII without spaces");
    }
    let (prefix, tail) = value.split_at(prefix_len(value));
    let body = tail.trim_end_matches('=');
    if body.bytes().filter(|byte| !is_separator(*byte)).count() < LEAST_TAIL {
        return refuse("is too short: 12 characters are needed behind its prefix");
    }
    let alphabet = alphabet(body);
    let mut random = Random::new(env);
    let alike = |byte: u8| {
        if is_separator(byte) {
            char::from(byte)
        } else {
            char::from(alphabet[random.below(alphabet.len())])
        }
    };
    let alike: String = body.bytes().map(alike).collect();
    Ok([prefix, &alike, &tail[body.len()..]].concat())
}

fn is_separator(byte: u8) -> bool {
    b"-_.:".contains(&byte)
}

/// A known prefix, or up to three words such as `sk-`, `ant-` and `api03-`; no more than a third of the value.
fn prefix_len(value: &str) -> usize {
    const MOST_WORDS: usize = 3;
    let known = PREFIXES.iter().find(|prefix| value.starts_with(**prefix));
    if let Some(prefix) = known {
        return prefix.len();
    }
    let mut len = 0;
    for word in value.split_inclusive(['-', '_', '.']).take(MOST_WORDS) {
        let Some(text) = word.strip_suffix(['-', '_', '.']) else {
            break;
        };
        let letters = text.trim_end_matches(|c: char| c.is_ascii_digit());
        let is_word = (1..=8).contains(&letters.len())
            && letters.bytes().all(|byte| byte.is_ascii_lowercase())
            && text.len() - letters.len() <= 2;
        if !is_word || 3 * (len + word.len()) > value.len() {
            break;
        }
        len += word.len();
    }
    len
}

/// The kinds of characters that a text has: hexadecimal digits, or those of upper case, lower case and digits it uses.
fn alphabet(text: &str) -> Vec<u8> {
    let characters = || text.bytes().filter(|byte| !is_separator(*byte));
    for hex in [b"0123456789abcdef", b"0123456789ABCDEF"] {
        let digits = characters().filter(u8::is_ascii_digit).count();
        if (1..text.len()).contains(&digits) && characters().all(|byte| hex.contains(&byte)) {
            return hex.to_vec();
        }
    }
    let kinds = [b'a'..=b'z', b'A'..=b'Z', b'0'..=b'9'];
    let used = kinds
        .into_iter()
        .filter(|kind| characters().any(|byte| kind.contains(&byte)));
    let alphabet: Vec<u8> = used.flatten().collect();
    if alphabet.is_empty() {
        return (b'a'..=b'z').collect();
    }
    alphabet
}

/// SplitMix64 (Steele, Lea and Flood 2014), seeded by FNV-1a of a name. Nothing about it is secret.
struct Random(u64);

impl Random {
    fn new(name: &str) -> Self {
        let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(seed)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^= word >> 31;
        usize::try_from(word % bound as u64).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `expected` is the prefix, then for each place `h` (hexadecimal), `l`, `u`, `d` or `a` (any of these), or itself.
    #[track_caller]
    fn check(value: &str, prefix: &str, kind: &str) {
        let likeness = of("KEY", value).unwrap();
        assert_eq!(likeness.len(), value.len(), "{likeness}");
        assert_ne!(likeness, value);
        let tail = likeness.strip_prefix(prefix).expect(&likeness);
        let fits = |byte: u8| match kind {
            "hex" => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
            "HEX" => byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte),
            "digits" => byte.is_ascii_digit(),
            "upper" => byte.is_ascii_digit() || byte.is_ascii_uppercase(),
            "lower" => byte.is_ascii_lowercase(),
            _ => byte.is_ascii_alphanumeric(),
        };
        let own = &value[prefix.len()..];
        for (byte, own) in tail.bytes().zip(own.bytes()) {
            if b"-_.:=".contains(&own) {
                assert_eq!(byte, own, "{likeness}");
            } else {
                assert!(fits(byte), "{likeness} is not {kind}");
            }
        }
        let same = tail.bytes().zip(own.bytes()).filter(|(a, b)| a == b);
        assert!(same.count() < own.len() / 2 + 2, "{likeness} tells {value}");
    }

    #[test]
    fn keys_keep_their_shape() {
        check("sk-proj-AbCdEf0123456789xYz", "sk-proj-", "any");
        check(
            "sk-ant-api03-AbCdEf0123456789xYzAbCdEf0123456789",
            "sk-ant-api03-",
            "any",
        );
        check("ghp_0123456789abcdefghijKLMNOPQRST", "ghp_", "any");
        check("AKIAIOSFODNN7EXAMPLE", "AKIA", "upper");
        check("AIzaSyA-0123456789_bcdefg", "AIza", "any");
        check("9f86d081884c7d659a2feaa0c55ad015", "", "hex");
        check("9F86D081884C7D659A2FEAA0C55AD015", "", "HEX");
        check("550e8400-e29b-41d4-a716-446655440000", "", "hex");
        check("123456789012345", "", "digits");
        check("correcthorsebattery", "", "lower");
        check("deadbeefdeadbeef", "", "lower");
        check("dGhpcyBpcyBh+2VjcmV0/2E9PQ==", "", "any");
        check("++++++++++++", "", "lower");
        // What looks like a prefix and is a large part of the value is not taken for one.
        check("abcdefgh-0123456789ab", "", "any");
    }

    #[track_caller]
    fn refused(value: &str, expected: &str) {
        let error = of("KEY", value).unwrap_err().to_string();
        assert!(
            error.contains("\"KEY\"") && error.contains(expected),
            "{error}"
        );
        assert!(value.is_empty() || !error.contains(value), "{error}");
    }

    #[test]
    fn what_has_no_likeness_is_refused() {
        refused("", "too short");
        refused("sk-proj-short", "too short");
        refused("a-b-c-d-e-f-g-h", "too short");
        refused("ghp_0123456789a", "too short");
        refused("pass phrase of words", "printable ASCII");
        refused("schlüssel-0123456789", "printable ASCII");
    }

    #[test]
    fn it_depends_on_the_name_and_not_on_the_characters() {
        let (a, b) = ("ghp_0123456789abcdefghijAB", "ghp_zyx7654321dcbaABCDEFab");
        assert_eq!(of("KEY", a).unwrap(), of("KEY", b).unwrap());
        assert_ne!(of("KEY", a).unwrap(), of("OTHER", a).unwrap());
    }

    proptest! {
        #[test]
        fn any_printable_value_has_one_of_its_length(value in "[!-~]{0,80}") {
            if let Ok(likeness) = of("KEY", &value) {
                prop_assert_eq!(likeness.len(), value.len());
                prop_assert_ne!(likeness, value);
            } else {
                let alike = value.bytes().filter(|byte| !is_separator(*byte) && *byte != b'=');
                prop_assert!(alike.count() < LEAST_TAIL + value.len() / 3 + 4);
            }
        }
    }
}
