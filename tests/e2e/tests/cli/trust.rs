//! `msb run --trust-host-cas`: a guest that trusts what the host trusts.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Instant;

use msb_e2e::{API, Origins, PINNED, on_guests};
use msb_testkit::TestRoot;

use crate::{Ended, Place, finish};

const VALUE: &str = "sk-canary-5f10";
/// As many private roots as a large company's machine has.
const MANY: usize = 150;

/// A host's store of its own, with `more` roots besides that of the origins.
fn host_store(dir: &Path, origins: &Origins, more: usize) -> std::path::PathBuf {
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
