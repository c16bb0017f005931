//! Every cut of a stream of frames gives the same messages.

use msb_name::{Authority, HostName};
use msb_policy::InterceptedConnection;
use msb_secrets::{SecretBuilder, SecretSet};

use super::*;

const KEY: [u8; 4] = [1, 2, 3, 255];

fn secrets() -> SecretSet {
    let secret = SecretBuilder::new()
        .env("KEY")
        .value("va\"lue")
        .allow_host("a.test")
        .inject_body(true);
    SecretSet::new(vec![secret.build().unwrap()]).unwrap()
}

fn guest(host: &str) -> Messages<Guest> {
    let connection = InterceptedConnection::dialled(HostName::parse(host).unwrap());
    let request = secrets().request(&connection, &Authority::parse(host).unwrap());
    Messages::new(Guest(request))
}

fn server() -> Messages<Server> {
    Messages::new(Server(secrets().response()))
}

/// A frame; `mask` is what its sender uses.
fn frame(first: u8, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let bit = if mask.is_some() { 0x80 } else { 0 };
    let mut wire = vec![first];
    match payload.len() {
        len @ 0..126 => wire.push(bit | u8::try_from(len).unwrap()),
        len @ 126..0x1_0000 => {
            wire.push(bit | 126);
            wire.extend_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
        }
        len => {
            wire.push(bit | 127);
            wire.extend_from_slice(&u64::try_from(len).unwrap().to_be_bytes());
        }
    }
    let key = mask.unwrap_or_default();
    wire.extend(mask.into_iter().flatten());
    wire.extend(
        payload
            .iter()
            .zip(key.iter().cycle())
            .map(|(byte, key)| byte ^ key),
    );
    wire
}

/// An obvious reader: the frames of `wire` as (first byte, payload).
fn frames(mut wire: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut found = Vec::new();
    while let [first, second, rest @ ..] = wire {
        let (len, rest) = match second & 0x7f {
            126 => (
                usize::from(u16::from_be_bytes(*rest.first_chunk().unwrap())),
                &rest[2..],
            ),
            127 => {
                let len = u64::from_be_bytes(*rest.first_chunk().unwrap());
                (usize::try_from(len).unwrap(), &rest[8..])
            }
            len => (usize::from(len), rest),
        };
        let (key, rest) = match second & 0x80 {
            0 => ([0; 4], rest),
            _ => (*rest.first_chunk().unwrap(), &rest[4..]),
        };
        let payload = rest[..len]
            .iter()
            .zip(key.iter().cycle())
            .map(|(byte, key)| byte ^ key);
        found.push((*first, payload.collect()));
        wire = &rest[len..];
    }
    found
}

/// Whole messages and control frames, in order: opcode and content.
fn messages(wire: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let (mut found, mut open) = (Vec::new(), None::<(u8, Vec<u8>)>);
    for (first, payload) in frames(wire) {
        let opcode = first & 0x0f;
        if opcode >= 8 {
            found.push((opcode, payload));
            continue;
        }
        let message = open.get_or_insert((opcode, Vec::new()));
        message.1.extend_from_slice(&payload);
        if first & 0x80 != 0 {
            found.extend(open.take());
        }
    }
    assert!(open.is_none());
    found
}

#[track_caller]
fn check<S: Sender>(make: impl Fn() -> Messages<S>, sent: &[(u8, &str)], expected: &[(u8, &str)]) {
    let mask = S::MASKS.then_some(KEY);
    let wire: Vec<u8> = sent
        .iter()
        .flat_map(|(first, payload)| frame(*first, payload.as_bytes(), mask))
        .collect();
    for cut in 1..=wire.len() {
        let (mut carrier, mut out) = (make(), Vec::new());
        for piece in wire.chunks(cut) {
            carrier.push(piece, &mut out).unwrap();
        }
        assert!(carrier.is_between_frames());
        let expected: Vec<_> = expected
            .iter()
            .map(|(opcode, text)| (*opcode, text.as_bytes().to_vec()))
            .collect();
        assert_eq!(messages(&out), expected, "{sent:?} in pieces of {cut}");
    }
}

#[test]
fn values_are_written_into_messages() {
    let host = || guest("a.test");
    check(host, &[(0x81, "a $MSB_KEY b")], &[(1, "a va\"lue b")]);
    check(
        host,
        &[(0x81, " {\"k\":\"$MSB_KEY\"}")],
        &[(1, " {\"k\":\"va\\\"lue\"}")],
    );
    check(host, &[(0x82, "{$MSB_KEY")], &[(2, "{va\"lue")]);
    check(host, &[(0x81, ""), (0x82, "")], &[(1, ""), (2, "")]);
    // Cut by frames, with a control frame in between.
    check(
        host,
        &[(0x01, "$MSB"), (0x89, "ping"), (0x00, "_K"), (0x80, "EY!")],
        &[(9, "ping"), (1, "va\"lue!")],
    );
    check(host, &[(0x01, "$MSB_KEY"), (0x80, "")], &[(1, "va\"lue")]);
    check(
        host,
        &[(0x81, "$MSB_KEYS"), (0x88, "\u{3}\u{fc}$MSB_KEY")],
        &[(1, "$MSB_KEYS"), (8, "\u{3}\u{fc}$MSB_KEY")],
    );
}

#[test]
fn values_are_taken_out_of_messages() {
    check(server, &[(0x81, "a va\"lue b")], &[(1, "a $MSB_KEY b")]);
    check(server, &[(0x82, "a va\"lue b")], &[(2, "a ****** b")]);
    check(server, &[(0x8a, "va\"lue")], &[(10, "******")]);
    check(server, &[(0x01, "va\"l"), (0x80, "ue")], &[(1, "$MSB_KEY")]);
}

#[test]
fn a_message_that_ends_like_a_beginning_does_not_wait() {
    for end in ["$", "$MSB_KE", "%24MSB", "JE1TQl9"] {
        let (mut carrier, mut out) = (guest("a.test"), Vec::new());
        carrier
            .push(&frame(0x81, end.as_bytes(), Some(KEY)), &mut out)
            .unwrap();
        assert_eq!(messages(&out), [(1, end.as_bytes().to_vec())]);
    }
}

#[test]
fn long_messages_are_sent_in_parts_and_memory_stays_bounded() {
    let text = format!("{}$MSB_KEY.", "x".repeat(3 * PART));
    let (mut carrier, mut out, mut most) = (guest("a.test"), Vec::new(), 0);
    let wire = frame(0x82, text.as_bytes(), Some(KEY));
    let mut all = Vec::new();
    for piece in wire.chunks(1000) {
        carrier.push(piece, &mut out).unwrap();
        all.append(&mut out);
        most = most.max(carrier.payload.len() + carrier.input.len());
    }
    assert!(most <= PART + 1000, "{most}");
    assert_eq!(
        messages(&all),
        [(2, text.replace("$MSB_KEY", "va\"lue").into_bytes())]
    );
}

#[test]
fn a_placeholder_for_another_host_is_found_before_it_is_whole() {
    let other = || guest("b.test");
    for sent in [
        &[(0x81, "a $MSB_KEY b")][..],
        &[(0x01, "a $MSB"), (0x00, "_"), (0x80, "KEY")],
        &[(0x82, "JE1TQl9LRVk=")],
        &[(0x89, "$MSB_KEY")],
        &[(0x88, "\u{3}\u{1}$MSB_KEY")],
    ] {
        let (mut carrier, mut out) = (other(), Vec::new());
        let mut pushed = Ok(());
        for (first, payload) in sent {
            pushed = pushed.and_then(|()| {
                carrier.push(&frame(*first, payload.as_bytes(), Some(KEY)), &mut out)
            });
        }
        assert!(matches!(pushed, Err(Fault::Violation(_))), "{sent:?}");
        let parts: Vec<u8> = frames(&out)
            .into_iter()
            .flat_map(|(_, payload)| payload)
            .collect();
        assert!(!String::from_utf8_lossy(&parts).contains("KEY"));
    }
}

#[test]
fn what_the_protocol_forbids_is_refused() {
    let text = |first: u8| frame(first, b"a", Some(KEY));
    for (what, wire) in [
        ("a reserved bit", text(0xc1)),
        ("not masked", frame(0x81, b"a", None)),
        ("no message to continue", text(0x80)),
        (
            "a message within a message",
            [text(0x01), text(0x81)].concat(),
        ),
        ("an unknown kind", text(0x83)),
        ("an unknown control frame", text(0x8b)),
        ("a control frame cut", text(0x09)),
        (
            "a control frame too long",
            frame(0x89, &[0; 126], Some(KEY)),
        ),
        (
            "a length beyond all",
            [&[0x82, 0xff][..], &[0xff; 12]].concat(),
        ),
    ] {
        let pushed = guest("a.test").push(&wire, &mut Vec::new());
        assert!(matches!(pushed, Err(Fault::Protocol(_))), "{what}");
    }
    let masked = server().push(&text(0x81), &mut Vec::new());
    assert!(matches!(masked, Err(Fault::Protocol(_))));
}
