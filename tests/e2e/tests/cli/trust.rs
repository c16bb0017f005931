//! `msb run --trust-host-cas`: a guest that trusts what the host trusts.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use msb_e2e::{API, Origins, PINNED, on_guests, pack, unpack_base};
use msb_testkit::TestRoot;

use crate::{Ended, Place, finish};

const VALUE: &str = "sk-canary-5f10";
/// As many private roots as a large company's machine has.
const MANY: usize = 150;

/// A host's store of its own, with `more` roots besides that of the origins.
fn host_store(dir: &Path, origins: &Origins, more: usize) -> PathBuf {
    let mut text = String::new();
    for number in 0..more {
        text += &TestRoot::named(&format!("Company Root {number}")).pem();
    }
    let _ = write!(text, "# the company's\n{}", origins.root.pem());
    let store = dir.join("host-store.pem");
    std::fs::write(&store, text).expect("a store");
    store
}

/// Runs `line` in the image `base`, with the host's store in a file.
async fn run(place: &Place, store: &Path, options: &str, line: &str) -> Ended {
    let hosts = [API, PINNED].map(|name| format!("--add-host {name}:host-gateway "));
    let args = format!("run --net public,host {}{options}", hosts.concat());
    let words = args.split_whitespace();
    let mut command = place.msb(words.chain(["base", "--", "sh", "-c", line]));
    command
        .env("SSL_CERT_FILE", store)
        .env_remove("SSL_CERT_DIR")
        .env("API_KEY", VALUE);
    finish(command, Vec::new()).await
}

#[track_caller]
fn check(ended: &Ended, code: i32, stdout: &str) {
    assert_eq!(ended.code, Some(code), "{ended:?}");
    assert_eq!(
        String::from_utf8_lossy(&ended.stdout),
        stdout,
        "{}",
        ended.stderr
    );
}

#[test]
fn a_root_of_the_host_counts_in_the_guest_only_if_asked_for() {
    on_guests(async {
        let origins = Origins::start(0).await;
        let place = Place::new();
        let dir = tempfile::tempdir().expect("a directory");
        let store = host_store(dir.path(), &origins, 2);
        let line = format!("curl -sS {}/", origins.url(PINNED));

        // What signed the certificate is unknown: curl's status 60.
        check(&run(&place, &store, "", &line).await, 60, "");

        let python = format!(
            "import urllib.request as u;print(u.urlopen(\"{}/\").read().decode(),end=\"\")",
            origins.url(PINNED)
        );
        let added = "cd /usr/local/share/ca-certificates && ls | wc -l && \
                     grep -c 'msb: begin' /etc/ssl/certs/ca-certificates.crt";
        let line = format!("{line} && python3 -c '{python}' && {added}");
        let hello = format!("hello from {PINNED}\n");
        let expected = format!("{hello}{hello}3\n3\n");
        let ended = run(&place, &store, "--trust-host-cas", &line).await;
        check(&ended, 0, &expected);
        assert_eq!(ended.stderr, "");
        place.check_nothing_is_left("after the runs");
    });
}

#[test]
fn roots_of_the_host_and_interception_add_up() {
    on_guests(async {
        let origins = Origins::start(0).await;
        let place = Place::new();
        let dir = tempfile::tempdir().expect("a directory");
        let store = host_store(dir.path(), &origins, MANY);
        // One port is intercepted, where the guest meets the sandbox's own authority; the other is not.
        let options = format!(
            "--secret API_KEY@{API} --tls-intercept-port {}",
            origins.port(API)
        );
        let issuer = "openssl x509 -noout -issuer -nameopt sep_multiline";
        let seen = |name: &str| {
            let port = origins.port(name);
            format!(
                "openssl s_client -verify_return_error -servername {name} -connect {name}:{port} \
                 </dev/null 2>/dev/null | {issuer} | tail -n 1"
            )
        };
        let line = format!(
            "curl -sS {}/ -H \"Authorization: Bearer $API_KEY\" && curl -sS {}/ && {} && {}",
            origins.url(API),
            origins.url(PINNED),
            seen(API),
            seen(PINNED)
        );
        let ended = run(
            &place,
            &store,
            &format!("{options} --trust-host-cas"),
            &line,
        )
        .await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let stdout = String::from_utf8_lossy(&ended.stdout).into_owned();
        let lines: Vec<_> = stdout.lines().collect();
        assert_eq!(
            lines[..2],
            [API, PINNED].map(|name| format!("hello from {name}")),
            "{ended:?}"
        );
        assert!(
            lines[2].contains("sandbox") && lines[3].contains("msb test root"),
            "{ended:?}"
        );
        let got = origins.api.requests()[0].only_header("authorization");
        assert_eq!(got, Some(format!("Bearer {VALUE}")));

        // Without the option the intercepted port still works, for its server is verified on the host.
        let start = Instant::now();
        let ended = run(&place, &store, &options, &line).await;
        eprintln!("{:?} without the host's roots", start.elapsed());
        check(&ended, 60, &format!("hello from {API}\n"));
        place.check_nothing_is_left("after the runs");
    });
}

/// What a boot puts authorities into, of what these tests' image has.
const TRUST: &str =
    "etc/ssl/certs/ca-certificates.crt usr/local/share/ca-certificates root/.pki/nssdb";

/// NSS's `certutil`, installed or as `cargo xtask trust-tools` has unpacked it.
fn certutil() -> Option<PathBuf> {
    let unpacked = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("trust-tools/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).chain([unpacked]);
    let found = places.find_map(|place| Some(place.join("certutil")).filter(|file| file.is_file()));
    if found.is_none() {
        eprintln!("skipped: certutil is not there: `cargo xtask trust-tools` brings it");
    }
    found
}

fn check_run(command: &mut Command) -> String {
    let output = command.output().expect("it starts");
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn a_root_that_was_booted_before_keeps_every_byte() {
    on_guests(async {
        let Some(certutil) = certutil() else { return };
        let origins = Origins::start(0).await;
        let place = Place::new();
        let dir = tempfile::tempdir().expect("a directory");
        let store = host_store(dir.path(), &origins, 2);
        let root = unpack_base(dir.path(), &[]);
        let nssdb = root.join("root/.pki/nssdb");
        std::fs::create_dir_all(&nssdb).expect("a directory");
        let nss = format!("sql:{}", nssdb.display());
        check_run(Command::new(&certutil).args(["-N", "--empty-password", "-d", &nss]));

        let mut former = Vec::new();
        for boot in 0..3 {
            let disk = pack(dir.path(), &root).display().to_string();
            let line = format!("cd / && busybox tar c $(find {TRUST} -type f | sort)");
            let args = [
                "run",
                "--trust-host-cas",
                "--rootfs",
                &disk,
                "--",
                "sh",
                "-c",
                &line,
            ];
            let mut command = place.msb(args);
            command
                .env("SSL_CERT_FILE", &store)
                .env_remove("SSL_CERT_DIR");
            let ended = finish(command, Vec::new()).await;
            assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
            // The root keeps what this boot left in it, with times and owners.
            if boot > 0 {
                assert!(ended.stdout == former, "boot {boot} changed something");
            }
            let archive = dir.path().join("trust.tar");
            std::fs::write(&archive, &ended.stdout).expect("an archive");
            let mut tar = Command::new("tar");
            check_run(tar.arg("-xf").arg(&archive).arg("-C").arg(&root));
            former = ended.stdout;
        }
        let bundle = std::fs::read_to_string(root.join("etc/ssl/certs/ca-certificates.crt"));
        let bundle = bundle.expect("a bundle");
        assert_eq!(bundle.matches("# msb: begin").count(), 3);
        let listed = check_run(Command::new(&certutil).args(["-L", "-d", &nss]));
        let trusted = |line: &&str| line.starts_with("msb-ca-") && line.trim_end().ends_with("C,,");
        assert_eq!(listed.lines().filter(trusted).count(), 3, "{listed}");
        place.check_nothing_is_left("after the boots");
    });
}
