//! A whole store of roots, as of a host: what the guest has already is not added, what is no longer wanted goes.

use msb_guest_trust::{CaCertificate, environment};

use crate::support::{Root, authority, lookup};

const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
const ANCHORS: &str = "/usr/local/share/ca-certificates";
const CA_FILE: &str = "/run/msb/trust/ca.pem";

fn many(count: usize) -> Vec<CaCertificate> {
    (0..count)
        .map(|number| authority(&format!("Company Root {number}")))
        .collect()
}

/// A Debian root that trusts `own`.
fn debian(own: &str) -> Root {
    let root = Root::new();
    root.file("/etc/debian_version", "12.8\n")
        .directory(ANCHORS)
        .file(BUNDLE, own);
    root
}

fn anchors(root: &Root) -> usize {
    std::fs::read_dir(root.outside(ANCHORS)).unwrap().count()
}

/// The same certificate in lines of another length, which no search for text would find.
fn in_long_lines(ca: &CaCertificate) -> String {
    let pem = ca.pem();
    let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let (first, rest) = body.split_at(76);
    format!("-----BEGIN CERTIFICATE-----\r\n{first}\r\n{rest} \r\n-----END CERTIFICATE-----\r\n")
}

#[test]
fn only_what_the_guest_lacks_is_added() {
    let roots = many(5);
    let own = format!("# own\n{}{}", in_long_lines(&roots[1]), roots[3].pem());
    let root = debian(&own);
    let report = root.boot(&roots);
    assert_eq!(report.failed, []);
    assert_eq!(anchors(&root), 3);
    let bundle = root.read(BUNDLE);
    assert!(bundle.starts_with(own.as_bytes()));
    assert_eq!(CaCertificate::from_pem(&bundle).unwrap().len(), 5);
    // Clients that do not read the bundle have none of them.
    let ca_file = CaCertificate::from_pem(&root.read(CA_FILE)).unwrap();
    assert_eq!(ca_file, roots);
}

#[test]
fn what_the_guest_has_is_still_named_to_clients_with_a_bundle_of_their_own() {
    let roots = many(2);
    let root = debian(&(roots[0].pem() + &roots[1].pem()));
    let before = root.snapshot();
    let report = root.boot(&roots);
    assert_eq!(report.failed, []);
    assert_eq!(root.snapshot(), before);
    let set = environment(&report.trusted, &lookup(&[]));
    for (name, value) in [
        ("SSL_CERT_FILE", BUNDLE),
        ("REQUESTS_CA_BUNDLE", BUNDLE),
        ("NODE_EXTRA_CA_CERTS", CA_FILE),
    ] {
        assert!(
            set.contains(&(name.to_owned(), value.to_owned())),
            "{set:?}"
        );
    }
}

#[test]
fn a_store_that_changes_leaves_only_what_it_holds_now() {
    let own = authority("Image Root");
    let roots = many(150);
    let root = debian(&own.pem());
    let before = root.snapshot();
    let sandbox = |number: usize| authority(&format!("msb sandbox {number}"));
    let mut booted = Vec::new();
    for (number, store) in [&roots[..], &roots[10..], &roots[..0], &roots[..]]
        .into_iter()
        .enumerate()
    {
        let cas: Vec<_> = std::iter::once(sandbox(number))
            .chain(store.iter().cloned())
            .collect();
        for again in [false, true] {
            let report = root.boot(&cas);
            assert_eq!(report.failed, []);
            assert_eq!(anchors(&root), cas.len());
            let trusted = CaCertificate::from_pem(&root.read(BUNDLE)).unwrap();
            assert_eq!(trusted[1..], cas);
            let snapshot = root.snapshot();
            if again {
                assert_eq!(booted.last(), Some(&snapshot), "boot {number}");
            }
            booted.push(snapshot);
        }
    }
    let _ = root.boot(&[]);
    let content = |entries: &std::collections::BTreeMap<_, (String, Vec<u8>)>| {
        let entries = entries.iter();
        entries
            .map(|(path, (_, content))| (std::path::PathBuf::clone(path), content.clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(content(&root.snapshot()), content(&before));
}

#[test]
fn a_bundle_of_the_users_own_gets_what_no_client_has() {
    let roots = many(2);
    let root = debian(&roots[0].pem());
    root.file("/opt/bundle.pem", authority("User Root").pem());
    let report = root.boot_with(&roots, &[("PIP_CERT", "/opt/bundle.pem")]);
    assert_eq!(report.failed, []);
    for ca in &roots {
        assert_eq!(root.count("/opt/bundle.pem", ca), 1);
    }
}
