//! `msb image` as a user runs it: through proxies, killed, on full disks, in stores of others.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use http::Response;
use http_body_util::Full;
use msb::image::Digest;
use msb_tar::{Entry, Kind};
use msb_testkit::{CertificateKind, Origin, RecordedRequest, TestRoot};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

/// The name that only proxies know.
const NAME: &str = "registry.test";

/// An image in a layout, and a store of its own.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let layers = [layer("etc/one", 1), layer("etc/two", 300_000)];
        write_layout(&dir.path().join("layout"), &layers);
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// `msb image` with these words, which finds nobody's settings.
    fn msb(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_msb"));
        for name in [
            "HTTPS_PROXY",
            "HTTP_PROXY",
            "ALL_PROXY",
            "NO_PROXY",
            "SSL_CERT_FILE",
            "SSL_CERT_DIR",
        ] {
            command.env_remove(name).env_remove(name.to_lowercase());
        }
        command
            .arg("image")
            .args(words)
            .env("MSB_HOME", self.store())
            .env("HOME", self.dir.path())
            .env("DOCKER_CONFIG", self.dir.path())
            .env_remove("REGISTRY_AUTH_FILE")
            .env_remove("XDG_RUNTIME_DIR")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    async fn run(&self, words: &[&str]) -> Output {
        self.msb(words).output().await.unwrap()
    }

    /// A program that stands before the one of the same name, and the `PATH` that has it so.
    fn stand_in(&self, name: &str, script: &str) -> String {
        let bin = self.path("bin");
        fs::create_dir_all(&bin).unwrap();
        fs::write(bin.join(name), format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        format!("{}:{}", bin.display(), std::env::var("PATH").unwrap())
    }

    /// Nothing half-made is in the store.
    #[track_caller]
    fn check_clean(&self) {
        for dir in ["tmp", "pulls", "blobs/sha256"] {
            let left = fs::read_dir(self.store().join(dir)).into_iter().flatten();
            let left: Vec<_> = left.map(|entry| entry.unwrap().path()).collect();
            assert!(left.is_empty(), "{left:?}");
        }
    }
}

#[track_caller]
fn check(output: &Output, code: i32, says: &[&str]) {
    let text = [output.stdout.as_slice(), &output.stderr].concat();
    let text = String::from_utf8(text).unwrap();
    assert_eq!(output.status.code(), Some(code), "{text}");
    for part in says {
        assert!(text.contains(part), "{part:?} in {text}");
    }
    assert!(!text.contains(['\x1b', '\r']), "{text:?}");
}

/// A layer with one file of so many bytes that hardly compress.
fn layer(name: &str, len: u32) -> Vec<u8> {
    let mut state = len;
    let noise = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[0]
    });
    let data: Vec<u8> = noise.take(len as usize).collect();
    let file = Entry {
        mode: 0o644,
        ..Entry::new(name, Kind::File(data.len() as u64))
    };
    let mut archive = Vec::new();
    msb_tar::write(&file, &mut archive).unwrap();
    archive.extend_from_slice(&data);
    archive.extend_from_slice(msb_tar::padding(data.len() as u64));
    msb_tar::write_end(&mut archive).unwrap();
    archive
}

fn write_layout(dir: &Path, layers: &[Vec<u8>]) {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |kind: &str, bytes: &[u8]| {
        let digest = Digest::of(bytes).to_string();
        fs::write(blobs.join(&digest), bytes).unwrap();
        let size = bytes.len();
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.{kind}","digest":"sha256:{digest}","size":{size}}}"#
        )
    };
    let ids = layers
        .iter()
        .map(|layer| format!(r#""{:?}""#, Digest::of(layer)));
    let ids = ids.collect::<Vec<_>>().join(",");
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":[{ids}]}}}}"#
    );
    let config = put("config.v1+json", config.as_bytes());
    let layers = layers.iter().map(|layer| put("layer.v1.tar", layer));
    let layers = layers.collect::<Vec<_>>().join(",");
    let manifest = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layers}]}}"#);
    let manifest = put("manifest.v1+json", manifest.as_bytes());
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{manifest}]}}"#);
    fs::write(dir.join("index.json"), index).unwrap();
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

/// A registry that serves the place's layout as `app:1`; `on_request` hears of each request before it is answered.
async fn serve(
    place: &Place,
    root: &TestRoot,
    on_request: impl Fn() + Send + Sync + 'static,
) -> Origin {
    let layout = place.path("layout");
    let answer = move |request: &RecordedRequest| {
        on_request();
        let (media_type, file) = match request.target.strip_prefix("/v2/app/") {
            Some("manifests/1") => ("index.v1+json", layout.join("index.json")),
            Some(other) => {
                let digest = other.rsplit(':').next().unwrap_or_default();
                ("manifest.v1+json", layout.join("blobs/sha256").join(digest))
            }
            None => ("", layout.join("oci-layout")),
        };
        Response::builder()
            .header(
                "content-type",
                format!("application/vnd.oci.image.{media_type}"),
            )
            .body(Full::new(fs::read(file).unwrap().into()))
            .unwrap()
    };
    let config = root.server(&["localhost", NAME], CertificateKind::Good);
    Origin::start_with(config, Arc::new(answer)).await
}

/// A proxy that leads everywhere to `to`, as HTTP or SOCKS 5, and writes down what it was asked.
async fn proxy(to: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let log = Arc::clone(&log);
            tokio::spawn(async move {
                // A client that goes away is no fault.
                let _ = lead(client, to, &log).await;
            });
        }
    });
    (address, asked)
}

async fn lead(
    mut client: TcpStream,
    to: SocketAddr,
    log: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut first = [0];
    client.read_exact(&mut first).await?;
    let asked = if first == [5] {
        let mut methods = vec![0; usize::from(client.read_u8().await?)];
        client.read_exact(&mut methods).await?;
        client.write_all(&[5, 0]).await?;
        let mut head = [0; 5];
        client.read_exact(&mut head).await?;
        assert_eq!(head[..4], [5, 1, 0, 3], "a connection to a name");
        let mut name = vec![0; usize::from(head[4])];
        client.read_exact(&mut name).await?;
        let port = client.read_u16().await?;
        client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
        format!("socks {}:{port}", String::from_utf8_lossy(&name))
    } else {
        let mut head = first.to_vec();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(client.read_u8().await?);
        }
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
        String::from_utf8_lossy(&head).into_owned()
    };
    log.lock().unwrap().push(asked);
    let mut origin = TcpStream::connect(to).await?;
    tokio::io::copy_bidirectional(&mut client, &mut origin)
        .await
        .map(drop)
}

#[tokio::test]
async fn a_pull_goes_through_the_proxy_and_trusts_the_authorities_of_the_environment() {
    let place = Place::new();
    let root = TestRoot::new();
    let registry = serve(&place, &root, || {}).await;
    let (address, asked) = proxy(registry.address()).await;
    let ca = place.path("ca.pem");
    fs::write(&ca, root.pem()).unwrap();
    let ca = ca.to_str().unwrap();
    let reference = format!("{NAME}/app:1");
    let http = format!("http://us:pa%20ss@{address}");
    let socks = format!("socks5h://{address}");
    let bare = address.to_string();
    for (variable, value, says) in [
        ("HTTPS_PROXY", &http, "CONNECT registry.test:443 "),
        ("https_proxy", &bare, "CONNECT registry.test:443 "),
        ("ALL_PROXY", &socks, "socks registry.test:443"),
    ] {
        let mut msb = place.msb(&["pull", &reference]);
        let pulled = msb
            .env(variable, value)
            .env("SSL_CERT_FILE", ca)
            .output()
            .await;
        check(
            &pulled.unwrap(),
            0,
            &["layer 1 of 2", "layer 2 of 2", &reference, "new"],
        );
        let asked = std::mem::take(&mut *asked.lock().unwrap());
        assert!(
            !asked.is_empty() && asked.iter().all(|asked| asked.starts_with(says)),
            "{asked:?}"
        );
        if *value == http {
            // base64 of `us:pa ss`
            let known = |asked: &String| {
                asked.to_lowercase().contains("proxy-authorization: basic")
                    && asked.contains("dXM6cGEgc3M=")
            };
            assert!(asked.iter().all(known), "{asked:?}");
        }
        check(&place.run(&["rm", &reference]).await, 0, &[]);
    }
    // The authority of a proxy that ends TLS itself can be given as that of the registry.
    let mut msb = place.msb(&["pull", "--registry-ca", ca, &reference]);
    check(
        &msb.env("HTTPS_PROXY", &http).output().await.unwrap(),
        0,
        &["new"],
    );
    let mut msb = place.msb(&["pull", &reference]);
    msb.env("HTTPS_PROXY", &http)
        .env("SSL_CERT_FILE", place.path("missing.pem"));
    let says = ["SSL_CERT_FILE names no authorities", "missing.pem"];
    check(&msb.output().await.unwrap(), 125, &says);
}

#[tokio::test]
async fn what_cannot_be_a_registry_is_told_before_anything_is_asked() {
    let place = Place::new();
    for wrong in ["http://q.io", "q.io/team", "q.io:port"] {
        let pulled = place
            .run(&["pull", "--registry-insecure", wrong, "q.io/a"])
            .await;
        check(&pulled, 125, &[wrong, "HOST or HOST:PORT"]);
    }
}

/// Kills the process at the request with this number.
fn killer(at: usize) -> (Arc<Mutex<Option<Pid>>>, impl Fn() + Send + Sync) {
    let victim: Arc<Mutex<Option<Pid>>> = Arc::default();
    let (shared, seen) = (Arc::clone(&victim), AtomicUsize::new(0));
    let on_request = move || {
        if seen.fetch_add(1, Ordering::SeqCst) + 1 == at
            && let Some(pid) = shared.lock().unwrap().take()
        {
            kill_process(pid, Signal::KILL).unwrap();
        }
    };
    (victim, on_request)
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap()
}

#[tokio::test]
async fn a_pull_that_is_killed_at_any_request_is_gone_on_with_by_the_next() {
    let root = TestRoot::new();
    // Asked for are: the interface, the index, the manifest, the configuration, two layers.
    for at in 1..=6 {
        let place = Place::new();
        let ca = place.path("ca.pem");
        fs::write(&ca, root.pem()).unwrap();
        let (victim, on_request) = killer(at);
        let registry = serve(&place, &root, on_request).await;
        let reference = format!("localhost:{}/app:1", registry.address().port());
        let pull = ["pull", "--registry-ca", ca.to_str().unwrap(), &reference];
        let killed = {
            // Held until it is known, so that no request is missed.
            let mut victim = victim.lock().unwrap();
            let child = place.msb(&pull).spawn().unwrap();
            *victim = Some(pid(&child));
            child
        };
        let killed = killed.wait_with_output().await.unwrap();
        assert_eq!(killed.status.code(), None, "{at}: {killed:?}");
        let listed = place.run(&["ls"]).await;
        check(&listed, 0, &["NAME"]);
        assert!(
            !String::from_utf8_lossy(&listed.stdout).contains("app"),
            "{listed:?}"
        );
        check(&place.run(&pull).await, 0, &["new"]);
        place.check_clean();
        check(&place.run(&["ls"]).await, 0, &[&reference]);
    }
}

#[tokio::test]
async fn a_pull_that_is_killed_while_its_disk_is_made_leaves_nothing_that_is_used() {
    let root = TestRoot::new();
    let place = Place::new();
    let ca = place.path("ca.pem");
    fs::write(&ca, root.pem()).unwrap();
    let registry = serve(&place, &root, || {}).await;
    let reference = format!("localhost:{}/app:1", registry.address().port());
    let pull = ["pull", "--registry-ca", ca.to_str().unwrap(), &reference];
    let path = place.stand_in("mksquashfs", "echo half > \"$2\"; kill -9 $PPID");
    let killed = place.msb(&pull).env("PATH", path).output().await.unwrap();
    assert_eq!(killed.status.code(), None, "{killed:?}");
    check(
        &place.run(&["inspect", &reference]).await,
        125,
        &["no image"],
    );
    check(&place.run(&pull).await, 0, &["new"]);
    place.check_clean();
}

#[tokio::test]
async fn an_import_that_is_killed_leaves_a_store_that_the_next_one_uses() {
    let place = Place::new();
    let layout = place.path("layout");
    let import = ["import", layout.to_str().unwrap(), "--name", "app"];
    // Before the layers are read again, and when all of the disk is there.
    for script in [
        "echo half > \"$2\"; kill -9 $PPID",
        "cat > \"$2\"; kill -9 $PPID",
    ] {
        let path = place.stand_in("mksquashfs", script);
        let killed = place.msb(&import).env("PATH", path).output().await.unwrap();
        assert_eq!(killed.status.code(), None, "{killed:?}");
        let left = fs::read_dir(place.store().join("tmp")).unwrap().count();
        assert!(left > 0, "it was killed with a disk half made");
        check(&place.run(&["inspect", "app"]).await, 125, &["no image"]);
        check(&place.run(&import).await, 0, &["new"]);
        place.check_clean();
        check(&place.run(&["rm", "app"]).await, 0, &[]);
    }
}

#[tokio::test]
async fn the_packer_sees_nothing_of_the_environment_and_its_complaints_are_told() {
    let place = Place::new();
    let (layout, seen) = (place.path("layout"), place.path("seen"));
    let import = ["import", layout.to_str().unwrap(), "--name", "app"];
    for (complaint, says) in [
        (
            "Write failed because No space left on device",
            "no space left for images in",
        ),
        (
            "FATAL ERROR: Out of uids!",
            "mksquashfs failed: FATAL ERROR: Out of uids!",
        ),
    ] {
        let script = format!(
            "env > {}; cat > /dev/null; echo '{complaint}' >&2; exit 1",
            seen.display()
        );
        let path = place.stand_in("mksquashfs", &script);
        let mut msb = place.msb(&import);
        let failed = msb
            .env("PATH", &path)
            .env("API_KEY", "s3cret")
            .output()
            .await
            .unwrap();
        check(&failed, 125, &[says]);
        let seen = fs::read_to_string(&seen).unwrap();
        assert!(
            seen.contains("PATH=") && !seen.contains("s3cret") && !seen.contains("MSB_HOME"),
            "{seen}"
        );
        place.check_clean();
    }
    let path = place.stand_in("mksquashfs", "cat > /dev/null; kill -9 $$");
    let failed = place
        .msb(&import)
        .env("PATH", &path)
        .output()
        .await
        .unwrap();
    check(&failed, 125, &["mksquashfs failed: signal: 9"]);
    let none = place.path("bin/none");
    let failed = place
        .msb(&import)
        .env("PATH", &none)
        .output()
        .await
        .unwrap();
    check(&failed, 125, &["install squashfs-tools"]);
    check(&place.run(&import).await, 0, &["new"]);
}

/// A small file system of the test's own, unmounted when it is dropped.
struct Small(PathBuf);

impl Drop for Small {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.0).output();
    }
}

#[tokio::test]
async fn a_disk_that_is_full_is_told_as_that_even_where_temporary_files_are_on_it_too() {
    let place = Place::new();
    let dir = place.path("small");
    fs::create_dir(&dir).unwrap();
    let mut mount = std::process::Command::new("mount");
    mount
        .args(["-t", "tmpfs", "-o", "size=200k", "tmpfs"])
        .arg(&dir);
    if !geteuid().is_root() || !mount.output().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: only root can mount a small file system to fill");
        return;
    }
    let small = Small(dir.clone());
    let layout = place.path("layout");
    let import = ["import", layout.to_str().unwrap(), "--name", "app"];
    let mut msb = place.msb(&import);
    msb.env("MSB_HOME", dir.join("store")).env("TMPDIR", &dir);
    check(
        &msb.output().await.unwrap(),
        125,
        &["no space left for images in", "MSB_HOME"],
    );
    let left: Vec<_> = fs::read_dir(dir.join("store/tmp")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    drop(small);
}

#[tokio::test]
async fn a_store_of_another_user_is_told_as_that() {
    let place = Place::new();
    let layout = place.path("layout");
    let import = ["import", layout.to_str().unwrap(), "--name", "app"];
    check(&place.run(&import).await, 0, &["new"]);
    let as_nobody = |words: &[&str]| {
        let mut msb = place.msb(words);
        msb.uid(65534);
        msb
    };
    fs::set_permissions(place.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    match as_nobody(&["--help"]).output().await {
        Ok(output) if output.status.success() => {}
        _ => {
            eprintln!("skipped: only root can be another user, to whom the program is readable");
            return;
        }
    }
    let refused = ["this user may not", "set MSB_HOME"];
    check(&as_nobody(&["ls"]).output().await.unwrap(), 125, &refused);
    // Opened to others, it can be read.
    fs::set_permissions(place.store(), fs::Permissions::from_mode(0o755)).unwrap();
    check(&as_nobody(&["ls"]).output().await.unwrap(), 0, &["app"]);
    check(&as_nobody(&import).output().await.unwrap(), 125, &refused);
    check(
        &as_nobody(&["rm", "app"]).output().await.unwrap(),
        125,
        &refused,
    );
}

#[tokio::test]
async fn a_damaged_image_hides_no_other_and_is_mended_by_importing_it_again() {
    let place = Place::new();
    let layout = place.path("layout");
    let layout = layout.to_str().unwrap();
    check(
        &place.run(&["import", layout, "--name", "app"]).await,
        0,
        &["new"],
    );
    let root = place.path("root");
    fs::create_dir(&root).unwrap();
    check(
        &place
            .run(&["import", root.to_str().unwrap(), "--name", "other"])
            .await,
        0,
        &["new"],
    );
    fs::write(place.store().join("images/app.json"), "{").unwrap();
    let listed = place.run(&["ls"]).await;
    check(
        &listed,
        0,
        &[
            "other",
            "app.json is not a manifest",
            "pull or import `app` again",
        ],
    );
    check(
        &place.run(&["inspect", "app"]).await,
        125,
        &["pull or import `app` again"],
    );
    check(
        &place.run(&["import", layout, "--name", "app"]).await,
        0,
        &["app"],
    );
    check(
        &place.run(&["inspect", "app"]).await,
        0,
        &["\"imported\": true"],
    );
}

#[tokio::test]
async fn a_directory_of_any_name_is_packed_and_not_taken_for_an_option() {
    let place = Place::new();
    let root = place.path("-version");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("file"), "text").unwrap();
    let mut msb = place.msb(&["import", "--name", "odd", "--", "-version"]);
    check(
        &msb.current_dir(place.dir.path()).output().await.unwrap(),
        0,
        &["odd", "new"],
    );
}
