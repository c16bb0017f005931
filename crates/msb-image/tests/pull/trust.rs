//! Who is let in, whom a registry is believed to be, and where credentials go.

use super::*;

#[tokio::test]
async fn only_who_may_is_let_in_and_no_credential_is_told_or_sent_elsewhere() {
    let elsewhere = Place::new().await;
    let known = || Login::As(Credentials::new(USER, PASSWORD.to_owned().into()));
    let wrong = || Login::As(Credentials::new(USER, "wr0ng-s3cret".to_owned().into()));
    let here = Registry::start(Path::new("/"), Door::Open, None).await;
    for (door, login, lets_in) in [
        (Door::Basic, known(), true),
        (Door::Basic, wrong(), false),
        (Door::Basic, Login::Anonymous, false),
        (Door::Bearer(Some(here.address.to_string())), known(), true),
        (Door::Bearer(Some(here.address.to_string())), wrong(), false),
        (
            Door::Bearer(Some(here.address.to_string())),
            Login::Anonymous,
            false,
        ),
        (Door::Bearer(Some("example.com".into())), known(), false),
    ] {
        let place = Place::with(door, |_| {}).await;
        // The layer is at another place, which must not learn who asks.
        let blob = place.blob(1).to_owned();
        let there = format!(
            "http://{}/v2/app/blobs/sha256:{blob}",
            elsewhere.registry.address
        );
        place.registry.does_wrong(
            &blob,
            1000,
            Wrong::Answer(307, vec![("location", there)], String::new()),
        );
        let before = elsewhere.registry.log().len();
        let options = PullOptions {
            login,
            ..place.options()
        };
        match place.pull_as(&options).await {
            Ok(_) => assert!(lets_in),
            Err(error) => {
                let text = fault(&error);
                assert!(!lets_in, "{text}");
                assert!(
                    text.contains("(401)") || text.contains("leads to example.com"),
                    "{text}"
                );
                let all = format!("{text} {error:?} {options:?}");
                assert!(!all.contains("s3cret"), "{all}");
            }
        }
        let came = elsewhere.registry.log().split_off(before);
        assert_eq!(came.len(), usize::from(lets_in));
        assert!(
            came.iter()
                .all(|(_, _, authorization)| authorization.is_empty()),
            "{came:?}"
        );
    }
}

#[tokio::test]
async fn a_registry_that_repeats_what_was_sent_to_it_is_not_quoted_with_it() {
    let here = Registry::start(Path::new("/"), Door::Open, None).await;
    for door in [Door::Basic, Door::Bearer(Some(here.address.to_string()))] {
        let place = Place::with(door, |_| {}).await;
        place.registry.does_wrong("manifests/1", 1, Wrong::Repeats);
        let options = PullOptions {
            login: Login::As(Credentials::new(USER, PASSWORD.to_owned().into())),
            ..place.options()
        };
        let error = fault(&place.pull_as(&options).await.unwrap_err());
        assert!(
            error.contains("not you: ") && error.contains("***"),
            "{error}"
        );
        let log = place.registry.log();
        let (_, _, sent) = log.iter().rfind(|(_, _, sent)| !sent.is_empty()).unwrap();
        let (_, secret) = sent.split_once(' ').unwrap();
        assert!(!error.contains(secret), "{error}");
    }
}

#[tokio::test]
async fn only_trusted_authorities_sign_for_a_registry() {
    let place = Place::new().await;
    let root = TestRoot::new();
    let file = |name: &str, text: &str| -> PathBuf {
        let file = place.dir.path().join(name);
        std::fs::write(&file, text).unwrap();
        file
    };
    let other = TestRoot::new();
    let (good, foreign, empty) = (
        file("good.pem", &root.pem()),
        file("foreign.pem", &other.pem()),
        file("empty.pem", "no certificate"),
    );
    for (kind, ca, says) in [
        (CertificateKind::Good, Some(&good), None),
        (
            CertificateKind::Good,
            Some(&foreign),
            Some("does not prove who it is"),
        ),
        (CertificateKind::Good, None, Some("--registry-ca")),
        (
            CertificateKind::UnknownIssuer,
            Some(&good),
            Some("--registry-ca"),
        ),
        (
            CertificateKind::ForgedIssuer,
            Some(&good),
            Some("does not prove who it is"),
        ),
        (
            CertificateKind::Expired,
            Some(&good),
            Some("does not prove who it is"),
        ),
        (CertificateKind::Good, Some(&empty), Some("empty.pem")),
    ] {
        let server = root.server(&["localhost"], kind);
        let registry = Registry::start(place.layout.path(), Door::Open, Some(server)).await;
        let reference = format!("localhost:{}/app:1", registry.address.port());
        let options = PullOptions {
            ca_files: ca.into_iter().cloned().collect(),
            ..place.options()
        };
        let store = Store::open(tempfile::tempdir_in(place.dir.path()).unwrap().keep());
        let outcome = store.pull(&reference.parse().unwrap(), &options).await;
        match (outcome, says) {
            (Ok(_), None) => {}
            (Err(error), Some(says)) => {
                let text = fault(&error);
                assert!(text.contains(says), "{text}");
                assert!(registry.log().is_empty(), "nothing is asked of it");
            }
            (outcome, says) => panic!("{says:?}: {:?}", outcome.map_err(|error| fault(&error))),
        }
    }
}
