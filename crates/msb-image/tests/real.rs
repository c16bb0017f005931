//! Images made by umoci and skopeo, out of Debian's docker-registry: root disks are what `umoci unpack` makes of them.

#[allow(dead_code, reason = "shared with the other tests, which use the rest")]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use msb_image::{Credentials, Login, PullOptions, Store};
use msb_testkit::{CertificateKind, TestRoot};
use rustls_pki_types::PrivateKeyDer;
use support::{Compressed, Layout, can_unpack, fault, listing, ordinary, run, unpacked};

const USER: &str = "user";
const PASSWORD: &str = "pass:word";

/// The programs of these tests, installed or as `cargo xtask image-tools` has unpacked them.
struct Tools(PathBuf);

impl Tools {
    /// None, with the reason told, where one is missing.
    fn find() -> Option<Self> {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("image-tools/bin");
        let tools = Self(dir);
        for program in ["docker-registry", "htpasswd", "skopeo", "umoci"] {
            if tools.command(program).arg("--help").output().is_err() {
                eprintln!("skipped: {program} is not there: `cargo xtask image-tools` brings it");
                return None;
            }
        }
        Some(tools)
    }

    fn command(&self, program: &str) -> Command {
        let unpacked = self.0.join(program);
        match unpacked.is_file() {
            true => Command::new(unpacked),
            false => Command::new(program),
        }
    }

    fn umoci(&self, args: &[&str]) {
        run(self.command("umoci").args(args));
    }

    /// Copies an image between transports of skopeo, which is told of nobody's configuration.
    fn copy(&self, home: &Path, from: &str, to: &str, options: &[&str]) {
        let mut command = self.command("skopeo");
        command.env("HOME", home).env("XDG_RUNTIME_DIR", home);
        run(command
            .arg("--insecure-policy")
            .arg("copy")
            .args(options)
            .args([from, to]));
    }
}

/// Debian's registry, ended when this is dropped.
struct Registry {
    child: Child,
    port: u16,
}

/// How a registry is guarded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Guard {
    Open,
    /// By TLS with a private authority and by a password.
    Closed,
}

impl Registry {
    fn start(tools: &Tools, dir: &Path, root: &TestRoot, guard: Guard) -> Self {
        let mut config = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
             http:\n  addr: 127.0.0.1:0\n",
            dir.join("storage").display()
        );
        if guard == Guard::Closed {
            let (chain, key) = root.issue(&["localhost"], CertificateKind::Good);
            let PrivateKeyDer::Pkcs8(key) = key else {
                panic!("a key of another form");
            };
            let chain: String = chain.iter().map(|one| pem("CERTIFICATE", one)).collect();
            fs::write(dir.join("server.pem"), chain).expect("test files");
            let key = pem("PRIVATE KEY", key.secret_pkcs8_der());
            fs::write(dir.join("server.key"), key).expect("test files");
            run(tools
                .command("htpasswd")
                .args(["-cbB"])
                .arg(dir.join("htpasswd"))
                .args([USER, PASSWORD]));
            let dir = dir.display();
            config += &format!(
                "  tls:\n    certificate: {dir}/server.pem\n    key: {dir}/server.key\n\
                 auth:\n  htpasswd:\n    realm: here\n    path: {dir}/htpasswd\n"
            );
        }
        let file = dir.join("registry.yml");
        fs::write(&file, config).expect("test files");
        let mut child = tools
            .command("docker-registry")
            .arg("serve")
            .arg(file)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a registry");
        let stderr = child.stderr.take().expect("piped");
        let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
        let port = lines
            .find_map(|line| {
                let (_, address) = line.split_once("listening on 127.0.0.1:")?;
                let digits = address.find(|c: char| !c.is_ascii_digit())?;
                address[..digits].parse().ok()
            })
            .expect("a registry that listens");
        // It would end for want of somebody who reads what it says.
        std::thread::spawn(move || lines.for_each(drop));
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

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;

    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
}

/// What `umoci unpack` makes of the image in an OCI layout.
fn by_umoci(tools: &Tools, image: &str, bundle: &Path) -> BTreeMap<String, String> {
    tools.umoci(&["unpack", "--image", image, bundle.to_str().expect("UTF-8")]);
    listing(&bundle.join("rootfs"))
}

#[track_caller]
fn check_equal(
    found: &BTreeMap<String, String>,
    expected: &BTreeMap<String, String>,
    at_least: usize,
) {
    for (path, text) in expected {
        assert_eq!(found.get(path), Some(text), "{path:?}");
    }
    let more: Vec<_> = found
        .keys()
        .filter(|path| !expected.contains_key(*path))
        .collect();
    assert!(more.is_empty(), "{more:?}");
    assert!(expected.len() >= at_least, "{}", expected.len());
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
}

/// Three layers, each the difference that umoci finds after files were changed.
fn made_by_umoci(tools: &Tools, dir: &Path) -> String {
    let layout = dir.join("made");
    let image = format!("{}:made", layout.display());
    tools.umoci(&["init", "--layout", layout.to_str().expect("UTF-8")]);
    tools.umoci(&["new", "--image", &image]);
    tools.umoci(&[
        "config",
        "--image",
        &image,
        "--architecture",
        "amd64",
        "--os",
        "linux",
        "--config.entrypoint",
        "/bin/tool",
        "--config.cmd",
        "hello",
        "--config.env",
        "A=b",
        "--config.workingdir",
        "/srv",
        "--config.user",
        "1000:7",
    ]);
    let changes: [&dyn Fn(&Path); 3] = [
        &|root| {
            for name in ["bin", "etc", "srv", "gone/deep", "opaque/below", "var/lib"] {
                fs::create_dir_all(root.join(name)).expect("a directory");
            }
            for at in 0..200_u32 {
                let text = format!("{at}").repeat(at as usize * 7);
                fs::write(root.join(format!("var/lib/{at}")), text).expect("a file");
            }
            fs::write(root.join("bin/tool"), "tool").expect("a file");
            fs::hard_link(root.join("bin/tool"), root.join("bin/again")).expect("a link");
            chown(root.join("bin/tool"), Some(1000), Some(70_000)).expect("an owner");
            set_mode(&root.join("bin/tool"), 0o6755);
            symlink("../bin/tool", root.join("srv/link")).expect("a link");
            symlink("/nowhere", root.join("srv/dangling")).expect("a link");
            set_mode(&root.join("etc"), 0o1777);
            for name in [
                "etc/gone",
                "etc/kept",
                "gone/deep/file",
                "opaque/a",
                "opaque/below/b",
            ] {
                fs::write(root.join(name), name).expect("a file");
            }
            run(Command::new("mknod")
                .arg(root.join("srv/null"))
                .args(["c", "1", "3"]));
            run(Command::new("mkfifo").arg(root.join("srv/pipe")));
            let note = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(root.join("bin/tool"), "user.note", b"a\0b\n", note)
                .expect("an attribute");
            let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            rustix::fs::setxattr(
                root.join("etc/kept"),
                "security.capability",
                &capability,
                note,
            )
            .expect("an attribute");
        },
        &|root| {
            fs::remove_file(root.join("etc/gone")).expect("removed");
            fs::remove_dir_all(root.join("gone")).expect("removed");
            fs::remove_dir_all(root.join("opaque")).expect("removed");
            fs::create_dir(root.join("opaque")).expect("a directory");
            fs::write(root.join("opaque/new"), "new").expect("a file");
            fs::remove_file(root.join("srv/link")).expect("removed");
            fs::create_dir(root.join("srv/link")).expect("a directory");
            fs::write(root.join("srv/link/inside"), "now a directory").expect("a file");
            fs::write(root.join("var/lib/7"), "other").expect("a file");
        },
        &|root| {
            fs::write(root.join("etc/gone"), "back").expect("a file");
            fs::remove_dir_all(root.join("srv/link")).expect("removed");
            fs::write(root.join("srv/link"), "now a file").expect("a file");
            set_mode(&root.join("var/lib/8"), 0o600);
        },
    ];
    for (at, change) in changes.iter().enumerate() {
        let bundle = dir.join(format!("bundle-{at}"));
        let bundle = bundle.to_str().expect("UTF-8");
        tools.umoci(&["unpack", "--image", &image, bundle]);
        change(&Path::new(bundle).join("rootfs"));
        tools.umoci(&["repack", "--image", &image, bundle]);
    }
    image
}

#[tokio::test]
async fn an_image_that_umoci_made_is_what_umoci_unpacks_by_layout_and_by_registry() {
    let (true, Some(tools)) = (can_unpack(), Tools::find()) else {
        return;
    };
    let dir = tempfile::tempdir().expect("test files");
    let image = made_by_umoci(&tools, dir.path());
    let expected = by_umoci(&tools, &image, &dir.path().join("expected"));
    let store = Store::open(dir.path().join("store"));
    let disk = |digest| store.content_path(digest);
    let imported = store
        .import(&dir.path().join("made"), &Default::default())
        .unwrap();
    let found = unpacked(
        &dir.path().join("imported"),
        &disk(&imported.manifest.content.sha256),
    );
    check_equal(&found, &expected, 200);

    let root = TestRoot::new();
    let registry = Registry::start(&tools, dir.path(), &root, Guard::Open);
    let name = format!("127.0.0.1:{}/team/made:1", registry.port);
    let to = format!("docker://{name}");
    for (format, store) in [("oci", "first"), ("v2s2", "second")] {
        // Docker's own media types, too.
        let options = ["--dest-tls-verify=false", "--format", format];
        tools.copy(dir.path(), &format!("oci:{image}"), &to, &options);
        let store = Store::open(dir.path().join(store));
        let options = PullOptions {
            login: Login::Anonymous,
            ..PullOptions::default()
        };
        let pulled = store.pull(&name.parse().unwrap(), &options).await.unwrap();
        assert!(pulled.is_new);
        let disk = store.content_path(&pulled.manifest.content.sha256);
        let found = unpacked(&dir.path().join(format!("pulled-{format}")), &disk);
        check_equal(&found, &expected, 200);
        let config = pulled.manifest.config;
        assert_eq!(config.command(&[]), ["/bin/tool", "hello"]);
        assert_eq!(
            (config.working_dir.as_str(), config.user.as_str()),
            ("/srv", "1000:7")
        );
        assert!(config.env.contains(&"A=b".to_owned()), "{config:?}");
    }
}

#[tokio::test]
async fn whiteouts_and_opaque_directories_come_over_tls_to_who_knows_the_password() {
    let (true, Some(tools)) = (can_unpack(), Tools::find()) else {
        return;
    };
    let dir = tempfile::tempdir().expect("test files");
    let root = TestRoot::new();
    let ca = dir.path().join("ca.pem");
    fs::write(&ca, root.pem()).expect("test files");
    let registry = Registry::start(&tools, dir.path(), &root, Guard::Closed);
    let name = format!("localhost:{}/made:by-hand", registry.port);
    let layout = Layout::new(&dir.path().join("layout"), &ordinary(), Compressed::Gzip);
    let named = format!("oci:{}:tag", dir.path().join("named").display());
    tools.copy(
        dir.path(),
        &format!("oci:{}", layout.path().display()),
        &named,
        &[],
    );
    let credentials = format!("--dest-creds={USER}:{PASSWORD}");
    let options = ["--dest-tls-verify=false", credentials.as_str()];
    tools.copy(dir.path(), &named, &format!("docker://{name}"), &options);

    let known = |password: &str| Login::As(Credentials::new(USER, password.to_owned().into()));
    for (login, with_ca, says) in [
        (known(PASSWORD), true, None),
        (
            known("another"),
            true,
            Some("does not accept the credentials"),
        ),
        (Login::Anonymous, true, Some("wants credentials")),
        (known(PASSWORD), false, Some("--registry-ca")),
    ] {
        let store = Store::open(dir.path().join(format!("store {says:?}")));
        let options = PullOptions {
            login,
            ca_files: with_ca.then(|| ca.clone()).into_iter().collect(),
            ..PullOptions::default()
        };
        match (store.pull(&name.parse().unwrap(), &options).await, says) {
            (Ok(pulled), None) => {
                let disk = store.content_path(&pulled.manifest.content.sha256);
                let found = unpacked(&dir.path().join("pulled"), &disk);
                let image = named.trim_start_matches("oci:");
                let expected = by_umoci(&tools, image, &dir.path().join("expected"));
                check_equal(&found, &expected, 40);
            }
            (Err(error), Some(says)) => {
                let text = fault(&error);
                assert!(text.contains(says) && !text.contains("another"), "{text}");
            }
            (outcome, _) => panic!("{says:?}: {:?}", outcome.map_err(|error| fault(&error))),
        }
    }
    let missing = format!("localhost:{}/made:missing", registry.port);
    let options = PullOptions {
        login: known(PASSWORD),
        ca_files: vec![ca],
        ..PullOptions::default()
    };
    let store = Store::open(dir.path().join("store"));
    let error = store
        .pull(&missing.parse().unwrap(), &options)
        .await
        .unwrap_err();
    assert!(
        fault(&error).contains("has no manifest of it (404)"),
        "{}",
        fault(&error)
    );
}
