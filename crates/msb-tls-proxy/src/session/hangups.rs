//! Guests that hang up on a host before they have said anything to it, time after time (SPEC T12).
//!
//! A client that pins a certificate may say so with an alert; many just close, during the handshake or right after it. So
//! does one that was interrupted, or that opened a connection in advance: one such end says nothing, several in a row for
//! one host, with nothing said to it in between, are worth a cautious word.

use std::collections::HashMap;
use std::time::Duration;

use msb_name::Host;

/// How many in a row are told.
const IN_A_ROW: u32 = 3;
/// How many hosts are kept in mind.
const MOST_HOSTS: usize = 1024;
/// What is closed later than this was not closed because of its certificate.
pub(crate) const PROMPTLY: Duration = Duration::from_secs(5);

/// How often in a row each host was hung up on.
#[derive(Debug, Default)]
pub(crate) struct Hangups(HashMap<Host, u32>);

impl Hangups {
    /// The guest hung up on `host`. The number of times, if it is to be told now.
    pub(crate) fn hung_up(&mut self, host: &Host) -> Option<u32> {
        if self.0.len() >= MOST_HOSTS && !self.0.contains_key(host) {
            // Whichever; a guest that wants to be overlooked can always be.
            let other = self.0.keys().next().cloned();
            other.and_then(|other| self.0.remove(&other));
        }
        let count = self.0.entry(host.clone()).or_default();
        *count = count.saturating_add(1);
        (*count == IN_A_ROW).then_some(*count)
    }

    /// The guest said something to `host`, so it accepts the certificate.
    pub(crate) fn spoke(&mut self, host: &Host) {
        self.0.remove(host);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_third_hang_up_in_a_row_is_told_and_no_later_one() {
        let mut hangups = Hangups::default();
        let [a, b]: [Host; 2] = ["a.test", "b.test"].map(|name| name.parse().unwrap());
        for (host, speaks, told) in [
            (&a, false, false),
            (&b, false, false),
            (&a, false, false),
            (&a, true, false),
            (&a, false, false),
            (&a, false, false),
            (&a, false, true),
            (&a, false, false),
            (&b, false, false),
            (&b, false, true),
            (&a, true, false),
            (&a, false, false),
            (&a, false, false),
            (&a, false, true),
        ] {
            if speaks {
                hangups.spoke(host);
            } else {
                assert_eq!(hangups.hung_up(host).is_some(), told, "{host}");
            }
        }
    }

    #[test]
    fn ever_new_hosts_do_not_grow_it() {
        let mut hangups = Hangups::default();
        for number in 0..2 * MOST_HOSTS {
            let host = format!("h{number}.test").parse().unwrap();
            assert_eq!(hangups.hung_up(&host), None);
        }
        assert_eq!(hangups.0.len(), MOST_HOSTS);
    }
}
