//! What a registry does wrong is told by what and where, tried again where that helps, and waited for no longer than that.

use super::*;

#[tokio::test]
async fn what_a_registry_does_wrong_is_told_by_what_and_where() {
    struct Case {
        path: &'static str,
        wrong: Wrong,
        says: &'static [&'static str],
        tries: usize,
    }
    fn answer(status: u16, fields: &[(&'static str, &str)]) -> Wrong {
        let body = r#"{"errors":[{"code":"C","message":"in its\u001b[2J own words"}]}"#;
        let fields = fields
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()));
        Wrong::Answer(status, fields.collect(), body.into())
    }
    let case = |path, wrong, says, tries| Case {
        path,
        wrong,
        says,
        tries,
    };
    // `layer` stands for the second one's blob.
    let cases = [
        case(
            "manifests/1",
            answer(401, &[]),
            &["(401)", "docker login", "app"] as &[_],
            1,
        ),
        case(
            "manifests/1",
            answer(403, &[]),
            &["(403)", "does not allow", "ask its owner"],
            1,
        ),
        case(
            "manifests/1",
            answer(404, &[]),
            &["no manifest", "(404)", "name and tag", "own words"],
            1,
        ),
        case(
            "manifests/1",
            answer(429, &[]),
            &["manifest", "(429)", "limits how often"],
            4,
        ),
        case(
            "manifests/1",
            answer(429, &[("retry-after", "0")]),
            &["(429)"],
            4,
        ),
        case(
            "manifests/1",
            answer(429, &[("retry-after", "3600")]),
            &["(429)", "in 3600 s"],
            1,
        ),
        case(
            "manifests/1",
            answer(500, &[]),
            &["manifest", "(500)", "later"],
            4,
        ),
        case(
            "manifests/1",
            answer(418, &[]),
            &["418", "is it a registry?"],
            1,
        ),
        case(
            "layer",
            answer(404, &[]),
            &["layer 2 of 3 (sha256:", "(404)"],
            1,
        ),
        case("layer", answer(429, &[]), &["layer 2 of 3", "(429)"], 4),
        case(
            "layer",
            answer(503, &[("retry-after", "1000")]),
            &["layer 2 of 3", "(503)"],
            1,
        ),
        case("layer", answer(502, &[]), &["layer 2 of 3", "(502)"], 4),
        case(
            "layer",
            Wrong::CutAfter(0),
            &["cannot be reached", "layer 2 of 3"],
            4,
        ),
        case(
            "layer",
            Wrong::CutAfter(30_000),
            &["layer 2 of 3", "after 120000 of 316344", "go on from there"],
            4,
        ),
        case(
            "layer",
            Wrong::Changed(|mut bytes| {
                bytes[1000] ^= 1;
                bytes
            }),
            &["layer 2 of 3", "has the digest", "nothing of it is kept"],
            1,
        ),
        case(
            "layer",
            Wrong::Changed(|mut bytes| {
                bytes.pop();
                bytes
            }),
            &["layer 2 of 3", "bytes instead of 316344"],
            1,
        ),
        case(
            "layer",
            Wrong::Changed(|mut bytes| {
                bytes.extend([0; 100_000]);
                bytes
            }),
            &["layer 2 of 3", "bytes instead of 316344"],
            1,
        ),
        case(
            "manifests/1",
            answer(302, &[("location", "http://example.com/")]),
            &["leads to example.com", "not https"],
            1,
        ),
        case(
            "manifests/1",
            answer(302, &[("location", "https://u:p@example.com/")]),
            &["leads to example.com", "password"],
            1,
        ),
        case(
            "manifests/1",
            answer(302, &[("location", "ftp://example.com/")]),
            &["not https"],
            1,
        ),
        case(
            "manifests/1",
            answer(307, &[("location", "/v2/app/manifests/1")]),
            &["on and on"],
            6,
        ),
        case("manifests/1", answer(302, &[]), &["302"], 1),
        case(
            "manifests/1",
            Wrong::Answer(
                200,
                vec![("content-type", "text/html; charset=utf-8".into())],
                "<html>Log in</html>".into(),
            ),
            &["web page", "is it a registry", "login"],
            1,
        ),
        case(
            "config",
            answer(404, &[]),
            &["no configuration", "push the image again"],
            1,
        ),
        case(
            "config",
            answer(503, &[]),
            &["configuration", "(503)", "later"],
            4,
        ),
        case(
            "manifests/1",
            Wrong::Changed(|_| format!(r#"{{"schemaVersion":"{}"}}"#, "x".repeat(1 << 20)).into()),
            &["manifest does not parse", "..."],
            1,
        ),
        case(
            "manifests/1",
            Wrong::Changed(|_| br#"{"schemaVersion":2,"schemaVersion":1}"#.to_vec()),
            &["manifest does not parse", "duplicate field"],
            1,
        ),
        case(
            "manifests/1",
            Wrong::Changed(|bytes| {
                let text = String::from_utf8(bytes).expect("JSON");
                text.replacen('{', r#"{"layers":[],"#, 1).into()
            }),
            &["a manifest and an index at the same time"],
            1,
        ),
        case(
            "manifests/1",
            Wrong::Changed(|_| {
                let platform = r#""platform":{"os":"li\u001b[2Jnux","architecture":"a\nb"}"#;
                let one = format!(r#"{{"digest":"sha256:0","size":1,{platform}}}"#);
                let all = vec![one; 1000].join(",");
                format!(r#"{{"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{all}]}}"#).into()
            }),
            &["linux/amd64", "and 980 more"],
            1,
        ),
        case(
            "layer",
            Wrong::Elsewhere,
            &["sends another part of the layer 2 of 3"],
            1,
        ),
        case(
            "layer",
            Wrong::Unmeasured(100_000),
            &["layer 2 of 3", "after 100000 of 316344", "go on from there"],
            4,
        ),
        case(
            "layer",
            Wrong::Answer(204, vec![], String::new()),
            &["layer 2 of 3", "0 bytes instead of 316344"],
            1,
        ),
        case(
            "layer",
            Wrong::Silence(200, u64::MAX - 3, 10),
            &["bytes instead of 316344"],
            1,
        ),
        case(
            "manifests/1",
            Wrong::Changed(|_| b"{".to_vec()),
            &["manifest", "does not parse"],
            1,
        ),
        case(
            "manifests/1",
            Wrong::Changed(|_| vec![b' '; 5 << 20]),
            &["manifest", "more than 4194304 bytes"],
            1,
        ),
        case(
            "manifests/1",
            Wrong::Changed(|_| br#"{"schemaVersion":1}"#.to_vec()),
            &["schema 1", "newer tool"],
            1,
        ),
        case(
            "manifests/1",
            Wrong::Changed(|_| br#"{"mediaType":"text/html"}"#.to_vec()),
            &["text/html"],
            1,
        ),
        case(
            "manifests/sha256",
            Wrong::Changed(|_| b"{}".to_vec()),
            &["manifest", "bytes instead of"],
            1,
        ),
        case(
            "manifests/sha256",
            Wrong::Changed(|mut bytes| {
                bytes[3] ^= 1;
                bytes
            }),
            &["manifest", "has the digest"],
            1,
        ),
    ];
    for case in cases {
        let place = Place::new().await;
        let path = match case.path {
            "layer" => place.blob(1).to_owned(),
            "config" => place.layout.config_digest(),
            path => path.to_owned(),
        };
        place.registry.does_wrong(&path, 1000, case.wrong);
        let error = fault(&place.pull().await.unwrap_err());
        for says in case.says {
            assert!(error.contains(says), "{says:?} in {error}");
        }
        let whole = format!("cannot pull {}: ", place.registry.reference());
        assert!(error.starts_with(&whole), "{error}");
        assert!(!error.contains(['\u{1b}', '\n']), "{error:?}");
        assert!(error.len() < 2000, "{error}");
        assert_eq!(
            place.registry.requests_for(&path).len(),
            case.tries,
            "{error}"
        );
        place.check_empty();
    }
}

#[tokio::test]
async fn failures_that_pass_are_waited_for() {
    for wrong in [
        Wrong::Answer(429, vec![("retry-after", "0".into())], String::new()),
        Wrong::Answer(503, vec![], String::new()),
        Wrong::CutAfter(0),
    ] {
        for path in [
            "manifests/1",
            "manifests/sha256",
            "blob of the second layer",
        ] {
            let place = Place::new().await;
            let path = match path {
                "blob of the second layer" => place.blob(1).to_owned(),
                path => path.to_owned(),
            };
            place.registry.does_wrong(&path, 3, wrong.clone());
            place.pull().await.unwrap();
            assert_eq!(retried(&place.events), 3);
        }
    }
}

#[tokio::test]
async fn a_registry_that_says_nothing_or_next_to_nothing_is_given_up() {
    let slow = Wrong::Drip(Duration::from_millis(10));
    let cases = [
        (
            "manifests/1",
            Wrong::Silence(200, 1000, 0),
            "sends nothing of the manifest",
        ),
        (
            "manifests/1",
            Wrong::Silence(200, 1000, 100),
            "sends nothing of the manifest",
        ),
        ("manifests/1", slow.clone(), "sends nothing of the manifest"),
        (
            "manifests/1",
            Wrong::Silence(404, 1000, 100),
            "no manifest of it (404)",
        ),
        (
            "layer",
            Wrong::Silence(200, 316_344, 0),
            "sends nothing of the layer 2 of 3",
        ),
        ("layer", slow, "sends nothing of the layer 2 of 3"),
    ];
    // Long enough for a busy machine to connect in.
    let impatient = |place: &Place| {
        let mut options = place.options();
        options.retries.attempts = 0;
        options.retries.silence = Duration::from_secs(2);
        options
    };
    let given_up = cases.into_iter().map(async |(path, wrong, says)| {
        let place = Place::new().await;
        let path = if path == "layer" { place.blob(1) } else { path };
        place.registry.does_wrong(path, 1000, wrong);
        let options = impatient(&place);
        let error = fault(&place.pull_as(&options).await.unwrap_err());
        assert!(error.contains(says), "{says:?} in {error}");
        place.check_empty();
    });
    join_all(given_up).await;
    // One that does not even speak TLS, or says that it does not.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let place = Place::new().await;
    let name = format!("{}/app:1", listener.local_addr().unwrap());
    let options = impatient(&place);
    let pulling = place.store();
    let reference = name.parse().unwrap();
    let error = fault(&pulling.pull(&reference, &options).await.unwrap_err());
    // Which of the two depends on what is waited for when it is too long.
    assert!(
        error.contains("sends nothing of the manifest")
            || error.contains("cannot be reached for the manifest"),
        "{error}"
    );
}
