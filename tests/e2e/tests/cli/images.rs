//! Images made here, imported and booted.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use http::Response;
use http_body_util::Full;
use msb::image::{Digest, Store};
use msb_e2e::on_guests;
use msb_testkit::{CertificateKind, Origin, RecordedRequest, TestRoot};

use crate::{Ended, OWN_FAILURE, Place, finish, list};

/// What the test's image runs: the tree as the guest sees it.
const SHOW: &str = "ls -ln /srv /etc/kept; cat /srv/new; pwd; echo $GREETING; test -e /etc/gone || echo hidden; id -un";

/// A place whose store has its files for itself: removing images there must not remove those of others.
fn place() -> Place {
    let place = Place::new();
    let files = place.home.path().join("files");
    let shared = fs::read_link(&files).expect("a link to the real store's");
    fs::remove_file(&files).expect("removed");
    fs::create_dir(&files).expect("a directory");
    for name in list(&shared) {
        let (from, to) = (shared.join(&name), files.join(&name));
        if fs::hard_link(&from, &to).is_err() {
            fs::copy(&from, &to).expect("a copy");
        }
    }
    place
}

/// A directory for the parts of an image, and GNU tar's archive of it with this owner.
fn layer(dir: &Path, owner: u32, fill: impl FnOnce(&Path)) -> Vec<u8> {
    fs::create_dir_all(dir).expect("a directory");
    fill(dir);
    let output = Command::new("tar")
        .args(["--numeric-owner", "--sort=name", "--mtime=@1000000000"])
        .args([format!("--owner={owner}"), format!("--group={owner}")])
        .args(["-cf", "-", "-C"])
        .arg(dir)
        .arg(".")
        .output()
        .expect("tar");
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

/// An OCI layout of two layers: busybox and some files, and over them a whiteout and a file.
fn layout(place: &Place) -> PathBuf {
    let dir = place.home.path().join("made");
    let base = Store::open(place.home.path())
        .root_disk("base")
        .expect("base");
    let unpacked = dir.join("base");
    fs::create_dir(&dir).expect("a directory");
    let output = Command::new("unsquashfs")
        .args(["-q", "-n", "-d"])
        .arg(&unpacked)
        .arg(&base.path)
        .args(["usr/bin/busybox"])
        .output()
        .expect("unsquashfs");
    assert!(output.status.success(), "{output:?}");
    let lower = layer(&dir.join("lower"), 0, |root| {
        for name in ["bin", "etc", "srv"] {
            fs::create_dir(root.join(name)).expect("a directory");
        }
        fs::copy(unpacked.join("usr/bin/busybox"), root.join("bin/busybox")).expect("busybox");
        for name in ["sh", "ls", "cat", "id"] {
            symlink("busybox", root.join("bin").join(name)).expect("a link");
        }
        for name in ["gone", "kept"] {
            fs::write(root.join("etc").join(name), name).expect("a file");
        }
        let users = "keeper:x:7:7::/srv:/bin/sh\n";
        fs::write(root.join("etc/passwd"), users).expect("a file");
    });
    let upper = layer(&dir.join("upper"), 7, |root| {
        fs::create_dir(root.join("etc")).expect("a directory");
        fs::create_dir(root.join("srv")).expect("a directory");
        fs::write(root.join("etc/.wh.gone"), "").expect("a file");
        let new = root.join("srv/new");
        fs::write(&new, "of the upper layer\n").expect("a file");
        fs::set_permissions(&new, fs::Permissions::from_mode(0o640)).expect("a mode");
    });
    write_layout(&place.home.path().join("layout"), &[lower, upper])
}

fn write_layout(dir: &Path, layers: &[Vec<u8>]) -> PathBuf {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("a directory");
    let put = |kind: &str, bytes: &[u8]| {
        let digest = Digest::of(bytes).to_string();
        fs::write(blobs.join(&digest), bytes).expect("a blob");
        let size = bytes.len();
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.{kind}","digest":"sha256:{digest}","size":{size}}}"#
        )
    };
    let ids = layers
        .iter()
        .map(|layer| format!(r#""sha256:{}""#, Digest::of(layer)));
    let ids = ids.collect::<Vec<_>>().join(",");
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":[{ids}]}},
            "config":{{"Entrypoint":["/bin/sh","-c"],"Cmd":["{SHOW}"],"WorkingDir":"/made/for/this","User":"keeper",
                       "Env":["PATH=/bin","GREETING=hello"]}}}}"#
    );
    let config = put("config.v1+json", config.as_bytes());
    let layers = layers.iter().map(|layer| put("layer.v1.tar", layer));
    let layers = layers.collect::<Vec<_>>().join(",");
    let manifest = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layers}]}}"#);
    let manifest = put("manifest.v1+json", manifest.as_bytes());
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{manifest}]}}"#);
    fs::write(dir.join("index.json"), index).expect("an index");
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("a marker");
    dir.to_owned()
}

#[track_caller]
fn says(ended: &Ended, code: i32, parts: &[&str]) {
    let text = String::from_utf8_lossy(&ended.stdout) + ended.stderr.as_str();
    assert_eq!(ended.code, Some(code), "{text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} in {text}");
    }
}

#[test]
fn an_image_of_two_layers_is_what_the_guest_sees_and_runs_as_it_says() {
    on_guests(async {
        let place = place();
        let path = layout(&place);
        let path = path.to_str().expect("UTF-8");
        let run = |args: &[&str]| finish(place.msb(args.iter().copied()), Vec::new());
        says(
            &run(&["image", "import", path, "--name", "two"]).await,
            0,
            &["two"],
        );
        let shown = [
            "-rw-r-----",
            " 7        7 ",
            "of the upper layer",
            "/etc/kept",
            "/made/for/this",
            "hello",
            "hidden",
            "keeper",
        ];
        says(&run(&["run", "two"]).await, 0, &shown);
        let own = [
            "run",
            "--env",
            "GREETING=mine",
            "two",
            "--",
            "echo own $GREETING; exit 3",
        ];
        says(&run(&own).await, 3, &["own mine"]);
        // The same image by its path: nothing is made again, and its disk is shared.
        says(
            &run(&["run", path, "--", "echo by path"]).await,
            0,
            &["by path"],
        );
        let files = list(&place.home.path().join("files")).len();
        says(&run(&["image", "rm", "two"]).await, 0, &[]);
        assert_eq!(list(&place.home.path().join("files")).len(), files);
        says(
            &run(&["image", "rm", "base"]).await,
            OWN_FAILURE,
            &["was not imported"],
        );
        says(
            &run(&["image", "inspect", "two"]).await,
            OWN_FAILURE,
            &["no image `two`"],
        );
    });
}

/// A registry on this machine that serves a layout as `app:1`, over TLS.
async fn serve(layout: PathBuf, root: &TestRoot) -> Origin {
    let config = root.server(&["localhost"], CertificateKind::Good);
    let answer = move |request: &RecordedRequest| {
        let (media_type, file) = match request.target.strip_prefix("/v2/app/") {
            Some("manifests/1") => ("index.v1+json", layout.join("index.json")),
            Some(other) => {
                let digest = other.rsplit(':').next().unwrap_or_default();
                ("manifest.v1+json", layout.join("blobs/sha256").join(digest))
            }
            None => ("", layout.join("oci-layout")),
        };
        let bytes = fs::read(file);
        let status = if bytes.is_ok() { 200 } else { 404 };
        Response::builder()
            .status(status)
            .header(
                "content-type",
                format!("application/vnd.oci.image.{media_type}"),
            )
            .body(Full::new(bytes.unwrap_or_default().into()))
            .expect("an answer")
    };
    Origin::start_with(config, Arc::new(answer)).await
}

#[test]
fn an_image_is_pulled_by_its_reference_when_it_is_first_run() {
    on_guests(async {
        let place = place();
        let root = TestRoot::new();
        let registry = serve(layout(&place), &root).await;
        let ca = place.home.path().join("ca.pem");
        fs::write(&ca, root.pem()).expect("a file");
        let ca = ca.to_str().expect("UTF-8");
        let reference = format!("localhost:{}/app:1", registry.address().port());
        let run = |args: &[&str]| finish(place.msb(args.iter().copied()), Vec::new());
        let untrusted = run(&["run", &reference]).await;
        says(
            &untrusted,
            OWN_FAILURE,
            &["cannot pull localhost", "--registry-ca"],
        );
        let trusted = [
            "run",
            "--registry-ca",
            ca,
            &reference,
            "--",
            "echo is $GREETING",
        ];
        says(
            &run(&trusted).await,
            0,
            &["pulling", "layer 2 of 2", "is hello"],
        );
        let asked = registry.requests().len();
        // By now it is in the store, and nobody is asked.
        says(&run(&["run", &reference]).await, 0, &["of the upper layer"]);
        assert_eq!(registry.requests().len(), asked);
        let again = run(&["image", "pull", "--registry-ca", ca, &reference]).await;
        says(&again, 0, &["known already", &reference]);
        says(&run(&["image", "ls"]).await, 0, &[&reference]);
        says(
            &run(&["image", "inspect", &reference]).await,
            0,
            &["GREETING=hello"],
        );
        says(&run(&["image", "rm", &reference]).await, 0, &[]);
        says(
            &run(&["image", "rm", &reference]).await,
            OWN_FAILURE,
            &["no image"],
        );
    });
}

#[test]
fn what_could_be_a_file_or_a_reference_is_not_guessed() {
    on_guests(async {
        let place = place();
        let dir = place.home.path().join("here");
        fs::create_dir_all(dir.join("team")).expect("a directory");
        fs::write(dir.join("team/app"), "").expect("a file");
        let mut msb = place.msb(["run", "team/app"]);
        let ended = finish(
            {
                msb.current_dir(&dir);
                msb
            },
            Vec::new(),
        )
        .await;
        let both = ["./team/app", "docker.io/team/app:latest"];
        says(&ended, OWN_FAILURE, &both);
    });
}

#[test]
fn an_ext4_file_is_a_root_that_no_guest_changes() {
    on_guests(async {
        let place = place();
        let tree = place.home.path().join("tree");
        layout(&place);
        let lower = place.home.path().join("made/lower");
        fs::rename(&lower, &tree).expect("moved");
        let disk = place.home.path().join("disk.ext4");
        let made = Command::new("mkfs.ext4")
            .args(["-q", "-d"])
            .arg(&tree)
            .arg(&disk)
            .arg("32M")
            .output();
        match made {
            Ok(output) => assert!(output.status.success(), "{output:?}"),
            Err(_) => {
                eprintln!("skipped: mkfs.ext4 is not installed");
                return;
            }
        }
        let before = Digest::of(&fs::read(&disk).expect("a disk"));
        let disk = disk.to_str().expect("UTF-8");
        let script =
            "cat /etc/kept; test -e /etc/new && echo again; echo x > /etc/new && cat /etc/new";
        for _ in 0..2 {
            let command = ["run", disk, "--", "/bin/sh", "-c", script];
            let ended = finish(place.msb(command), Vec::new()).await;
            says(&ended, 0, &["kept", "x\n"]);
            assert!(!String::from_utf8_lossy(&ended.stdout).contains("again"));
        }
        let command = ["run", "--rootfs", disk, "--", "/bin/cat", "/etc/kept"];
        says(&finish(place.msb(command), Vec::new()).await, 0, &["kept"]);
        assert_eq!(Digest::of(&fs::read(disk).expect("a disk")), before);
    });
}

#[test]
fn a_directory_a_squashfs_file_and_a_docker_archive_are_roots_too() {
    on_guests(async {
        let place = place();
        layout(&place);
        let made = place.home.path().join("made");
        let (tree, squashfs) = (made.join("lower"), made.join("root.squashfs"));
        run_tool(Command::new("mksquashfs").args([&tree, &squashfs]));
        let archive = docker_archive(&place.home.path().join("layout"), &made.join("saved"));
        let script = "cat /etc/kept; test -e /etc/gone && echo shown || echo hidden; echo x > /etc/kept && cat /etc/kept";
        for (path, gone) in [(&tree, "shown"), (&squashfs, "shown"), (&archive, "hidden")] {
            let path = path.to_str().expect("UTF-8");
            let command: &[&str] = match gone {
                // Its entrypoint is a shell.
                "hidden" => &["run", "-u", "0", path, "--", script],
                _ => &["run", path, "--", "/bin/sh", "-c", script],
            };
            let ended = finish(place.msb(command.iter().copied()), Vec::new()).await;
            says(&ended, 0, &["kept", gone, "x\n"]);
        }
        // Nothing of what the guests wrote went into where they came from.
        assert_eq!(fs::read(tree.join("etc/kept")).expect("a file"), b"kept");
    });
}

/// The layout as `docker save` wrote images before it wrote layouts.
fn docker_archive(layout: &Path, dir: &Path) -> PathBuf {
    let json = |name: &Path| -> serde_json::Value {
        serde_json::from_slice(&fs::read(name).expect("a document")).expect("JSON")
    };
    let blob = |descriptor: &serde_json::Value| {
        let digest = descriptor["digest"].as_str().expect("a digest");
        layout
            .join("blobs/sha256")
            .join(digest.trim_start_matches("sha256:"))
    };
    let manifest = json(&blob(&json(&layout.join("index.json"))["manifests"][0]));
    fs::create_dir_all(dir).expect("a directory");
    fs::copy(blob(&manifest["config"]), dir.join("config.json")).expect("a copy");
    let mut names = Vec::new();
    for (at, layer) in manifest["layers"]
        .as_array()
        .expect("layers")
        .iter()
        .enumerate()
    {
        let name = format!("{at}.tar");
        fs::copy(blob(layer), dir.join(&name)).expect("a copy");
        names.push(name);
    }
    let images = serde_json::json!([{"Config": "config.json", "RepoTags": null, "Layers": names}]);
    fs::write(dir.join("manifest.json"), images.to_string()).expect("a file");
    let archive = dir.with_extension("tar");
    run_tool(
        Command::new("tar")
            .arg("-cf")
            .arg(&archive)
            .arg("-C")
            .arg(dir)
            .arg("."),
    );
    archive
}

#[track_caller]
fn run_tool(command: &mut Command) {
    let output = command.output().expect("a program");
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// A program of `cargo xtask image-tools`, or an installed one. None, with the reason told, where there is none.
fn tool(name: &str) -> Option<Command> {
    let unpacked = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .with_file_name("image-tools/bin")
        .join(name);
    let program = if unpacked.is_file() {
        unpacked
    } else {
        name.into()
    };
    if Command::new(&program).arg("--help").output().is_err() {
        eprintln!("skipped: {name} is not there: `cargo xtask image-tools` brings it");
        return None;
    }
    Some(Command::new(program))
}

/// Debian's registry, ended when this is dropped.
struct Registry {
    child: std::process::Child,
    port: u16,
}

impl Registry {
    fn start(mut program: Command, dir: &Path) -> Self {
        let config = dir.join("registry.yml");
        let storage = dir.join("storage");
        let text = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:0\n",
            storage.display()
        );
        fs::write(&config, text).expect("a file");
        let program = program
            .arg("serve")
            .arg(config)
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = program.spawn().expect("a registry");
        let stderr = child.stderr.take().expect("piped");
        let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
        let port = lines.find_map(|line| {
            let (_, address) = line.split_once("listening on 127.0.0.1:")?;
            let digits = address.find(|c: char| !c.is_ascii_digit())?;
            address[..digits].parse().ok()
        });
        // It would end for want of somebody who reads what it says.
        std::thread::spawn(move || lines.for_each(drop));
        let port = port.expect("a registry that listens");
        Self { child, port }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Both fail only when it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_debian_that_umoci_and_skopeo_put_into_debians_registry_runs() {
    on_guests(async {
        let (Some(server), Some(umoci), Some(mut skopeo)) =
            (tool("docker-registry"), tool("umoci"), tool("skopeo"))
        else {
            return;
        };
        let place = place();
        let dir = place.home.path().join("debian");
        fs::create_dir(&dir).expect("a directory");
        let base = Store::open(place.home.path())
            .root_disk("base")
            .expect("base");
        let (root, layout, gone) = (dir.join("root"), dir.join("layout"), dir.join("gone"));
        run_tool(
            Command::new("unsquashfs")
                .args(["-q", "-n", "-d"])
                .arg(&root)
                .arg(&base.path),
        );
        // Half of it is not needed, and takes its time to pack.
        for large in ["usr/lib/python3.11", "usr/lib/x86_64-linux-gnu/gconv"] {
            fs::remove_dir_all(root.join(large)).expect("removed");
        }
        let image = format!("{}:made", layout.display());
        let umoci = |args: &[&str]| {
            let mut umoci = Command::new(umoci.get_program());
            run_tool(umoci.args(args));
        };
        let path = |path: &Path| path.to_str().expect("UTF-8").to_owned();
        umoci(&["init", "--layout", &path(&layout)]);
        umoci(&["new", "--image", &image]);
        umoci(&["insert", "--image", &image, &path(&root), "/"]);
        // Two more layers: a file goes, a directory comes in the place of another.
        umoci(&["insert", "--image", &image, "--whiteout", "/etc/issue"]);
        fs::create_dir(&gone).expect("a directory");
        fs::write(gone.join("only"), "this").expect("a file");
        umoci(&[
            "insert",
            "--image",
            &image,
            "--opaque",
            &path(&gone),
            "/usr/share/doc",
        ]);
        umoci(&[
            "config",
            "--image",
            &image,
            "--architecture",
            "amd64",
            "--os",
            "linux",
        ]);
        let user = [
            "--config.user",
            "nobody",
            "--config.workingdir",
            "/srv/made",
        ];
        umoci(&[&["config", "--image", &image], &user[..]].concat());
        let registry = Registry::start(server, &dir);
        let reference = format!("127.0.0.1:{}/team/debian:12", registry.port);
        run_tool(
            skopeo
                .env("HOME", &dir)
                .args(["--insecure-policy", "copy", "--dest-tls-verify=false"])
                .args([format!("oci:{image}"), format!("docker://{reference}")]),
        );
        let script = "cat /etc/debian_version; id -un; pwd; ls /usr/share/doc; test -e /etc/issue || echo hidden; \
                      dpkg --audit && echo sound; stat -c '%a %u' /tmp";
        let command = ["run", &reference, "--", "/bin/sh", "-c", script];
        let ended = finish(place.msb(command), Vec::new()).await;
        says(
            &ended,
            0,
            &[
                "layer 3 of 3",
                "12",
                "nobody\n/srv/made\nonly\nhidden\nsound\n1777 0\n",
            ],
        );
    });
}
