//! Images come out of a registry whole or not at all, whatever it does, and who asks is told why.

mod faults;
mod parts;
mod store;
mod trust;

#[allow(dead_code, reason = "shared with the other tests, which use the rest")]
#[path = "../support/mod.rs"]
mod support;

#[path = "../support/registry.rs"]
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
