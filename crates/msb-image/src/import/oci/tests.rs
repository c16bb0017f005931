//! Which part of an index counts.

use super::*;

const MANIFEST: &str = OCI_MANIFEST;

/// An entry whose digest is `digest`, for `platform` as `OS/ARCHITECTURE[/VARIANT]`, or for nobody says what.
fn entry(digest: &str, platform: &str) -> String {
    let parts: Vec<_> = platform.split('/').collect();
    let platform = match parts[..] {
        [os, architecture] => {
            format!(r#","platform":{{"os":"{os}","architecture":"{architecture}"}}"#)
        }
        [os, architecture, variant] => format!(
            r#","platform":{{"os":"{os}","architecture":"{architecture}","variant":"{variant}"}}"#
        ),
        _ => String::new(),
    };
    let name = format!(r#""annotations":{{"{REF_NAME}":"{digest}"}}"#);
    format!(r#"{{"mediaType":"{MANIFEST}","digest":"{digest}","size":1,{name}{platform}}}"#)
}

fn index(entries: &[(&str, &str)]) -> String {
    let entries: Vec<_> = entries
        .iter()
        .map(|(digest, platform)| entry(digest, platform))
        .collect();
    format!(
        r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
        entries.join(",")
    )
}

#[test]
fn the_first_entry_of_the_platform_that_fits_best_counts() {
    #[track_caller]
    fn check(entries: &[(&str, &str)], expected: &str) {
        let chosen = choose(index(entries).as_bytes(), Wanted::Platform);
        let chosen = match chosen {
            Ok(Chosen::Manifest(descriptor)) => descriptor.digest,
            Ok(Chosen::Index(_)) => "index".into(),
            Err(error) => error.to_string(),
        };
        assert!(chosen.starts_with(expected), "{chosen}");
    }
    check(&[("arm", "linux/arm64"), ("amd", "linux/amd64")], "amd");
    check(
        &[
            ("v3", "linux/amd64/v3"),
            ("v2", "linux/amd64/v2"),
            ("v1", "linux/amd64"),
        ],
        "v1",
    );
    check(&[("v2", "linux/amd64/v2"), ("v1", "linux/amd64/v1")], "v1");
    check(&[("v3", "linux/amd64/v3"), ("arm", "linux/arm64/v8")], "v3");
    check(&[("one", "linux/amd64"), ("two", "linux/amd64")], "one");
    check(&[("unsaid", ""), ("said", "linux/amd64")], "said");
    check(&[("unsaid", ""), ("arm", "linux/arm64")], "unsaid");
    check(
        &[("amd", "linux/amd64"), ("attestation", "unknown/unknown")],
        "amd",
    );
    check(
        &[("arm", "linux/arm64/v8"), ("win", "windows/amd64")],
        "it is for linux/arm64/v8, windows/amd64",
    );
    check(&[], "it is for no known platform");
}

#[test]
fn an_image_of_several_is_asked_for_by_name() {
    let several = index(&[("one", "linux/amd64"), ("two", "linux/amd64")]);
    let choose = |reference| choose(several.as_bytes(), Wanted::Image(reference));
    let error = choose(None).unwrap_err().to_string();
    assert!(error.contains("--ref: one, two"), "{error}");
    let error = choose(Some("three")).unwrap_err().to_string();
    assert!(
        error.contains("no image \"three\"; there are: one, two"),
        "{error}"
    );
    match choose(Some("two")) {
        Ok(Chosen::Manifest(descriptor)) => assert_eq!(descriptor.digest, "two"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_document_is_a_manifest_or_an_index_and_not_both() {
    let config = r#""config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:0","size":1}"#;
    for both in [
        format!(r#"{{"manifests":[],"layers":[],{config}}}"#),
        r#"{"manifests":[],"layers":[]}"#.to_owned(),
        format!(r#"{{"manifests":[],{config}}}"#),
    ] {
        let error = choose(both.as_bytes(), Wanted::Platform).unwrap_err();
        assert!(error.to_string().contains("at the same time"), "{error}");
    }
    let both = format!(r#"{{"layers":[],"manifests":null,{config}}}"#);
    Manifest::parse(both.as_bytes()).unwrap();
    let both = format!(r#"{{"layers":[],"manifests":[],{config}}}"#);
    let error = Manifest::parse(both.as_bytes()).unwrap_err();
    assert!(error.to_string().contains("at the same time"), "{error}");
}

#[test]
fn texts_of_a_document_are_shown_short_and_safe() {
    let evil = "\\u001b[2J\\n".repeat(1000);
    let long = "sha256:".to_owned() + &"x".repeat(1 << 20);
    for text in [
        index(&[("one", &format!("linux/{evil}"))]),
        index(&[(&long, "linux/amd64"), (&evil, "linux/amd64")]),
        index(&vec![("x", "linux/arm64"); 1000]),
        format!(r#"{{"manifests":"{evil}"}}"#),
    ] {
        let error = choose(text.as_bytes(), Wanted::Image(None))
            .unwrap_err()
            .to_string();
        assert!(
            error.len() < 9000 && !error.contains(['\x1b', '\n']),
            "{} {error}",
            error.len()
        );
    }
    let config = format!(r#"{{"mediaType":"{evil}","digest":"{long}","size":1}}"#);
    let error = Manifest::parse(format!(r#"{{"config":{config},"layers":[]}}"#).as_bytes());
    let error = error.unwrap_err().to_string();
    assert!(
        error.len() < 2000 && !error.contains(['\x1b', '\n']),
        "{error}"
    );
}
