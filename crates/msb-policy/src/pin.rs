//! Pins: which addresses the sandbox's DNS gave for which names, and until when.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use msb_name::HostName;

/// How long a pin outlives its answer. Clients keep answers longer than told: curl 60 s, the JVM 30 s, browsers about
/// 60 s whatever the TTL; and a connection may be opened some time after the answer.
const GRACE: Duration = Duration::from_secs(120);

/// The longest TTL taken at its word, so that no answer pins for ever (RFC 8767, section 4 suggests a cap of days).
const MAX_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// Pins kept by default. A busy guest uses some hundreds; each costs about 200 bytes.
const DEFAULT_CAPACITY: usize = 4096;

/// Names kept for one address: each flow to it is decided by all of them, and whoever runs a zone can point any number of
/// names at one address.
const NAMES_PER_ADDRESS: usize = 256;

/// Proof that the sandbox's DNS gave `address` for `name`, and that the answer (plus grace) had not expired when asked.
///
/// Only [`PinTable::confirm`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    name: HostName,
    address: IpAddr,
}

impl Pin {
    /// The name that was resolved.
    #[must_use]
    pub fn name(&self) -> &HostName {
        &self.name
    }

    /// The address it was resolved to, IPv4-mapped addresses as IPv4.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }
}

/// The answers that the sandbox's DNS gave, as a bounded table.
///
/// Answers add up (rotation): each name keeps every address until that answer's own expiry plus 120 s of grace. A later
/// answer for the same pair can lengthen its life but not shorten it. TTLs over a day count as a day. When the table is
/// full, or an address has 256 names, the pin that expires first makes room; that can only deny the guest a name it would
/// have to resolve again.
#[derive(Debug)]
pub struct PinTable {
    /// Same pairs as `by_expiry`; no inner map is empty.
    by_address: HashMap<IpAddr, HashMap<HostName, Instant>>,
    /// len <= capacity.
    by_expiry: BTreeSet<(Instant, IpAddr, HostName)>,
    capacity: usize,
}

impl Default for PinTable {
    fn default() -> Self {
        Self::with_capacity(DEFAULT_CAPACITY)
    }
}

impl PinTable {
    /// A table of at most `capacity` pins (at least one).
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            by_address: HashMap::new(),
            by_expiry: BTreeSet::new(),
            capacity: capacity.max(1),
        }
    }

    /// Records that `name` was answered with `address`, to be kept for `ttl`.
    pub fn insert(&mut self, name: HostName, address: IpAddr, ttl: Duration, now: Instant) {
        self.remove_expired(now);
        let address = address.to_canonical();
        let expiry = now + ttl.min(MAX_TTL) + GRACE;
        if let Some(&known) = self
            .by_address
            .get(&address)
            .and_then(|names| names.get(&name))
        {
            if known >= expiry {
                return;
            }
            self.by_expiry.remove(&(known, address, name.clone()));
        } else {
            self.make_room(address);
        }
        self.by_address
            .entry(address)
            .or_default()
            .insert(name.clone(), expiry);
        self.by_expiry.insert((expiry, address, name));
    }

    /// The proof that `name` was resolved to `address`, if it was and has not expired.
    #[must_use]
    pub fn confirm(&self, name: &HostName, address: IpAddr, now: Instant) -> Option<Pin> {
        let address = address.to_canonical();
        let expiry = self.by_address.get(&address)?.get(name)?;
        (*expiry > now).then(|| Pin {
            name: name.clone(),
            address,
        })
    }

    /// Every name that was resolved to `address` and has not expired, in order.
    #[must_use]
    pub fn names(&self, address: IpAddr, now: Instant) -> Vec<HostName> {
        let Some(names) = self.by_address.get(&address.to_canonical()) else {
            return Vec::new();
        };
        let mut names: Vec<_> = names
            .iter()
            .filter(|(_, expiry)| **expiry > now)
            .map(|(name, _)| name.clone())
            .collect();
        names.sort_unstable();
        names
    }

    /// The number of pins held, expired ones that nothing has removed yet included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_expiry.len()
    }

    /// Whether no pin is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_expiry.is_empty()
    }

    fn remove_expired(&mut self, now: Instant) {
        while self
            .by_expiry
            .first()
            .is_some_and(|(expiry, ..)| *expiry <= now)
        {
            self.remove_first();
        }
    }

    /// Makes room for one more name of `address`.
    fn make_room(&mut self, address: IpAddr) {
        if let Some(names) = self.by_address.get(&address)
            && names.len() >= NAMES_PER_ADDRESS
            && let Some((name, expiry)) =
                names.iter().min_by_key(|(name, expiry)| (**expiry, *name))
        {
            self.remove((*expiry, address, name.clone()));
        } else if self.by_expiry.len() == self.capacity {
            self.remove_first();
        }
    }

    fn remove_first(&mut self) {
        if let Some(first) = self.by_expiry.first().cloned() {
            self.remove(first);
        }
    }

    fn remove(&mut self, pin: (Instant, IpAddr, HostName)) {
        self.by_expiry.remove(&pin);
        let (_, address, name) = pin;
        if let Some(names) = self.by_address.get_mut(&address) {
            names.remove(&name);
            if names.is_empty() {
                self.by_address.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> HostName {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    /// Any moment: the table only compares what it is given.
    fn epoch() -> Instant {
        use std::sync::OnceLock;
        static EPOCH: OnceLock<Instant> = OnceLock::new();
        #[expect(
            clippy::disallowed_methods,
            reason = "an Instant has no other origin; the tests only count from it"
        )]
        *EPOCH.get_or_init(Instant::now)
    }

    #[test]
    fn only_the_answered_pair_is_confirmed() {
        let mut pins = PinTable::default();
        pins.insert(name("a.test"), ip("1.1.1.1"), seconds(60), epoch());
        let pin = pins
            .confirm(&name("A.test."), ip("::ffff:1.1.1.1"), epoch())
            .unwrap();
        assert_eq!(
            (pin.name().as_str(), pin.address()),
            ("a.test", ip("1.1.1.1"))
        );
        assert_eq!(pins.confirm(&name("a.test"), ip("1.1.1.2"), epoch()), None);
        assert_eq!(pins.confirm(&name("b.test"), ip("1.1.1.1"), epoch()), None);
    }

    /// Attack 7: TTL 0, rotation between resolve and connect, an expired pin.
    #[test]
    fn a_pin_lives_until_its_own_expiry_and_grace() {
        let mut pins = PinTable::default();
        pins.insert(name("a.test"), ip("1.1.1.1"), seconds(0), epoch());
        pins.insert(name("a.test"), ip("1.1.1.2"), seconds(60), epoch());
        let at = |address, n| {
            pins.confirm(&name("a.test"), ip(address), epoch() + seconds(n))
                .is_some()
        };
        assert!(at("1.1.1.1", 119) && !at("1.1.1.1", 120));
        assert!(at("1.1.1.2", 179) && !at("1.1.1.2", 180));
    }

    #[test]
    fn a_later_answer_never_shortens_a_pin() {
        let mut pins = PinTable::default();
        pins.insert(name("a.test"), ip("1.1.1.1"), seconds(600), epoch());
        pins.insert(name("a.test"), ip("1.1.1.1"), seconds(1), epoch());
        assert!(
            pins.confirm(&name("a.test"), ip("1.1.1.1"), epoch() + seconds(700))
                .is_some()
        );
        pins.insert(name("a.test"), ip("1.1.1.1"), seconds(800), epoch());
        assert!(
            pins.confirm(&name("a.test"), ip("1.1.1.1"), epoch() + seconds(900))
                .is_some()
        );
        assert_eq!(pins.len(), 1);
    }

    #[test]
    fn an_absurd_ttl_counts_as_a_day() {
        let mut pins = PinTable::default();
        pins.insert(name("a.test"), ip("1.1.1.1"), Duration::MAX, epoch());
        assert!(
            pins.confirm(&name("a.test"), ip("1.1.1.1"), epoch() + MAX_TTL + GRACE)
                .is_none()
        );
    }

    #[test]
    fn names_are_listed_in_order_without_the_expired() {
        let mut pins = PinTable::default();
        pins.insert(name("b.test"), ip("1.1.1.1"), seconds(60), epoch());
        pins.insert(name("a.test"), ip("1.1.1.1"), seconds(60), epoch());
        pins.insert(name("c.test"), ip("1.1.1.1"), seconds(0), epoch());
        let listed = pins.names(ip("1.1.1.1"), epoch() + seconds(130));
        assert_eq!(listed, [name("a.test"), name("b.test")]);
        assert_eq!(pins.names(ip("9.9.9.9"), epoch()), []);
    }

    #[test]
    fn the_table_is_bounded_and_the_first_to_expire_goes() {
        let mut pins = PinTable::with_capacity(2);
        for (i, ttl) in [30, 10, 20].into_iter().enumerate() {
            pins.insert(
                name(&format!("n{i}.test")),
                ip("1.1.1.1"),
                seconds(ttl),
                epoch(),
            );
        }
        assert_eq!(
            pins.names(ip("1.1.1.1"), epoch()),
            [name("n0.test"), name("n2.test")]
        );
        assert_eq!(pins.len(), 2);
    }

    #[test]
    fn an_address_has_so_many_names_and_no_more() {
        let mut pins = PinTable::default();
        let (many, other) = (ip("1.1.1.1"), ip("1.1.1.2"));
        pins.insert(name("other.test"), other, seconds(0), epoch());
        for n in 0..1_000 {
            let ttl = if n == 7 { 0 } else { 60 + n };
            pins.insert(name(&format!("n{n}.test")), many, seconds(ttl), epoch());
        }
        assert_eq!(pins.names(other, epoch()), [name("other.test")]);
        assert_eq!(pins.names(many, epoch()).len(), 256);
        let is_kept = |n: u64| {
            pins.confirm(&name(&format!("n{n}.test")), many, epoch())
                .is_some()
        };
        let kept: Vec<_> = (0..1_000).filter(|n| is_kept(*n)).collect();
        assert_eq!(kept, (744..1_000).collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn both_indexes_hold_the_same_pairs(ops in proptest::collection::vec((0u8..4, 0u8..4, 0u64..400, 0u64..200), 0..60)) {
            let mut pins = PinTable::with_capacity(5);
            let mut now = epoch();
            for (n, a, ttl, later) in ops {
                now += seconds(later);
                pins.insert(name(&format!("n{n}.test")), IpAddr::from([1, 1, 1, a]), seconds(ttl), now);
                let confirmed = pins.confirm(&name(&format!("n{n}.test")), IpAddr::from([1, 1, 1, a]), now);
                prop_assert!(confirmed.is_some());
                prop_assert!(pins.len() <= 5);
                let mut pairs: Vec<_> = pins.by_address.iter().flat_map(|(a, names)| names.iter().map(|(n, e)| (*e, *a, n.clone()))).collect();
                pairs.sort();
                prop_assert_eq!(pairs, pins.by_expiry.iter().cloned().collect::<Vec<_>>());
            }
        }
    }
}
