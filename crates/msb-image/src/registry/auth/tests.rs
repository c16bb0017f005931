//! Whose credentials count for which image.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use base64::engine::general_purpose::STANDARD;

use super::*;

fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

fn encoded(user: &str, password: &str) -> String {
    STANDARD.encode(format!("{user}:{password}"))
}

/// User, secret, and whether it is a token; or the error.
type Outcome = Result<Option<(String, String, bool)>, String>;

/// What the file says of the reference.
async fn found(config: &str, image: &str) -> Outcome {
    let dir = tempfile::tempdir().unwrap();
    found_with(dir.path(), config, image).await
}

/// As [`found`], with helpers in `dir`.
async fn found_with(dir: &Path, config: &str, image: &str) -> Outcome {
    let file = dir.join("config.json");
    fs::write(&file, config).unwrap();
    let found = stored_in(&[dir.join("none"), file], dir, &reference(image)).await;
    found
        .map(|found| found.map(|of| (of.user.clone(), of.secret.to_string(), of.is_token)))
        .map_err(|error| error.to_string())
}

#[tokio::test]
async fn entries_count_for_their_registry_or_a_part_of_it() {
    let entry = |key: &str, user: &str| format!(r#""{key}":{{"auth":"{}"}}"#, encoded(user, "p:w"));
    let config = [
        entry("https://index.docker.io/v1/", "hub"),
        entry("q.io", "q"),
        entry("q.io/team", "team"),
        entry("q.io/team/app", "app"),
        entry("localhost:5000", "local"),
        r#""empty.io":{}"#.to_owned(),
        r#""null.io":null"#.to_owned(),
        r#""plain.io":{"username":"u","password":"p"}"#.to_owned(),
        format!(
            r#""token.io":{{"auth":"{}","identitytoken":"t"}}"#,
            encoded("u", "")
        ),
        format!(
            r#""unpadded.io":{{"auth":"{}"}}"#,
            encoded("ab", "c").trim_end_matches('=')
        ),
    ];
    let config = format!(r#"{{"auths":{{{}}},"other":[1]}}"#, config.join(","));
    for (image, expected) in [
        ("debian", Some(("hub", "p:w", false))),
        ("me/mine", Some(("hub", "p:w", false))),
        ("q.io/x", Some(("q", "p:w", false))),
        ("q.io/team/x", Some(("team", "p:w", false))),
        ("q.io/team/app:1", Some(("app", "p:w", false))),
        ("q.io/team/app2", Some(("team", "p:w", false))),
        ("localhost:5000/a", Some(("local", "p:w", false))),
        ("localhost:5001/a", None),
        ("localhost/a", None),
        ("aq.io/x", None),
        ("q.io.evil.io/x", None),
        ("empty.io/a", None),
        ("null.io/a", None),
        ("plain.io/a", Some(("u", "p", false))),
        ("token.io/a", Some(("u", "t", true))),
        ("unpadded.io/a", Some(("ab", "c", false))),
    ] {
        let got = found(&config, image).await.unwrap();
        let expected = expected.map(|(user, secret, token)| (user.into(), secret.into(), token));
        assert_eq!(got, expected, "{image}");
    }
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named_and_not_shown() {
    let secret = "c2VjcmV0LWluLWEtYmFkLXBsYWNl";
    for config in [
        format!(r#"{{"auths":{{"q.io":{{"auth":"{secret}"}}}}}}"#),
        format!(r#"{{"auths":{{"q.io":{{"auth":"!{secret}"}}}}}}"#),
        format!(r#"{{"auths":{{"q.io":{{"auth":{{"{secret}":1}}}}}}}}"#),
        format!(r#"{{"auths":"{secret}""#),
        secret.to_owned(),
    ] {
        let error = found(&config, "q.io/a").await.unwrap_err();
        assert!(error.contains("config.json"), "{error}");
        assert!(
            !error.contains(secret) && !error.contains("secret-in"),
            "{error}"
        );
    }
    for empty in [
        "{}",
        r#"{"auths":null,"credHelpers":null,"credsStore":null}"#,
        r#"{"auths":{},"credHelpers":{},"credsStore":""}"#,
    ] {
        assert_eq!(found(empty, "q.io/a").await, Ok(None), "{empty}");
    }
}

#[tokio::test]
async fn helpers_are_asked_by_their_name_and_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let helper = |name: &'static str, script: &str| {
        let file = dir.path().join(format!("docker-credential-{name}"));
        fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        name
    };
    let asked = dir.path().join("asked");
    let good = helper(
        "good",
        &format!(
            r#"read server; echo "$1 $server" >> {}; echo '{{"ServerURL":"x","Username":"u","Secret":"s3cret"}}'"#,
            asked.display()
        ),
    );
    let token = helper("token", r#"echo '{"Username":"<token>","Secret":"t"}'"#);
    let none = helper(
        "none",
        "echo 'credentials not found in native keychain'; exit 1",
    );
    let bad = helper("bad", "echo s3cret; echo s3cret >&2; exit 3");
    let odd = helper("odd", "echo s3cret");
    let all = format!(r#"{{"credsStore":"{good}"}}"#);
    let one = |name: &str| format!(r#"{{"credHelpers":{{"q.io":"{name}"}}}}"#);
    let outcomes = [
        found_with(dir.path(), &all, "debian").await,
        found_with(dir.path(), &one(good), "q.io/a/b").await,
        found_with(dir.path(), &one(good), "other.io/a").await,
        found_with(dir.path(), &one(token), "q.io/a").await,
        found_with(dir.path(), &one(none), "q.io/a").await,
        found_with(dir.path(), &one(bad), "q.io/a").await,
        found_with(dir.path(), &one(odd), "q.io/a").await,
        found_with(dir.path(), &one("msb-missing"), "q.io/a").await,
        found_with(dir.path(), &one("../../bin/sh"), "q.io/a").await,
    ];
    let known = |user: &str, secret: &str, token| Ok(Some((user.into(), secret.into(), token)));
    assert_eq!(outcomes[0], known("u", "s3cret", false));
    assert_eq!(outcomes[1], known("u", "s3cret", false));
    assert_eq!(outcomes[2], Ok(None));
    assert_eq!(outcomes[3], known("<token>", "t", true));
    assert_eq!(outcomes[4], Ok(None));
    for (outcome, says) in
        outcomes[5..]
            .iter()
            .zip(["failed", "as JSON", "cannot be run", "no name"])
    {
        let error = outcome.as_ref().unwrap_err();
        assert!(error.contains(says) && !error.contains("s3cret"), "{error}");
    }
    let asked = fs::read_to_string(asked).unwrap();
    assert_eq!(asked, "get https://index.docker.io/v1/\nget q.io\n");
}

#[test]
fn files_are_looked_for_where_docker_and_podman_keep_them() {
    let of = |variables: &[(&str, &str)]| {
        let env = |name: &str| {
            let found = variables.iter().find(|(of, _)| *of == name);
            found.map(|(_, value)| OsString::from(value))
        };
        let files = files(env);
        let files = files.iter().map(|file| file.display().to_string());
        files.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(of(&[]), "");
    assert_eq!(
        of(&[("HOME", "/h"), ("XDG_RUNTIME_DIR", "")]),
        "/h/.docker/config.json /h/.config/containers/auth.json"
    );
    assert_eq!(
        of(&[
            ("DOCKER_CONFIG", "/d"),
            ("REGISTRY_AUTH_FILE", "/r"),
            ("XDG_RUNTIME_DIR", "/x")
        ]),
        "/r /d/config.json /x/containers/auth.json"
    );
}

#[test]
fn credentials_are_not_shown() {
    let credentials = Credentials::new("u", Zeroizing::new("s3cret".into()));
    assert!(!format!("{credentials:?}").contains("s3cret"));
    assert_eq!(
        credentials.redact("no s3cret here, s3cret"),
        "no *** here, ***"
    );
    let header = format!("Basic {}", encoded("u", "s3cret"));
    assert_eq!(credentials.redact(&header), "Basic ***");
}
