//! Events as JSON lines: one object each, in ASCII, without a secret's value and without a query. Pure: the time is
//! passed in.

mod network;
mod tls;

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use msb_name::HostName;
use msb_policy::{Cause, Protocol};
use serde::Serialize;

use crate::exec::printable;
use crate::{Event, ProxyEvent};

/// One line's fields; those that do not apply are left out.
#[derive(Debug, Default, Serialize)]
struct Record {
    #[serde(rename = "type")]
    kind: &'static str,
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    form: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<&'static str>,
}

impl Event {
    /// The event as one line of JSON, without a line break: an object with `type`, `time` (RFC 3339, UTC, milliseconds)
    /// and, where they apply, `host`, `address`, `port`, `protocol`, `method`, `path` (without its query), `status`, `secret` (the name
    /// of its variable), `location`, `form`, `rule` (of the
    /// network policy, or `default`), `reason` and `action`.
    ///
    /// It is ASCII: all else is escaped, so that what a guest sent cannot drive the terminal it is shown on.
    #[must_use]
    pub fn to_json(&self, time: SystemTime) -> String {
        let mut record = match self {
            Self::Network(event) => network::record(event),
            Self::Tls(event) => tls::record(event),
            Self::Proxy(event) => proxy(event),
            Self::Warning(reason) => Record::new("warning").reason(reason),
            Self::Terminated { reason } => Record::new("terminated").reason(reason),
        };
        record.time = rfc3339(time);
        let mut json = Vec::new();
        let mut serializer = serde_json::Serializer::with_formatter(&mut json, Ascii);
        record
            .serialize(&mut serializer)
            .expect("texts and numbers can be written to memory");
        String::from_utf8(json).expect("JSON in ASCII")
    }
}

impl Record {
    fn new(kind: &'static str) -> Self {
        Self {
            kind,
            ..Self::default()
        }
    }

    fn host(mut self, host: impl Display) -> Self {
        self.host = Some(host.to_string());
        self
    }

    fn destination(mut self, destination: &SocketAddr) -> Self {
        self.address = Some(destination.ip().to_string());
        self.port = Some(destination.port());
        self
    }

    /// Where a flow goes; ICMP has no port.
    fn flow(mut self, protocol: Protocol, destination: &SocketAddr) -> Self {
        self = self.destination(destination);
        self.protocol = Some(protocol_name(protocol));
        if protocol == Protocol::Icmp {
            self.port = None;
        }
        self
    }

    /// Who comes to a published port, and to which of the guest's.
    fn client(self, protocol: Protocol, client: &SocketAddr, guest_port: u16) -> Self {
        self.flow(protocol, &SocketAddr::new(client.ip(), guest_port))
    }

    fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// The one name that stands for the address.
    fn names(self, names: &[HostName]) -> Self {
        match names {
            [name] => self.host(name),
            _ => self,
        }
    }

    fn status(mut self, status: impl Into<Option<u16>>) -> Self {
        self.status = status.into();
        self
    }

    /// What the network policy decided by.
    fn rule(mut self, cause: &Cause) -> Self {
        self.rule = Some(cause.to_string());
        self
    }

    fn reason(mut self, reason: impl Display) -> Self {
        self.reason = Some(printable(&reason.to_string()));
        self
    }

    fn place(mut self, secret: &str, location: impl Display, form: impl Display) -> Self {
        self.secret = Some(secret.to_owned());
        self.location = Some(location.to_string());
        self.form = Some(form.to_string());
        self
    }
}

fn proxy(event: &ProxyEvent) -> Record {
    match event {
        ProxyEvent::TunnelRefused {
            host,
            port,
            status,
            reason,
        } => {
            let record = Record::new("tunnel_refused").status(*status).reason(reason);
            Record {
                host: host.as_ref().map(ToString::to_string),
                port: *port,
                ..record
            }
        }
        ProxyEvent::Denied {
            host,
            port,
            cause,
            reason,
        } => Record {
            port: Some(*port),
            rule: cause.as_ref().map(ToString::to_string),
            ..Record::new("denied").host(host).reason(reason)
        },
        ProxyEvent::DialFailed { host, port, reason } => Record {
            port: Some(*port),
            ..Record::new("upstream_failed").host(host).reason(reason)
        },
        ProxyEvent::ConnectionLimit { max_connections } => Record::new("connection_limit")
            .reason(format_args!("{max_connections} connections are open")),
        ProxyEvent::SecretsReplaced { count } => {
            Record::new("secrets_replaced").reason(format_args!("{count} secrets"))
        }
        ProxyEvent::AcceptFailed { reason } => Record::new("accept_failed").reason(reason),
    }
}

fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Icmp => "icmp",
    }
}

/// Escapes what is not ASCII, and DEL: serde_json escapes the other control characters itself.
struct Ascii;

impl serde_json::ser::Formatter for Ascii {
    fn write_string_fragment<W>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()>
    where
        W: ?Sized + io::Write,
    {
        for char in fragment.chars() {
            if char.is_ascii() && char != '\x7f' {
                writer.write_all(&[char as u8])?;
                continue;
            }
            for unit in char.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
        }
        Ok(())
    }
}

/// RFC 3339 in UTC with milliseconds; times before 1970 are 1970.
fn rfc3339(time: SystemTime) -> String {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    let seconds = since.as_secs();
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let millis = since.subsec_millis();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// Year, month and day of a number of days since 1970. Howard Hinnant's `civil_from_days`, where years begin in March.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use msb_name::Host;
    use proptest::prelude::*;

    use msb_secrets::ViolationAction;
    use msb_tls_proxy::Event as Tls;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn host() -> Host {
        "a.test".parse().unwrap()
    }

    #[track_caller]
    fn check(event: impl Into<Event>, expected: &str) {
        let line = event.into().to_json(at(0));
        let expected = expected.replacen(',', ",\"time\":\"1970-01-01T00:00:00.000Z\",", 1);
        assert_eq!(line, expected);
    }

    impl From<Tls> for Event {
        fn from(event: Tls) -> Self {
            Self::Tls(event)
        }
    }

    impl From<ProxyEvent> for Event {
        fn from(event: ProxyEvent) -> Self {
            Self::Proxy(event)
        }
    }

    /// What a request to a stranger with a placeholder in a header is found to be.
    fn violation() -> msb_secrets::Violation {
        let secret = msb_secrets::SecretBuilder::new()
            .env("API_KEY")
            .value("sk-canary")
            .allow_host("a.test")
            .build()
            .unwrap();
        let secrets = msb_secrets::SecretSet::new(vec![secret]).unwrap();
        let name: HostName = "b.test".parse().unwrap();
        let connection = msb_policy::InterceptedConnection::new(
            name.clone(),
            msb_policy::Destination::DialledByName(name.clone()),
            msb_policy::UpstreamTrust::Verified(name.into()),
        );
        let mut request = secrets.request(&connection, &"b.test".parse().unwrap());
        request.header_value("x-a", b"$MSB_API_KEY").unwrap_err()
    }

    #[test]
    fn each_event_is_one_object_with_what_applies() {
        check(
            Tls::Request {
                host: host(),
                port: 443,
                method: "GET".into(),
                path: "/v1".into(),
                status: 200,
            },
            r#"{"type":"request","host":"a.test","port":443,"method":"GET","path":"/v1","status":200}"#,
        );
        check(
            Tls::Violation {
                host: host(),
                port: 443,
                method: Some("GET".into()),
                path: None,
                violation: violation(),
                action: ViolationAction::BlockAndLog,
            },
            r#"{"type":"violation","host":"a.test","port":443,"method":"GET","secret":"API_KEY","location":"header x-a","form":"raw","reason":"host b.test is not allowed for this secret","action":"block-and-log"}"#,
        );
        check(
            Tls::UpstreamFailed {
                host: host(),
                destination: "[2001:db8::1]:443".parse().unwrap(),
                reason: "why".into(),
            },
            r#"{"type":"upstream_failed","host":"a.test","address":"2001:db8::1","port":443,"reason":"why"}"#,
        );
        check(
            ProxyEvent::TunnelRefused {
                host: None,
                port: None,
                status: None,
                reason: "why".into(),
            },
            r#"{"type":"tunnel_refused","reason":"why"}"#,
        );
        check(
            ProxyEvent::Denied {
                host: host(),
                port: 443,
                cause: Some(Cause::Default(msb_policy::Action::Deny)),
                reason: "why".into(),
            },
            r#"{"type":"denied","host":"a.test","port":443,"rule":"default","reason":"why"}"#,
        );
        let destination = "192.0.2.1:123".parse().unwrap();
        check(
            Event::Network(msb_net::Event::Connected {
                protocol: Protocol::Udp,
                destination,
                names: Vec::new(),
                to_host: false,
                cause: None,
            }),
            r#"{"type":"connected","address":"192.0.2.1","port":123,"protocol":"udp"}"#,
        );
        check(
            Event::Network(msb_net::Event::Denied {
                protocol: Protocol::Icmp,
                destination: "192.0.2.1:0".parse().unwrap(),
                names: Vec::new(),
                cause: Cause::Default(msb_policy::Action::Deny),
                reason: "why".into(),
            }),
            r#"{"type":"denied","address":"192.0.2.1","protocol":"icmp","rule":"default","reason":"why"}"#,
        );
        check(
            Event::Network(msb_net::Event::DatagramRefused {
                destination,
                reason: "why",
            }),
            r#"{"type":"datagram_refused","address":"192.0.2.1","port":123,"protocol":"udp","reason":"why"}"#,
        );
        check(
            Event::Network(msb_net::Event::FlowLimit {
                protocol: Protocol::Udp,
                direction: msb_policy::Direction::Ingress,
                max_flows: 256,
            }),
            r#"{"type":"connection_limit","protocol":"udp","reason":"256 connections of clients are open"}"#,
        );
        check(
            Event::Network(msb_net::Event::Omitted { count: 7 }),
            r#"{"type":"omitted","reason":"7 refusals and failures were not told"}"#,
        );
        check(
            Event::Terminated {
                reason: "why".into(),
            },
            r#"{"type":"terminated","reason":"why"}"#,
        );
    }

    proptest! {
        /// Attack 27.
        #[test]
        fn no_text_of_a_guest_can_drive_a_terminal_or_break_a_line(path in "\\PC*|(.|[\\x00-\\xff\u{202e}\u{2028}\u{9b}])*") {
            let event = Event::Tls(Tls::Request { host: host(), port: 443, method: path.clone(), path: path.clone(), status: 200 });
            let line = event.to_json(at(0));
            prop_assert!(line.bytes().all(|byte| (b' '..0x7f).contains(&byte)), "{}", line);
            let read: serde_json::Value = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(read["path"].as_str(), Some(path.as_str()));
        }

        #[test]
        fn days_come_one_after_another(day in 0u64..1_000_000) {
            let (year, month, of_month) = civil(day);
            let is_leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
            let length = match month { 2 => 28 + u64::from(is_leap), 4 | 6 | 9 | 11 => 30, _ => 31 };
            let next = match (month, of_month == length) {
                (12, true) => (year + 1, 1, 1),
                (_, true) => (year, month + 1, 1),
                _ => (year, month, of_month + 1),
            };
            prop_assert_eq!(civil(day + 1), next);
        }
    }

    #[test]
    fn times_are_in_utc_with_milliseconds() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_868_799, "2000-02-29T23:59:59.000Z"),
            (1_795_305_600, "2026-11-22T00:00:00.000Z"),
        ] {
            assert_eq!(rfc3339(at(seconds)), expected);
        }
        let late = at(1) + Duration::from_micros(2999);
        assert_eq!(rfc3339(late), "1970-01-01T00:00:01.002Z");
        assert_eq!(
            rfc3339(at(0) - Duration::from_secs(1)),
            "1970-01-01T00:00:00.000Z"
        );
    }
}
