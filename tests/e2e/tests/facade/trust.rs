//! What programs of an image trust when TLS is intercepted, whatever the image holds. Programs of more kinds are tried by
//! `cargo xtask trust`.

use msb::Event;
use msb_e2e::{API, Guest, Origins, PINNED, on_guests, pack, unpack_base};

/// Programs of the image `base`, each with what it takes to be refused by its own words.
const PROGRAMS: &[&str] = &[
    "curl -sS {url}/",
    "printf 'GET / HTTP/1.0\\r\\nHost: {host}\\r\\n\\r\\n' | openssl s_client -quiet \
     -verify_return_error -servername {name} -connect {host}",
    "python3 -c 'import sys,urllib.request as u; print(u.urlopen(sys.argv[1]).read().decode())' {url}/",
];

/// Without the variables that msb sets.
fn bare(line: &str) -> String {
    let line = line.replace('\'', r"'\''");
    format!("env -i PATH=\"$PATH\" HOME=/root sh -c '{line}'")
}

fn line(program: &str, origins: &Origins, name: &str) -> String {
    program
        .replace("{url}", &origins.url(name))
        .replace("{host}", &format!("{name}:{}", origins.port(name)))
        .replace("{name}", name)
}

/// Every program reaches the intercepted server, with and without variables, and refuses the one it has no reason to
/// trust.
async fn check(guest: &Guest, origins: &Origins, programs: &[&str]) {
    for program in programs {
        let trusted = line(program, origins, API);
        for line in [trusted.clone(), bare(&trusted)] {
            let ran = guest.sh(&line).await;
            ran.check("trusted", 0, &format!("hello from {API}"), "");
        }
        let ran = guest.sh(&line(program, origins, PINNED)).await;
        assert!(ran.code != 0 && !ran.stdout.contains("hello"), "{ran:?}");
    }
}

fn warnings(guest: &Guest) -> Vec<String> {
    let events = guest.events().into_iter();
    events
        .filter_map(|event| match event {
            Event::Warning(text) => Some(text),
            _ => None,
        })
        .collect()
}

#[test]
fn programs_trust_the_sandbox_with_and_without_its_variables() {
    on_guests(async {
        let origins = Origins::start(0).await;
        let guest = Guest::boot("worker", |builder| builder.network(|n| origins.network(n))).await;
        assert_eq!(warnings(&guest), Vec::<String>::new());
        check(&guest, &origins, PROGRAMS).await;
        guest.stop().await;
    });
}

#[test]
fn an_image_without_any_authorities_gets_mozillas_and_the_sandboxs() {
    on_guests(async {
        let origins = Origins::start(0).await;
        let dir = tempfile::tempdir().expect("a directory");
        let root = unpack_base(dir.path(), &[]);
        for trust in ["etc/ssl/certs", "usr/share/ca-certificates"] {
            std::fs::remove_dir_all(root.join(trust)).expect("the image has some");
        }
        let disk = pack(dir.path(), &root);
        let guest = Guest::boot("worker", |builder| {
            builder.rootfs(&disk).network(|n| origins.network(n))
        })
        .await;
        assert_eq!(warnings(&guest), Vec::<String>::new());
        check(&guest, &origins, &PROGRAMS[..1]).await;
        let count = "grep -c 'BEGIN CERTIFICATE' /etc/ssl/certs/ca-certificates.crt";
        let count: usize = guest
            .sh(count)
            .await
            .stdout
            .trim()
            .parse()
            .expect("a count");
        assert!(count > 100, "{count}");
        guest.stop().await;
    });
}

#[test]
fn an_image_of_one_static_program_boots_and_gets_a_bundle() {
    on_guests(async {
        let origins = Origins::start(0).await;
        let dir = tempfile::tempdir().expect("a directory");
        let root = unpack_base(dir.path(), &["usr/bin/busybox"]);
        std::os::unix::fs::symlink("usr/bin", root.join("bin")).expect("a link");
        std::os::unix::fs::symlink("busybox", root.join("usr/bin/sh")).expect("a link");
        let disk = pack(dir.path(), &root);
        let guest = Guest::boot("worker", |builder| {
            builder.rootfs(&disk).network(|n| origins.network(n))
        })
        .await;
        assert_eq!(warnings(&guest), Vec::<String>::new());
        let ca = guest
            .sandbox
            .ca_certificate()
            .expect("an authority")
            .to_owned();
        for variable in ["SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"] {
            let ran = guest.sh(&format!("busybox cat ${variable}")).await;
            ran.check(variable, 0, ca.trim_end(), "");
        }
        guest.stop().await;
    });
}
