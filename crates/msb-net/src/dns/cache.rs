//! Answers of upstream, kept until they expire. Bounded in octets, for whoever runs a zone decides how long its answers are and
//! for how long they hold. Pure: the time is passed in.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, OpCode, Query};

use super::responder::Upstream;

/// Octets kept: some thousand answers of a usual length, or a few dozen of the longest.
const CAPACITY: usize = 2 << 20;
/// What an answer takes besides its octets and those of its name.
const OVERHEAD: usize = 256;
/// Longest that an answer is kept (RFC 8767, section 4 suggests a cap of days).
const MAX_TTL: Duration = Duration::from_secs(24 * 3600);

/// See the module's description.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    entries: HashMap<Query, Entry>,
    /// All of `entries`, the first to expire first.
    by_expiry: BTreeMap<Place, Query>,
    /// What `entries` take; at most [`CAPACITY`].
    size: usize,
    next: u64,
}

/// When an entry expires, and a number that no other has.
type Place = (Instant, u64);

#[derive(Debug)]
struct Entry {
    /// The answer as a message, which is how it takes least.
    message: Vec<u8>,
    since: Instant,
    place: Place,
    size: usize,
}

impl Cache {
    /// What upstream said to `query`, with the time that is left to it.
    pub(crate) fn get(&self, query: &Query, now: Instant) -> Option<Upstream> {
        let entry = self.entries.get(query)?;
        if entry.place.0 <= now {
            return None;
        }
        let mut message = Message::from_vec(&entry.message).ok()?;
        let passed = now.saturating_duration_since(entry.since).as_secs();
        let passed = u32::try_from(passed).unwrap_or(u32::MAX);
        let records = message.answers.iter_mut().chain(&mut message.authorities);
        for record in records {
            record.ttl = record.ttl.saturating_sub(passed);
        }
        Some(Upstream {
            code: message.metadata.response_code,
            answers: message.answers,
            soa: message.authorities.pop(),
        })
    }

    /// Keeps what upstream said to `query` for `ttl`, and for a day at most.
    pub(crate) fn insert(
        &mut self,
        query: &Query,
        upstream: &Upstream,
        ttl: Duration,
        now: Instant,
    ) {
        self.remove(query);
        while let Some(first) = self.by_expiry.first_entry()
            && first.key().0 <= now
        {
            let query = first.get().clone();
            self.remove(&query);
        }
        let mut message = Message::response(0, OpCode::Query);
        message.metadata.response_code = upstream.code;
        message.add_answers(upstream.answers.iter().cloned());
        message.add_authorities(upstream.soa.clone());
        let Ok(message) = message.to_vec() else {
            return;
        };
        let size = OVERHEAD + message.len() + 2 * query.name().len();
        if ttl.is_zero() || size > CAPACITY {
            return;
        }
        while self.size + size > CAPACITY
            && let Some((_, first)) = self.by_expiry.first_key_value()
        {
            let first = first.clone();
            self.remove(&first);
        }
        let place = (now + ttl.min(MAX_TTL), self.next);
        self.next += 1;
        self.size += size;
        self.by_expiry.insert(place, query.clone());
        let entry = Entry {
            message,
            since: now,
            place,
            size,
        };
        self.entries.insert(query.clone(), entry);
    }

    fn remove(&mut self, query: &Query) {
        if let Some(entry) = self.entries.remove(query) {
            self.by_expiry.remove(&entry.place);
            self.size -= entry.size;
        }
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::ResponseCode;
    use hickory_proto::rr::rdata::{SOA, TXT};
    use hickory_proto::rr::{Name, RData, Record, RecordType};
    use proptest::prelude::*;

    use super::*;

    fn query(name: &str) -> Query {
        Query::query(Name::from_ascii(name).unwrap(), RecordType::TXT)
    }

    fn said(name: &str, ttl: u32, len: usize) -> Upstream {
        let text = "x".repeat(len.min(255));
        let data = RData::TXT(TXT::new(vec![text; len.div_ceil(255)]));
        Upstream {
            code: ResponseCode::NoError,
            answers: vec![Record::from_rdata(
                Name::from_ascii(name).unwrap(),
                ttl,
                data,
            )],
            soa: None,
        }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn an_answer_comes_back_with_the_time_that_is_left_to_it() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        cache.insert(&query("a.test."), &said("a.test.", 60, 5), seconds(60), now);
        let got = cache.get(&query("A.Test."), now + seconds(20)).unwrap();
        let expected = said("a.test.", 40, 5);
        assert_eq!((got.code, got.answers), (expected.code, expected.answers));
        assert!(cache.get(&query("b.test."), now).is_none());
        let other = Query::query(Name::from_ascii("a.test.").unwrap(), RecordType::A);
        assert!(cache.get(&other, now).is_none());
        assert!(cache.get(&query("a.test."), now + seconds(60)).is_none());
        cache.insert(&query("a.test."), &said("a.test.", 0, 5), seconds(0), now);
        assert!(cache.get(&query("a.test."), now).is_none(), "TTL 0");
    }

    #[test]
    fn that_there_is_no_such_name_is_kept_as_well() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let zone = Name::from_ascii("test.").unwrap();
        let soa = SOA::new(zone.clone(), zone.clone(), 1, 2, 3, 4, 5);
        let none = Upstream {
            code: ResponseCode::NXDomain,
            answers: Vec::new(),
            soa: Some(Record::from_rdata(zone, 60, RData::SOA(soa))),
        };
        cache.insert(&query("a.test."), &none, seconds(30), now);
        let got = cache.get(&query("a.test."), now + seconds(10)).unwrap();
        assert_eq!((got.code, got.soa.unwrap().ttl), (none.code, 50));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// The oracle knows all that was said and has not expired: what is there is among it, and what is not had to go.
        #[test]
        fn the_first_to_expire_make_room_and_the_size_is_bounded(
            ops in proptest::collection::vec((0_usize..80, 0_u64..400, 1_usize..60_000, 0_u64..10), 0..120),
        ) {
            let mut cache = Cache::default();
            let mut now = Instant::now();
            let mut said_last: HashMap<Query, Instant> = HashMap::new();
            for (number, ttl, len, later) in ops {
                now += seconds(later);
                let name = format!("n{number}.test.");
                cache.insert(&query(&name), &said(&name, 500, len), seconds(ttl), now);
                said_last.insert(query(&name), now + seconds(ttl));
                said_last.retain(|_, until| *until > now);
                prop_assert_eq!(cache.get(&query(&name), now).is_some(), ttl > 0);

                let sizes: usize = cache.entries.values().map(|entry| entry.size).sum();
                prop_assert!(sizes == cache.size && sizes <= CAPACITY);
                prop_assert_eq!(cache.entries.len(), cache.by_expiry.len());
                let current = cache.entries.iter().filter(|(_, entry)| entry.place.0 > now);
                for (query, entry) in current.clone() {
                    prop_assert_eq!(said_last.get(query), Some(&entry.place.0));
                }
                // Nothing is longer than 64 KiB.
                let has_room = cache.size + 70_000 <= CAPACITY;
                prop_assert!(!has_room || current.count() == said_last.len());
                said_last.retain(|query, _| cache.entries.contains_key(query));
            }
        }
    }
}
