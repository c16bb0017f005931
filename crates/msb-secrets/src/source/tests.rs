//! Each source: what it gives, and what is said where it gives nothing.

use std::io::Write;

use super::*;

const TIMEOUT: Duration = Duration::from_secs(20);

fn shell(script: &str) -> Source {
    shell_within(script, TIMEOUT)
}

fn shell_within(script: &str, timeout: Duration) -> Source {
    Source::Command {
        program: "sh".into(),
        arguments: vec!["-c".into(), script.into()],
        timeout,
    }
}

fn file(content: &[u8]) -> (tempfile::NamedTempFile, Source) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(content).unwrap();
    let source = Source::File(file.path().to_owned());
    (file, source)
}

fn pipe(content: &[u8]) -> Source {
    let (reader, mut writer) = io::pipe().unwrap();
    writer.write_all(content).unwrap();
    Source::Fd(reader.into())
}

#[track_caller]
fn check(source: Source, expected: &str) {
    match source.read() {
        Ok(value) => assert_eq!(&*value.0, expected),
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains(expected), "{text}");
            assert!(
                !text.contains("canary") && !format!("{error:?}").contains("canary"),
                "{error:?}"
            );
        }
    }
}

#[test]
fn each_source_gives_its_value_without_the_line_break() {
    for (content, expected) in [
        ("v", "v"),
        ("v\n", "v"),
        ("v\r\n", "v"),
        ("v\n\n", "v\n"),
        (" v ", " v "),
    ] {
        let (_file, source) = file(content.as_bytes());
        check(source, expected);
        check(pipe(content.as_bytes()), expected);
        check(
            shell(&format!("printf '{}'", content.escape_default())),
            expected,
        );
    }
    let home = std::env::var("CARGO_PKG_NAME").unwrap();
    check(Source::Env("CARGO_PKG_NAME".into()), &home);
}

#[test]
fn sources_without_a_value_say_which_and_why() {
    check(
        Source::Env("MSB_NOT_SET".into()),
        "\"MSB_NOT_SET\" is not set",
    );
    check(
        Source::File("/no/such/file".into()),
        "\"/no/such/file\" cannot be read",
    );
    check(pipe(b"canary\xff"), "the descriptor is not text");
    check(pipe(b"\n"), "the descriptor is empty");
    check(
        shell("printf canary; exit 3"),
        "\"sh\" failed: exit status: 3",
    );
    check(
        Source::Command {
            program: "no-such-program".into(),
            arguments: vec!["canary".into()],
            timeout: TIMEOUT,
        },
        "\"no-such-program\" cannot be read",
    );
    let (_file, source) = file(&vec![b'x'; MAX_SOURCE_LEN + 1]);
    check(source, "longer than 65536");
    let (_file, source) = file(&vec![b'x'; MAX_SOURCE_LEN]);
    assert_eq!(source.read().unwrap().0.len(), MAX_SOURCE_LEN);
}

#[test]
fn commands_are_bounded_in_size_and_time() {
    check(
        shell("while :; do printf canary; done"),
        "longer than 65536",
    );
    check(
        shell_within("exec tail -f /dev/null", Duration::from_millis(50)),
        "did not end within 50ms",
    );
    check(
        shell_within(
            "exec tail -f /dev/null > /dev/null",
            Duration::from_millis(50),
        ),
        "did not end within 50ms",
    );
}

#[test]
fn a_value_goes_into_a_secret() {
    let builder = crate::SecretBuilder::new().env("A").allow_host("a.test");
    let value = pipe(b"canary-value\n").read().unwrap();
    assert!(!format!("{value:?}").contains("canary"));
    let set = crate::SecretSet::new(vec![builder.source_value(value).build().unwrap()]).unwrap();
    let scrubbed = set.response().header_value("x", b"canary-value");
    assert_eq!(scrubbed.as_deref(), Some(&b"$MSB_A"[..]));
}
