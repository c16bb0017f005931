//! Images come out of a registry whole or not at all, whatever it does, and who asks is told why.

#[allow(dead_code, reason = "shared with the other tests, which use the rest")]
mod support;

#[path = "support/registry.rs"]
mod registry;

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use msb_image::{
    Credentials, Digest, Error, ImportLimits, Imported, Login, PullEvent, PullOptions, Retries,
    Store,
};
use msb_testkit::{CertificateKind, TestRoot};
use registry::{Door, PASSWORD, Registry, USER, Wrong};
use support::{Compressed, Entry, Layout, contents, fault};

/// A layout, a registry that serves it, and a store.
struct Place {
    dir: tempfile::TempDir,
    layout: Layout,
    registry: Registry,
    events: Arc<Mutex<Vec<PullEvent>>>,
}

/// Bytes that hardly compress, so that layers have their length.
fn noise(len: u32) -> Vec<u8> {
    (0..len / 4)
        .flat_map(|n| {
            n.wrapping_mul(2_654_435_761)
                .rotate_left(n % 31)
                .to_le_bytes()
        })
        .collect()
}

fn layers() -> Vec<Vec<Entry>> {
    vec![
        vec![Entry::dir("etc"), Entry::file("etc/gone", b"x")],
        vec![Entry::file("noise", &noise(300_000)).owner(7, 8)],
        vec![
            Entry::whiteout("etc/.wh.gone"),
            Entry::file("etc/new", b"new"),
        ],
    ]
}

impl Place {
    async fn new() -> Self {
        Self::with(Door::Open, |_| {}).await
    }

    async fn with(door: Door, change: impl FnOnce(&mut Layout)) -> Self {
        Self::of(door, &layers(), change).await
    }

    async fn of(door: Door, layers: &[Vec<Entry>], change: impl FnOnce(&mut Layout)) -> Self {
        let dir = tempfile::tempdir().expect("test files");
        let mut layout = Layout::new(&dir.path().join("layout"), layers, Compressed::Gzip);
        change(&mut layout);
        layout.write();
        let registry = Registry::start(layout.path(), door, None).await;
        Self {
            dir,
            layout,
            registry,
            events: Arc::default(),
        }
    }

    fn store(&self) -> Store {
        Store::open(self.dir.path().join("store"))
    }

    fn options(&self) -> PullOptions {
        let events = Arc::clone(&self.events);
        PullOptions {
            login: Login::Anonymous,
            retries: Retries {
                attempts: 3,
                first_wait: Duration::from_millis(1),
                longest_wait: Duration::from_secs(2),
                ..Retries::default()
            },
            on_event: Some(Arc::new(move |event| {
                events.lock().expect("events").push(event.clone())
            })),
            ..PullOptions::default()
        }
    }

    async fn pull(&self) -> Result<Imported, Error> {
        self.pull_as(&self.options()).await
    }

    async fn pull_as(&self, options: &PullOptions) -> Result<Imported, Error> {
        let reference = self.registry.reference().parse().expect("a reference");
        self.store().pull(&reference, options).await
    }

    fn blob(&self, layer: usize) -> &str {
        &self.layout.layers[layer].digest
    }

    /// Files of partial layers: name and length.
    fn parts(&self) -> Vec<(String, u64)> {
        let entries = std::fs::read_dir(self.store().dir().join("blobs/sha256"));
        let parts = entries.into_iter().flatten().map(|entry| {
            let entry = entry.expect("test files");
            let len = entry.metadata().expect("test files").len();
            (entry.file_name().to_string_lossy().into_owned(), len)
        });
        parts.collect()
    }

    /// Nothing of an image is there, and no temporary file.
    #[track_caller]
    fn check_empty(&self) {
        assert!(self.store().image_names().expect("names").is_empty());
        for dir in ["tmp", "files", "pulls"] {
            let left = std::fs::read_dir(self.store().dir().join(dir));
            let left: Vec<_> = left.into_iter().flatten().collect();
            assert!(left.is_empty(), "{left:?}");
        }
    }
}

fn retried(events: &Arc<Mutex<Vec<PullEvent>>>) -> usize {
    let events = events.lock().expect("events");
    let retried = events
        .iter()
        .filter(|event| matches!(event, PullEvent::Retrying { .. }));
    retried.count()
}

#[tokio::test]
async fn an_image_is_pulled_once_and_is_the_one_that_its_layout_makes() {
    let place = Place::new().await;
    let pulled = place.pull().await.unwrap();
    assert!(pulled.is_new);
    assert_eq!(pulled.name.as_str(), place.registry.reference());
    let other = Store::open(place.dir.path().join("other"));
    let imported = other
        .import(place.layout.path(), &Default::default())
        .unwrap();
    assert_eq!(
        contents(&place.store(), &pulled),
        contents(&other, &imported)
    );
    assert_eq!(pulled.manifest.config, imported.manifest.config);
    let disk = place
        .store()
        .root_disk(&place.registry.reference())
        .unwrap();
    assert_eq!(disk.config.command(&[]), ["/entry", "by", "default"]);
    drop(disk);
    assert_eq!(place.parts(), [], "layers are not kept");
    let events = place.events.lock().unwrap().clone();
    let sizes = place
        .layout
        .layers
        .iter()
        .map(|layer| layer.blob.len() as u64);
    assert_eq!(events[0], PullEvent::Layers(sizes.collect()));
    assert_eq!(events.last(), Some(&PullEvent::Building));

    let again = place.pull().await.unwrap();
    assert!(!again.is_new);
    assert_eq!(place.registry.requests_for(place.blob(0)).len(), 1);
    place.store().remove_image(&pulled.name).unwrap();
    place.check_empty();
}

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
async fn images_from_registries_that_do_not_hold_together_are_refused() {
    type Case = (fn(&mut Layout), &'static [&'static str]);
    let cases: [Case; 5] = [
        (
            |layout| layout.architecture = "arm64".into(),
            &["linux/arm64", "linux/amd64"],
        ),
        (
            |layout| layout.layers[1].media_type = "application/x-zip".into(),
            &["layer 2 of 3", "x-zip"],
        ),
        (
            |layout| {
                layout.layers[1].media_type = "application/vnd.oci.image.layer.v1.tar+zstd".into()
            },
            &["layer 2 of 3", "as zstd", "it is gzip"],
        ),
        (
            |layout| layout.layers[2].diff_id = "0".repeat(64),
            &["layer 3 of 3", "configuration says"],
        ),
        (
            |layout| layout.config_type = "application/x-helm".into(),
            &["x-helm"],
        ),
    ];
    for (change, says) in cases {
        let place = Place::with(Door::Open, change).await;
        let error = fault(&place.pull().await.unwrap_err());
        for says in says {
            assert!(error.contains(says), "{says:?} in {error}");
        }
        place.check_empty();
        assert_eq!(place.parts(), [], "they would be refused again");
    }
    let place = Place::new().await;
    let served = r#"{"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[
        {"digest":"sha256:0","size":1,"platform":{"os":"linux","architecture":"arm64"}},
        {"digest":"sha256:1","size":1,"platform":{"os":"windows","architecture":"amd64"}}]}"#;
    std::fs::write(place.layout.path().join("served.json"), served).unwrap();
    let error = fault(&place.pull().await.unwrap_err());
    assert!(error.contains("linux/arm64, windows/amd64"), "{error}");
    let place = Place::new().await;
    let options = PullOptions {
        limits: ImportLimits {
            unpacked_bytes: 1000,
            ..ImportLimits::default()
        },
        ..place.options()
    };
    let error = fault(&place.pull_as(&options).await.unwrap_err());
    assert!(error.contains("more than the 1000"), "{error}");
    assert!(place.registry.requests_for(place.blob(0)).is_empty());
}

#[tokio::test]
async fn a_layer_that_was_cut_is_gone_on_with_by_the_next_try_and_the_next_pull() {
    let place = Place::new().await;
    let blob = place.blob(1).to_owned();
    place.registry.does_wrong(&blob, 2, Wrong::CutAfter(50_000));
    place.pull().await.unwrap();
    let ranges = |place: &Place| -> Vec<String> {
        let requests = place.registry.requests_for(&blob).into_iter();
        requests.map(|(_, range, _)| range).collect()
    };
    assert_eq!(ranges(&place), ["", "bytes=50000-", "bytes=100000-"]);
    assert_eq!(retried(&place.events), 2);

    let place = Place::new().await;
    place.registry.does_wrong(&blob, 4, Wrong::CutAfter(20_000));
    place.pull().await.unwrap_err();
    let parts = place.parts();
    assert!(parts.contains(&(blob.clone(), 80_000)), "{parts:?}");
    place.check_empty();
    // The other layers that came whole are not fetched again.
    let pulled = place.pull().await.unwrap();
    assert!(pulled.is_new);
    assert_eq!(ranges(&place).last().unwrap(), "bytes=80000-");
    assert_eq!(place.registry.requests_for(place.blob(0)).len(), 1);
    assert_eq!(place.parts(), []);
}

#[tokio::test]
async fn parts_of_any_kind_are_put_together_or_begun_anew() {
    let sizes = [0, 100_000, 200_000, 300_000].map(|from: u32| match from {
        0 => String::new(),
        from => format!("bytes={from}-"),
    });
    type Case = (Vec<(usize, Wrong)>, Vec<String>);
    let cases: [Case; 6] = [
        (vec![(1000, Wrong::Part(100_000))], sizes.to_vec()),
        (vec![(1, Wrong::Unmeasured(100_000))], sizes[..2].to_vec()),
        (
            vec![(1, Wrong::Unmeasured(usize::MAX))],
            vec![String::new()],
        ),
        // Other bytes than were asked for: all of it is asked for.
        (
            vec![(1, Wrong::CutAfter(100_000)), (1, Wrong::Elsewhere)],
            vec![String::new(), sizes[1].clone(), String::new()],
        ),
        (
            vec![(1, Wrong::CutAfter(100_000)), (1, Wrong::Whole)],
            sizes[..2].to_vec(),
        ),
        // What came first is wrong, which the digest tells.
        (
            vec![
                (1, Wrong::Part(100_000)),
                (
                    1,
                    Wrong::Changed(|mut bytes| {
                        bytes[200_000] ^= 1;
                        bytes
                    }),
                ),
            ],
            vec![String::new(), sizes[1].clone(), String::new()],
        ),
    ];
    for (wrongs, ranges) in cases {
        let place = Place::new().await;
        for (times, wrong) in wrongs {
            place.registry.does_wrong(place.blob(1), times, wrong);
        }
        place.pull().await.unwrap();
        let requests = place.registry.requests_for(place.blob(1)).into_iter();
        let asked: Vec<_> = requests.map(|(_, range, _)| range).collect();
        assert_eq!(asked, ranges);
        assert_eq!(place.parts(), []);
    }
}

#[tokio::test]
async fn lengths_that_cannot_be_counted_with_are_refused() {
    let place = Place::new().await;
    let blob = place.blob(1).to_owned();
    place
        .registry
        .does_wrong(&blob, 1, Wrong::CutAfter(100_000));
    let most = Wrong::Silence(206, u64::MAX - 3, 10);
    place.registry.does_wrong(&blob, 1000, most);
    let error = fault(&place.pull().await.unwrap_err());
    assert!(error.contains("bytes instead of 316344"), "{error}");
    assert_eq!(
        place
            .parts()
            .iter()
            .filter(|(name, _)| *name == blob)
            .count(),
        0
    );
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

#[tokio::test]
async fn what_is_there_of_a_layer_is_not_believed() {
    let place = Place::new().await;
    let whole = contents(&place.store(), &place.pull().await.unwrap());
    let size = |place: &Place| place.layout.layers[1].blob.len();
    type Kept = fn(&[u8]) -> Vec<u8>;
    let kept: [Kept; 6] = [
        |_| Vec::new(),
        |blob| blob[..1000].to_vec(),
        |blob| vec![0; blob.len() / 2],
        |blob| vec![0; blob.len()],
        |blob| vec![0; blob.len() * 2],
        |blob| blob.to_vec(),
    ];
    for (at, kept) in kept.iter().enumerate() {
        for deaf in [false, true] {
            let place = Place::new().await;
            let dir = place.store().dir().join("blobs/sha256");
            std::fs::create_dir_all(&dir).unwrap();
            let bytes = kept(&place.layout.layers[1].blob);
            std::fs::write(dir.join(place.blob(1)), bytes).unwrap();
            if deaf {
                // A registry without ranges.
                place.registry.does_wrong(place.blob(1), 1000, Wrong::Whole);
            }
            let pulled = place.pull().await.unwrap();
            let pulled = contents(&place.store(), &pulled);
            assert_eq!(pulled, whole, "{at} {deaf} of {}", size(&place));
            assert_eq!(place.parts(), []);
        }
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
async fn a_damaged_image_is_made_whole_by_pulling_it_again() {
    type Damage = fn(&Store, &Imported);
    let damages: [Damage; 4] = [
        |store, image| {
            let disk = store.content_path(&image.manifest.content.sha256);
            std::fs::File::options()
                .write(true)
                .open(disk)
                .unwrap()
                .set_len(10)
                .unwrap();
        },
        |store, image| {
            let disk = store.content_path(&image.manifest.content.sha256);
            std::fs::remove_file(disk).unwrap();
        },
        |store, _| damage_manifest(store, b"{}"),
        |store, _| damage_manifest(store, b""),
    ];
    for damage in damages {
        let place = Place::new().await;
        let pulled = place.pull().await.unwrap();
        let (store, name) = (place.store(), place.registry.reference());
        damage(&store, &pulled);
        let text = fault(&store.root_disk(&name).unwrap_err());
        assert!(
            text.contains("again, or remove it with `msb image rm`") || text.contains("no image"),
            "{text}"
        );
        let pulled = place.pull().await.unwrap();
        assert!(pulled.is_new);
        drop(store.root_disk(&name).unwrap());
        damage(&store, &pulled);
        if store.find(&name).is_ok() {
            store.remove_image(&pulled.name).expect("test files");
        }
        assert!(store.image_names().expect("test files").is_empty());
    }
}

fn damage_manifest(store: &Store, bytes: &[u8]) {
    let entries = std::fs::read_dir(store.dir().join("images")).expect("test files");
    for entry in entries {
        std::fs::write(entry.expect("test files").path(), bytes).expect("test files");
    }
}

#[tokio::test]
async fn a_store_that_is_made_is_for_nobody_else() {
    let place = Place::new().await;
    place.pull().await.unwrap();
    let mode = |store: &Store| std::fs::metadata(store.dir()).unwrap().mode() & 0o777;
    assert_eq!(mode(&place.store()), 0o700);
    let imported = Store::open(place.dir.path().join("other/store"));
    imported
        .import(place.layout.path(), &Default::default())
        .unwrap();
    assert_eq!(mode(&imported), 0o700);
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

#[tokio::test(flavor = "multi_thread")]
async fn pulls_of_one_image_at_once_fetch_and_make_it_once() {
    let place = Place::new().await;
    let options = place.options();
    let pulls = (0..4).map(|_| place.pull_as(&options));
    let mut made = 0;
    for pulled in join_all(pulls).await {
        made += usize::from(pulled.unwrap().is_new);
    }
    assert_eq!(made, 1);
    assert_eq!(place.registry.requests_for(place.blob(1)).len(), 1);
    assert_eq!(place.parts(), []);
}

#[tokio::test]
async fn images_that_share_layers_are_pulled_at_once() {
    let place = Place::new().await;
    let other = Place::new().await;
    let options = place.options();
    let store = place.store();
    let references: Vec<_> = [&place, &other]
        .map(|place| place.registry.reference().parse().unwrap())
        .into();
    let pulls = references
        .iter()
        .map(|reference| store.pull(reference, &options));
    for pulled in join_all(pulls).await {
        pulled.unwrap();
    }
    assert_eq!(store.image_names().unwrap().len(), 2);
    assert_eq!(place.parts(), []);
}

#[tokio::test]
async fn digests_in_references_bind() {
    let place = Place::new().await;
    let index = std::fs::read(place.layout.path().join("index.json")).unwrap();
    let parsed: serde_json::Value = serde_json::from_slice(&index).unwrap();
    let digest = parsed["manifests"][0]["digest"].as_str().unwrap();
    let name = format!("{}/app@{digest}", place.registry.address);
    let pulled = place
        .store()
        .pull(&name.parse().unwrap(), &place.options())
        .await
        .unwrap();
    assert_eq!(pulled.name.as_str(), name);
    let wrong = Digest::of(b"other").to_string();
    let path = format!("manifests/sha256:{wrong}");
    let body = String::from_utf8(index).unwrap();
    place
        .registry
        .does_wrong(&path, 1, Wrong::Answer(200, vec![], body));
    let name = format!("{}/app@sha256:{wrong}", place.registry.address);
    let error = place
        .store()
        .pull(&name.parse().unwrap(), &place.options())
        .await
        .unwrap_err();
    assert!(
        fault(&error).contains("has the digest"),
        "{}",
        fault(&error)
    );
}

#[tokio::test]
async fn layers_that_nobody_goes_on_with_are_removed_after_a_week() {
    let place = Place::new().await;
    let dir = place.store().dir().join("blobs/sha256");
    std::fs::create_dir_all(&dir).unwrap();
    let day = Duration::from_secs(24 * 60 * 60);
    for (name, age) in [("old", day * 8), ("new", day)] {
        let file = std::fs::File::create(dir.join(name)).unwrap();
        file.set_modified(std::time::SystemTime::now() - age)
            .unwrap();
    }
    place.pull().await.unwrap();
    assert_eq!(place.parts(), [("new".to_owned(), 0)]);
}

/// A small file system of this test's own, unmounted when it is dropped.
struct Small {
    dir: tempfile::TempDir,
}

impl Small {
    /// Of so many KiB. None, with the reason told, where there can be none.
    fn mount(kib: u32) -> Option<Self> {
        let dir = tempfile::tempdir().expect("test files");
        let mounted = std::process::Command::new("mount")
            .args([
                "-t",
                "tmpfs",
                "-o",
                &format!("size={kib}k,mode=0755"),
                "tmpfs",
            ])
            .arg(dir.path())
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self { dir }),
            _ => {
                eprintln!("skipped: only root can mount a small file system to fill");
                None
            }
        }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg(self.dir.path())
            .output();
    }
}

#[tokio::test]
async fn a_full_disk_is_told_as_such_and_nothing_half_made_stays() {
    let large = (0..4).map(|n| vec![Entry::file(&format!("{n}"), &noise(300_000 + 4 * n))]);
    let large: Vec<_> = large.collect();
    // The layer of 300 kB does not fit; it fits and the disk does not; of four at once none has room.
    for (kib, layers) in [(200, layers()), (450, layers()), (500, large)] {
        let Some(small) = Small::mount(kib) else {
            return;
        };
        let place = Place::of(Door::Open, &layers, |_| {}).await;
        let store = Store::open(small.dir.path());
        let reference = place.registry.reference().parse().unwrap();
        let error = store.pull(&reference, &place.options()).await.unwrap_err();
        assert!(
            matches!(error, Error::NoSpace { .. }),
            "{kib}: {}",
            fault(&error)
        );
        assert!(
            fault(&error).contains("no space left for images in"),
            "{}",
            fault(&error)
        );
        assert!(store.image_names().unwrap().is_empty());
        let mut used = 0;
        let mut rest = vec![small.dir.path().to_owned()];
        while let Some(dir) = rest.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let entry = entry.unwrap();
                let metadata = entry.metadata().unwrap();
                match metadata.is_dir() {
                    true => rest.push(entry.path()),
                    false => used += metadata.blocks() * 512,
                }
            }
        }
        assert!(used < 20_000, "{kib}: {used} bytes are left");
        // An import of the same image tells the same.
        let error = store.import(place.layout.path(), &Default::default());
        if let Err(error) = error {
            assert!(
                matches!(error, Error::NoSpace { .. }),
                "{kib}: {}",
                fault(&error)
            );
        }
    }
}
