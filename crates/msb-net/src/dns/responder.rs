//! From a query's bytes to what to do about it, and from an upstream answer to a response's bytes.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};
use msb_name::HostName;
use msb_policy::NameDenial;

use super::svcb;
use crate::config::{Addresses, HostEntry};
use crate::counters::{DropCounters, Dropped};
use crate::event::Event;
use crate::policy::PolicyCell;

/// How long the guest may keep an answer from the configured hosts.
const HOST_TTL_SECONDS: u32 = 60;
/// How long such an answer stays pinned: the name cannot move, so only the table's size bounds it.
const HOST_PIN: Duration = Duration::from_secs(7 * 24 * 3600);
/// Shortest response every client takes over UDP (RFC 1035, 4.2.1).
const MIN_UDP_LEN: usize = 512;
/// Longest response sent over UDP, whatever the client says it takes.
const MAX_UDP_LEN: usize = 4_096;
/// The name every guest can reach its host by.
const HOST_ALIAS: &str = "host.msb.internal";

/// How a query came, which bounds the response's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// What to do about a message.
#[derive(Debug)]
pub(crate) enum Plan {
    /// Send this.
    Reply(Answer),
    /// Ask upstream, then call [`Responder::answer`].
    Ask(Question),
    /// Not a query: answering could start a loop.
    Ignore,
}

/// A query that must be asked upstream.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) query: Query,
    id: u16,
    recursion_desired: bool,
    checking_disabled: bool,
    has_edns: bool,
    /// Longest response the client takes.
    limit: usize,
}

/// What upstream said.
#[derive(Clone, Debug)]
pub(crate) struct Upstream {
    pub(crate) code: ResponseCode,
    pub(crate) answers: Vec<Record>,
    /// The zone's SOA, which tells how long a negative answer holds.
    pub(crate) soa: Option<Record>,
}

/// A response and what goes with it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) message: Vec<u8>,
    /// To be pinned before the message is sent.
    pub(crate) pins: Vec<(HostName, IpAddr, Duration)>,
    /// Why the policy withheld the addresses.
    pub(crate) denied: Option<Event>,
}

/// Answers queries by the configured hosts and the policy.
#[derive(Clone, Debug)]
pub(crate) struct Responder {
    hosts: Arc<HashMap<HostName, Vec<HostEntry>>>,
    addresses: Addresses,
    policy: PolicyCell,
    /// See [`Config::rebind_protection`](crate::Config::rebind_protection).
    rebind_protection: bool,
    counters: Arc<DropCounters>,
}

impl Responder {
    pub(crate) fn new(
        hosts: impl IntoIterator<Item = (HostName, HostEntry)>,
        addresses: Addresses,
        policy: PolicyCell,
        counters: Arc<DropCounters>,
    ) -> Self {
        let mut table: HashMap<HostName, Vec<HostEntry>> = HashMap::new();
        for (name, entry) in hosts {
            table.entry(name).or_default().push(entry);
        }
        Self {
            hosts: Arc::new(table),
            addresses,
            policy,
            rebind_protection: true,
            counters,
        }
    }

    pub(crate) fn rebind_protection(self, rebind_protection: bool) -> Self {
        Self {
            rebind_protection,
            ..self
        }
    }

    /// Decides about one message from the guest.
    pub(crate) fn plan(&self, bytes: &[u8], transport: Transport) -> Plan {
        let plan = self.read(bytes, transport);
        if matches!(plan, Plan::Ignore) {
            self.counters.count(Dropped::Query);
        }
        plan
    }

    fn read(&self, bytes: &[u8], transport: Transport) -> Plan {
        let Ok(message) = Message::from_vec(bytes) else {
            return malformed(bytes);
        };
        if message.metadata.message_type != MessageType::Query {
            return Plan::Ignore;
        }
        let limit = match (transport, &message.edns) {
            (Transport::Tcp, _) => usize::from(u16::MAX),
            (Transport::Udp, Some(edns)) => {
                usize::from(edns.max_payload()).clamp(MIN_UDP_LEN, MAX_UDP_LEN)
            }
            (Transport::Udp, None) => MIN_UDP_LEN,
        };
        let refuse = |code| Plan::Reply(plain(error(&message, code)));
        if message.metadata.op_code != OpCode::Query {
            return refuse(ResponseCode::NotImp);
        }
        let [query] = message.queries.as_slice() else {
            return refuse(ResponseCode::FormErr);
        };
        if message
            .edns
            .as_ref()
            .is_some_and(|edns| edns.version() != 0)
        {
            return refuse(ResponseCode::BADVERS);
        }
        let unsupported = [RecordType::ANY, RecordType::AXFR, RecordType::IXFR];
        if query.query_class() != DNSClass::IN || unsupported.contains(&query.query_type()) {
            return refuse(ResponseCode::NotImp);
        }
        let question = Question {
            query: query.clone(),
            id: message.metadata.id,
            recursion_desired: message.metadata.recursion_desired,
            checking_disabled: message.metadata.checking_disabled,
            has_edns: message.edns.is_some(),
            limit,
        };
        match self.local(&question) {
            Some(answer) => Plan::Reply(answer),
            None => match self.decide(&question.query) {
                Ok(()) => Plan::Ask(question),
                Err(denial) => Plan::Reply(deny(&question, denial)),
            },
        }
    }

    /// Whether a name that is not ours may be asked for (SPEC D2).
    fn decide(&self, query: &Query) -> Result<(), NameDenial> {
        match host_name(query) {
            Some(name) => self.policy.get().decide_name(&name),
            None => self.policy.get().decide_other_name(),
        }
    }

    /// Whether it is the configuration that leads `name` to `address`.
    pub(crate) fn leads(&self, name: &HostName, address: IpAddr) -> bool {
        match self.hosts.get(name) {
            Some(entries) => {
                let mut entries = entries.iter();
                entries.any(|entry| self.entry_addresses(*entry).contains(&address))
            }
            None => name.as_str() == HOST_ALIAS && self.addresses.is_gateway(address),
        }
    }

    /// The response to `question`, given what upstream said, by the policy of now.
    pub(crate) fn answer(&self, question: &Question, upstream: Upstream) -> Answer {
        if let Err(denial) = self.decide(&question.query) {
            return deny(question, denial);
        }
        let name = host_name(&question.query);
        let policy = self.policy.get();
        let (mut kept, mut pins, mut denied) = (Vec::new(), Vec::new(), None);
        for record in upstream.answers {
            let address = match &record.data {
                RData::A(address) => IpAddr::V4(address.0),
                RData::AAAA(address) => IpAddr::V6(address.0),
                // Of an update (RFC 2136 section 2.4), and malformed in an answer.
                RData::Update0(_) => continue,
                _ => {
                    kept.extend(svcb::strip(record));
                    continue;
                }
            };
            let is_host = self.addresses.is_gateway(address);
            let decided = match self.rebind_protection || is_host {
                true => policy.decide_answer(address, is_host, None),
                false => Ok(()),
            };
            if let Err(denial) = decided {
                denied = Some(name_denied(question, denial));
                continue;
            }
            if let Some(name) = &name {
                pins.push((
                    name.clone(),
                    address,
                    Duration::from_secs(record.ttl.into()),
                ));
            }
            kept.push(record);
        }
        let has_address = kept
            .iter()
            .any(|record| matches!(record.data, RData::A(_) | RData::AAAA(_)));
        if denied.is_some() && !has_address {
            return Answer {
                message: respond(question, ResponseCode::NXDomain, Vec::new(), None),
                pins: Vec::new(),
                denied,
            };
        }
        Answer {
            message: respond(question, upstream.code, kept, upstream.soa),
            pins,
            denied: None,
        }
    }

    /// The response to `question` when upstream could not be asked.
    pub(crate) fn failure(question: &Question) -> Answer {
        Answer {
            message: respond(question, ResponseCode::ServFail, Vec::new(), None),
            pins: Vec::new(),
            denied: None,
        }
    }

    /// The answer for a configured name, or for the host's own.
    fn local(&self, question: &Question) -> Option<Answer> {
        let name = host_name(&question.query)?;
        let addresses: Vec<IpAddr> = match self.hosts.get(&name) {
            Some(entries) => entries
                .iter()
                .flat_map(|entry| self.entry_addresses(*entry))
                .collect(),
            None if name.as_str() == HOST_ALIAS => match self.decide_host(&name) {
                Ok(()) => self.entry_addresses(HostEntry::HostGateway),
                Err(denial) => return Some(deny(question, denial)),
            },
            None => return None,
        };
        let mut records = Vec::new();
        let mut pins = Vec::new();
        for address in addresses {
            let data = match address {
                IpAddr::V4(address) => RData::A(address.into()),
                IpAddr::V6(address) => RData::AAAA(address.into()),
            };
            if data.record_type() == question.query.query_type() {
                records.push(Record::from_rdata(
                    question.query.name().clone(),
                    HOST_TTL_SECONDS,
                    data,
                ));
                pins.push((name.clone(), address, HOST_PIN));
            }
        }
        Some(Answer {
            message: respond(question, ResponseCode::NoError, records, None),
            pins,
            denied: None,
        })
    }

    fn entry_addresses(&self, entry: HostEntry) -> Vec<IpAddr> {
        match entry {
            HostEntry::Ip(address) => vec![address],
            HostEntry::HostGateway => vec![
                self.addresses.gateway_v4.into(),
                self.addresses.gateway_v6.into(),
            ],
        }
    }

    /// Whether the guest may reach the host at all (SPEC D8).
    fn decide_host(&self, alias: &HostName) -> Result<(), NameDenial> {
        let gateway = self.addresses.gateway_v4.into();
        self.policy.get().decide_answer(gateway, true, Some(alias))
    }
}

fn deny(question: &Question, denial: NameDenial) -> Answer {
    Answer {
        message: respond(question, ResponseCode::NXDomain, Vec::new(), None),
        pins: Vec::new(),
        denied: Some(name_denied(question, denial)),
    }
}

fn name_denied(question: &Question, denial: NameDenial) -> Event {
    Event::NameDenied {
        name: question.query.name().to_ascii(),
        reason: denial.to_string(),
        cause: denial.into_cause(),
    }
}

/// The queried name, if it can be a host's.
fn host_name(query: &Query) -> Option<HostName> {
    HostName::parse(&query.name().to_ascii()).ok()
}

fn respond(
    question: &Question,
    code: ResponseCode,
    answers: Vec<Record>,
    soa: Option<Record>,
) -> Vec<u8> {
    let mut response = Message::response(question.id, OpCode::Query);
    response.metadata.recursion_desired = question.recursion_desired;
    response.metadata.checking_disabled = question.checking_disabled;
    response.metadata.recursion_available = true;
    response.metadata.response_code = code;
    response.add_query(question.query.clone());
    response.add_answers(answers);
    response.add_authorities(soa);
    if question.has_edns {
        response.set_edns(edns());
    }
    let bytes = response.to_vec().unwrap_or_default();
    if !bytes.is_empty() && bytes.len() <= question.limit {
        return bytes;
    }
    response.truncate().to_vec().unwrap_or_default()
}

fn error(query: &Message, code: ResponseCode) -> Message {
    let mut response = Message::error_msg(query.metadata.id, query.metadata.op_code, code);
    response.metadata.recursion_desired = query.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    response.add_queries(query.queries.iter().take(1).cloned());
    if query.edns.is_some() {
        response.set_edns(edns());
    }
    response
}

fn edns() -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(u16::try_from(MAX_UDP_LEN).unwrap_or(u16::MAX));
    edns
}

/// FORMERR for a message of which only the start can be read, unless it is itself a response.
fn malformed(bytes: &[u8]) -> Plan {
    match bytes {
        [high, low, flags, ..] if bytes.len() >= 12 && flags & 0x80 == 0 => {
            let id = u16::from_be_bytes([*high, *low]);
            Plan::Reply(plain(Message::error_msg(
                id,
                OpCode::Query,
                ResponseCode::FormErr,
            )))
        }
        _ => Plan::Ignore,
    }
}

fn plain(message: Message) -> Answer {
    Answer {
        message: message.to_vec().unwrap_or_default(),
        pins: Vec::new(),
        denied: None,
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use hickory_proto::rr::Name;
    use proptest::prelude::*;

    use super::*;

    fn responder(policy: &str) -> Responder {
        let policy = Arc::new(msb_policy::NetworkPolicy::parse(policy).unwrap());
        let policy = PolicyCell::new(policy);
        Responder::new([], Addresses::default(), policy, Arc::default())
    }

    fn query(name: Name) -> Vec<u8> {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(name, RecordType::A));
        message.to_vec().unwrap()
    }

    fn ask(responder: &Responder, name: Name) -> Question {
        match responder.plan(&query(name), Transport::Udp) {
            Plan::Ask(question) => question,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn names_in_events_carry_no_control_characters() {
        let responder = responder("public");
        let labels: [&[u8]; 3] = [b"\x1b[31mred\r\n", b"example", b"org"];
        let name = Name::from_labels(labels).unwrap();
        let question = ask(&responder, name.clone());
        let address = RData::A(std::net::Ipv4Addr::new(10, 0, 0, 1).into());
        let answer = responder.answer(
            &question,
            Upstream {
                code: ResponseCode::NoError,
                answers: vec![Record::from_rdata(name, 60, address)],
                soa: None,
            },
        );
        let Some(Event::NameDenied { name, reason, .. }) = answer.denied else {
            panic!("{answer:?}");
        };
        assert!(
            !name.chars().chain(reason.chars()).any(char::is_control),
            "{name:?}"
        );
        assert!(answer.pins.is_empty());
    }

    /// Found by fuzzing: such a record is written as it was read, and then no client can read the answer.
    #[test]
    fn records_without_data_are_left_out() {
        let responder = responder("public");
        let name = Name::from_str("example.org.").unwrap();
        let question = ask(&responder, name.clone());
        let address = RData::A(std::net::Ipv4Addr::new(1, 1, 1, 1).into());
        let records = [RData::Update0(RecordType::A), address.clone()];
        let answer = responder.answer(
            &question,
            Upstream {
                code: ResponseCode::NoError,
                answers: records
                    .map(|data| Record::from_rdata(name.clone(), 60, data))
                    .into(),
                soa: None,
            },
        );
        let message = Message::from_vec(&answer.message).unwrap();
        let kept: Vec<_> = message.answers.iter().map(|record| &record.data).collect();
        assert_eq!(kept, [&address]);
    }

    #[test]
    fn a_response_is_not_answered() {
        let mut bytes = query(Name::from_str("example.org.").unwrap());
        bytes[2] |= 0x80;
        let plan = responder("public").plan(&bytes, Transport::Udp);
        assert!(matches!(plan, Plan::Ignore), "{plan:?}");
    }

    proptest! {
        #[test]
        fn no_message_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            responder("all").plan(&bytes, Transport::Udp);
        }

        #[test]
        fn a_damaged_query_is_answered_with_its_id_or_not_at_all(at in 0_usize..29, byte in any::<u8>()) {
            let responder = responder("all");
            let mut bytes = query(Name::from_str("example.org.").unwrap());
            bytes[at] = byte;
            if let Plan::Reply(answer) = responder.plan(&bytes, Transport::Tcp) {
                prop_assert_eq!(&answer.message[..2], &bytes[..2]);
            }
        }
    }
}
