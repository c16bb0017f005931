//! The text form of rules. Errors mark the place.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use msb_name::HostPattern;

use super::model::{Action, Directions, Protocols, Rule, Target};
use crate::flow::subject;
use crate::ports::PortSet;
use crate::{Error, Group, Mark, Ports, Protocol};

/// The form, for the error about a text that has nothing of it.
const FORM: &str = "expected allow|deny[:egress|ingress|any]@TARGET[:PROTOCOLS[:PORTS]], as in allow@api.example.com:tcp:443";
const TARGET: &str = "expected any, an address, a block, a host with a dot in its name, *.domain, or a group: public, private, \
                      reserved, loopback, link-local, metadata, multicast, host";

/// Where in a text something is wrong, and what was expected there.
type Wrong = (Range<usize>, String);

impl FromStr for Rule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse(text).map_err(|(at, expected)| Error::Rule(Mark::new(text, at, expected)))
    }
}

impl FromStr for Action {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        action(text, 0).map_err(|(at, expected)| Error::Action(Mark::new(text, at, expected)))
    }
}

fn wrong<T>(part: &str, at: usize, expected: impl Into<String>) -> Result<T, Wrong> {
    Err((at..at + part.len(), expected.into()))
}

fn parse(text: &str) -> Result<Rule, Wrong> {
    let Some((head, rest)) = text.split_once('@') else {
        return wrong(text, 0, FORM);
    };
    let (action_text, directions) = match head.split_once(':') {
        Some((action, direction)) => (action, Some((direction, action.len() + 1))),
        None => (head, None),
    };
    let action = action(action_text, 0)?;
    let directions = match directions {
        Some((text, at)) => direction(text, at)?,
        None => Directions::default(),
    };
    let mut at = head.len() + 1;
    // The colons of an IPv6 address are inside of brackets.
    let inside = match rest.strip_prefix('[') {
        Some(_) => rest.find(']').unwrap_or(rest.len()),
        None => 0,
    };
    let colon = rest[inside..].find(':');
    let target_end = colon.map_or(rest.len(), |colon| inside + colon);
    let target_text = &rest[..target_end];
    let target = target(target_text, at, &rest[target_end..])?;
    if matches!(target, Target::Domain(_)) && directions != Directions::Egress {
        let expected = "expected an address, a block or a group: who comes in is not known by name";
        return wrong(target_text, at, expected);
    }
    at += target_end;
    let mut rule = Rule::new(action, target).directions(directions);
    let Some(rest) = rest[target_end..].strip_prefix(':') else {
        return Ok(rule);
    };
    at += 1;
    let (protocols_text, ports_text) = match rest.split_once(':') {
        Some((protocols, ports)) => (protocols, Some(ports)),
        None => (rest, None),
    };
    rule.protocols = protocols(protocols_text, at)?;
    at += protocols_text.len() + 1;
    if let Some(text) = ports_text {
        if protocols_text != "any" && rule.protocols.contains(Protocol::Icmp) {
            return wrong(text, at, "expected no ports: icmp has none");
        }
        rule.ports = ports(text, at)?;
    }
    Ok(rule)
}

fn action(text: &str, at: usize) -> Result<Action, Wrong> {
    match text {
        "allow" => Ok(Action::Allow),
        "deny" => Ok(Action::Deny),
        _ => wrong(text, at, "expected allow or deny"),
    }
}

fn direction(text: &str, at: usize) -> Result<Directions, Wrong> {
    match text {
        "egress" => Ok(Directions::Egress),
        "ingress" => Ok(Directions::Ingress),
        "any" => Ok(Directions::Any),
        _ => wrong(text, at, "expected egress, ingress or any"),
    }
}

fn target(text: &str, at: usize, behind: &str) -> Result<Target, Wrong> {
    if text == "any" {
        return Ok(Target::Any);
    }
    if let Some(group) = Group::ALL.into_iter().find(|g| g.to_string() == text) {
        return Ok(Target::Group(group));
    }
    if let Some(inside) = text.strip_prefix('[') {
        return v6(text, inside, at);
    }
    if (text.to_owned() + behind)
        .parse::<std::net::Ipv6Addr>()
        .is_ok()
        || behind.contains("::")
    {
        let whole = text.len() + behind.len();
        return Err((
            at..at + whole,
            "expected brackets around an IPv6 address, as in [2001:db8::/32]".into(),
        ));
    }
    let (address, length) = split_length(text);
    if let Ok(address) = address.parse::<Ipv4Addr>() {
        let length = prefix(length, at + text.len(), 32)?;
        return block(text, at, Ipv4Net::new(address, length).map(IpNet::V4));
    }
    let digits = |c: char| c.is_ascii_digit() || c == '.';
    if length.is_some() || (!text.is_empty() && text.chars().all(digits)) {
        return wrong(
            address,
            at,
            "expected an IPv4 address, or an IPv6 address in brackets",
        );
    }
    domain(text, at)
}

fn domain(text: &str, at: usize) -> Result<Target, Wrong> {
    if !text.contains('.') {
        return wrong(
            text,
            at,
            format!("{TARGET}; a name of one label takes a dot at its end"),
        );
    }
    match HostPattern::parse(text) {
        Ok(pattern) => Ok(Target::Domain(pattern)),
        Err(error) => wrong(text, at, error.expected()),
    }
}

/// `[ADDRESS]`, `[ADDRESS/LENGTH]` or `[ADDRESS]/LENGTH`.
fn v6(text: &str, inside: &str, at: usize) -> Result<Target, Wrong> {
    let Some((inside, behind)) = inside.split_once(']') else {
        return wrong(text, at, "expected `]` after the IPv6 address");
    };
    let (address_text, inner) = split_length(inside);
    let (middle, outer) = split_length(behind);
    let end = at + text.len();
    if !middle.is_empty() || (inner.is_some() && outer.is_some()) {
        return wrong(behind, end - behind.len(), "expected `:`, `/` or the end");
    }
    let Ok(address) = address_text.parse::<std::net::Ipv6Addr>() else {
        return wrong(address_text, at + 1, "expected an IPv6 address");
    };
    let length = match inner {
        Some(_) => prefix(inner, at + 1 + inside.len(), 128)?,
        None => prefix(outer, end, 128)?,
    };
    let net = Ipv6Net::new(address, length).map(IpNet::V6);
    let is_carrier = |address: IpAddr| subject(address).is_ipv4();
    if let Ok(net) = &net
        && is_carrier(net.addr())
    {
        // All rules look at the IPv4 address inside, so one for the outer address would match nothing.
        if length < 96 {
            return wrong(
                text,
                at,
                "expected a block that does not begin in one of IPv4 addresses",
            );
        }
        let inner = subject(net.addr());
        return block(text, at, IpNet::new(inner, length - 96));
    }
    block(text, at, net)
}

fn block(
    text: &str,
    at: usize,
    net: Result<IpNet, ipnet::PrefixLenError>,
) -> Result<Target, Wrong> {
    match net {
        Ok(net) if net.addr() != net.network() => wrong(
            text,
            at,
            format!(
                "expected {}: bits behind the prefix are set",
                Target::from(net)
            ),
        ),
        Ok(net) => Ok(Target::Addresses(net)),
        Err(_) => wrong(text, at, "expected a shorter prefix"),
    }
}

fn split_length(text: &str) -> (&str, Option<&str>) {
    match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    }
}

/// The prefix length that ends at `end`; `longest` if there is none.
fn prefix(text: Option<&str>, end: usize, longest: u8) -> Result<u8, Wrong> {
    let Some(text) = text else {
        return Ok(longest);
    };
    match number(text) {
        Some(length) if length <= u16::from(longest) => Ok(u8::try_from(length).unwrap_or(longest)),
        _ => wrong(
            text,
            end - text.len(),
            format!("expected a prefix length from 0 to {longest}"),
        ),
    }
}

fn protocols(text: &str, at: usize) -> Result<Protocols, Wrong> {
    if text == "any" {
        return Ok(Protocols::ALL);
    }
    let mut protocols: Option<Protocols> = None;
    for (word, at) in words(text, at) {
        let Some(protocol) = Protocol::ALL.into_iter().find(|p| p.to_string() == word) else {
            return wrong(word, at, "expected any, or some of tcp, udp and icmp");
        };
        protocols = Some(match protocols {
            Some(protocols) => protocols.and(protocol),
            None => protocol.into(),
        });
    }
    Ok(protocols.unwrap_or_default())
}

fn ports(text: &str, at: usize) -> Result<Ports, Wrong> {
    const EXPECTED: &str = "expected a port from 1 to 65535, or a range such as 8000-8999";
    let mut ranges = Vec::new();
    for (word, at) in words(text, at) {
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        match (number(first), number(last)) {
            (Some(first @ 1..), Some(last)) if first <= last => ranges.push((first, last)),
            (Some(1..), Some(1..)) => return wrong(word, at, "expected the lower port first"),
            _ => return wrong(word, at, EXPECTED),
        }
    }
    Ok(Ports::of(ranges.into_iter().collect::<PortSet>()))
}

/// The words between commas and where they begin.
fn words(text: &str, at: usize) -> impl Iterator<Item = (&str, usize)> {
    text.split(',').scan(at, |next, word| {
        let at = *next;
        *next += word.len() + 1;
        Some((word, at))
    })
}

/// A number in decimal digits, without sign and leading zeros.
fn number(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}
