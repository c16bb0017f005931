//! What goes in comes out again, and nothing else does.

use proptest::prelude::*;

use super::*;

fn ca(name: &str) -> CaCertificate {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::default();
    parameters
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    CaCertificate::from_der(parameters.self_signed(&key).unwrap().der()).unwrap()
}

#[track_caller]
fn check(content: &[u8], cas: &[CaCertificate], expected_tail: &str) {
    let once = with_blocks(content, cas);
    assert!(once.starts_with(content));
    assert_eq!(
        String::from_utf8_lossy(&once[content.len()..]),
        expected_tail
    );
    assert_eq!(with_blocks(&once, cas), once, "again");
    assert_eq!(without_blocks(&once), content, "taken out");
}

#[test]
fn a_block_has_markers_with_the_fingerprint_and_the_line_ends_of_the_bundle() {
    let ca = ca("one");
    let fingerprint = ca.fingerprint();
    let block = format!("{BEGIN}{fingerprint}\n{}{END}{fingerprint}\n", ca.pem());
    let added = block.replacen('\n', &format!("{LINE_END_ADDED}\n"), 1);
    let cas = [ca];
    check(b"", &cas, &block);
    check(b"roots\n", &cas, &block);
    check(b"roots", &cas, &format!("\n{added}"));
    check(b"\xff\xfe not UTF-8 \xc3\n", &cas, &block);
    check(b"roots\r\n", &cas, &block.replace('\n', "\r\n"));
    check(
        b"roots\r\nroots",
        &cas,
        &format!("\r\n{}", added.replace('\n', "\r\n")),
    );
    check(b"roots\r", &cas, &format!("\n{added}"));
    check(b"roots\n", &[], "");
}

#[test]
fn a_former_block_is_replaced_wherever_it_is() {
    let (old, new) = (ca("old"), ca("new"));
    let of = |content: &[u8], ca: &CaCertificate| with_blocks(content, [ca]);
    assert_eq!(of(&of(b"roots\n", &old), &new), of(b"roots\n", &new));
    assert_eq!(of(&of(b"roots", &old), &new), of(b"roots", &new));

    let mut between = of(b"before\n", &old);
    between.extend_from_slice(b"after\n");
    assert_eq!(of(&between, &new), of(b"before\nafter\n", &new));

    // The line end that was added now parts two certificates.
    let mut between = of(b"before", &old);
    between.extend_from_slice(b"after\n");
    assert_eq!(of(&between, &new), of(b"before\nafter\n", &new));

    let cut = of(b"roots\n", &old).trim_ascii_end().to_vec();
    assert_eq!(of(&cut, &new), of(b"roots\n", &new));
}

#[test]
fn only_what_would_be_written_is_taken_out() {
    let ca = ca("one");
    let block = String::from_utf8(file(&ca)).unwrap();
    let other = self::ca("two").fingerprint();
    for kept in [
        block.replace(&ca.fingerprint(), &other),
        block.replace("-----END", "extra\n-----END"),
        block.replacen('\n', "\n# a comment of the user\n", 1),
        block.replacen('\n', &format!("\n{}", self::ca("two").pem()), 1),
        block.replacen("# msb", "text # msb", 1),
        block[..block.len() / 2].to_owned(),
        format!("{BEGIN}{}\n", ca.fingerprint()),
    ] {
        assert_eq!(
            String::from_utf8(without_blocks(kept.as_bytes())).unwrap(),
            kept
        );
    }
}

#[test]
fn a_cut_off_block_before_a_whole_one_does_not_swallow_what_is_between() {
    let ca = ca("one");
    let block = file(&ca);
    let mut content = block[..block.len() / 2].to_vec();
    content.extend_from_slice(b"\nroots of the image\n");
    let with = with_blocks(&content, [&ca]);
    assert!(with.starts_with(&content));
    assert_eq!(without_blocks(&with), content);
}

#[test]
fn an_authority_that_the_bundle_has_already_gets_no_block() {
    let (known, new) = (ca("known"), ca("new"));
    let content = format!("roots\n{}", known.pem());
    assert_eq!(
        with_blocks(content.as_bytes(), [&known]),
        content.as_bytes()
    );
    assert_eq!(
        with_blocks(content.as_bytes(), [&known, &new]),
        with_blocks(content.as_bytes(), [&new])
    );
    assert_eq!(with_blocks(b"", [&new, &new]), with_blocks(b"", [&new]));
}

#[test]
fn certificates_of_every_kind_are_seen() {
    for (text, expected) in [
        ("-----BEGIN CERTIFICATE-----", true),
        (
            "a -----BEGIN PRIVATE KEY----- b -----BEGIN CERTIFICATE-----",
            true,
        ),
        ("-----BEGIN TRUSTED CERTIFICATE-----", true),
        ("-----BEGIN CERTIFICATE REQUEST-----", false),
        ("-----BEGIN ", false),
        ("", false),
    ] {
        assert_eq!(has_certificates(text.as_bytes()), expected, "{text}");
    }
}

/// Bundles of bytes that are likely to be mistaken for something.
fn contents() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..20),
        prop::sample::select(vec![
            "\n",
            "\r\n",
            "\r",
            BEGIN,
            END,
            LINE_END_ADDED,
            "-----BEGIN CERTIFICATE-----\n"
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
        (0..FIXED.len(), any::<bool>(), 0..2000_usize).prop_map(|(index, whole, len)| {
            let block = file(&fixed(index));
            if whole {
                block
            } else {
                block[..len.min(block.len())].to_vec()
            }
        }),
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

const FIXED: [&str; 2] = ["one", "two"];

fn fixed(index: usize) -> CaCertificate {
    static CAS: std::sync::LazyLock<[CaCertificate; 2]> =
        std::sync::LazyLock::new(|| FIXED.map(ca));
    CAS[index].clone()
}

proptest! {
    #[test]
    fn twice_is_once(content in contents(), wanted in prop::collection::vec(0..FIXED.len(), 0..3)) {
        let cas: Vec<_> = wanted.into_iter().map(fixed).collect();
        let once = with_blocks(&content, &cas);
        prop_assert_eq!(with_blocks(&once, &cas), once);
    }

    #[test]
    fn taking_out_gives_the_original(content in contents(), wanted in prop::collection::vec(0..FIXED.len(), 0..3)) {
        let bare = without_blocks(&content);
        let cas: Vec<_> = wanted.into_iter().map(fixed).collect();
        prop_assert_eq!(without_blocks(&with_blocks(&bare, &cas)), bare);
    }

    #[test]
    fn blocks_of_a_former_boot_leave_no_trace(content in contents()) {
        let (old, new) = (fixed(0), fixed(1));
        let bare = without_blocks(&content);
        prop_assert_eq!(with_blocks(&with_blocks(&bare, [&old]), [&new]), with_blocks(&bare, [&new]));
    }
}
