//! Databases of NSS where browsers keep them, judged by NSS's own `certutil` and `vfychain`.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use msb_guest_trust::{CaCertificate, Problem, Purpose};
use proptest::prelude::*;
use rusqlite::Connection;

use crate::support::{Authority, Root, authority, tool};

/// NSS's tools on the databases of one root.
struct Nss<'a> {
    root: &'a Root,
    tools: [PathBuf; 3],
}

impl<'a> Nss<'a> {
    fn new(root: &'a Root) -> Option<Self> {
        let tools = ["certutil", "vfychain", "modutil"].map(|name| tool("trust-tools", name));
        let [Some(certutil), Some(vfychain), Some(modutil)] = tools else {
            return None;
        };
        Some(Self {
            root,
            tools: [certutil, vfychain, modutil],
        })
    }

    fn run(&self, tool: usize, directory: &str, options: &[&str]) -> Output {
        let directory = self.root.outside(directory);
        Command::new(&self.tools[tool])
            .args(["-d", &format!("sql:{}", directory.display())])
            .args(options)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    #[track_caller]
    fn certutil(&self, directory: &str, options: &[&str]) -> String {
        let output = self.run(0, directory, options);
        assert!(
            output.status.success(),
            "{directory} {options:?}: {output:?}"
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Makes a database of one of the [`KINDS`].
    fn create(&self, directory: &str, kind: &str) {
        self.root.directory(directory);
        match kind {
            "empty password" => {
                self.certutil(directory, &["-N", "--empty-password"]);
            }
            "no password yet" => {
                let at = format!("sql:{}", self.root.outside(directory).display());
                let mut modutil = Command::new(&self.tools[2]);
                modutil.args(["-create", "-force", "-dbdir", &at]);
                assert!(modutil.output().unwrap().status.success());
            }
            "with others" => {
                self.certutil(directory, &["-N", "--empty-password"]);
                for (name, trust) in [("one", "C,,"), ("two", "p,,"), ("three", ",,")] {
                    self.import(directory, &authority(name), name, trust);
                }
            }
            _ => unreachable!("{kind}"),
        }
    }

    fn import(&self, directory: &str, ca: &CaCertificate, name: &str, trust: &str) {
        self.root.file("/import.pem", ca.pem());
        let file = self.root.outside("/import.pem");
        let file = file.to_str().unwrap();
        self.certutil(
            directory,
            &["-A", "-a", "-n", name, "-t", trust, "-i", file],
        );
    }

    /// Nicknames with what each is trusted for.
    fn list(&self, directory: &str) -> Vec<(String, String)> {
        let text = self.certutil(directory, &["-L"]);
        let entries = text.lines().filter_map(|line| {
            let (name, trust) = line.trim_end().rsplit_once(' ')?;
            (trust.matches(',').count() == 2).then(|| (name.trim().to_owned(), trust.to_owned()))
        });
        let mut entries: Vec<_> = entries
            .filter(|(name, _)| !name.contains("Certificate Nickname"))
            .filter(|(_, trust)| !trust.starts_with("SSL"))
            .collect();
        entries.sort();
        entries
    }

    /// Whether NSS takes what this authority signed for a server's certificate.
    fn verifies(&self, directory: &str, ca: &Authority) -> bool {
        self.root.file("/leaf.pem", ca.leaf_pem());
        let leaf = self.root.outside("/leaf.pem");
        let output = self.run(1, directory, &["-u", "1", "-a", leaf.to_str().unwrap()]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            said.contains("Chain is good!") || said.contains("Chain is bad!"),
            "{output:?}"
        );
        said.contains("Chain is good!")
    }
}

/// As certutil and Firefox make them, and as modutil does, whose password was never set.
const KINDS: &[&str] = &["empty password", "no password yet", "with others"];

const DIRECTORY: &str = "/root/.pki/nssdb";

fn name(ca: &CaCertificate) -> String {
    format!("msb-ca-{}", &ca.fingerprint()[..16])
}

#[test]
fn nss_trusts_the_authority_of_this_boot_and_no_other() {
    for kind in KINDS {
        let root = Root::new();
        let Some(nss) = Nss::new(&root) else { return };
        nss.create(DIRECTORY, kind);
        let before = nss.list(DIRECTORY);
        let (first, second) = (
            Authority::new("msb sandbox CA"),
            Authority::new("msb sandbox CA"),
        );
        assert!(!nss.verifies(DIRECTORY, &first), "{kind}");
        for (this, other) in [(&first, &second), (&second, &first)] {
            let report = root.boot(std::slice::from_ref(&this.certificate));
            assert_eq!(report.failed, [], "{kind}");
            assert!(nss.verifies(DIRECTORY, this), "{kind}");
            assert!(!nss.verifies(DIRECTORY, other), "{kind}");
            let mut expected = before.clone();
            expected.push((name(&this.certificate), "C,,".to_owned()));
            expected.sort();
            assert_eq!(nss.list(DIRECTORY), expected, "{kind}");
        }
        let report = root.boot(&[]);
        assert_eq!(report.failed, [], "{kind}");
        assert_eq!(nss.list(DIRECTORY), before, "{kind}");
    }
}

#[test]
fn booting_again_leaves_every_byte_mode_and_owner() {
    for kind in KINDS {
        let root = Root::new();
        let Some(nss) = Nss::new(&root) else { return };
        nss.create(DIRECTORY, kind);
        let database = root.outside(DIRECTORY).join("cert9.db");
        fs::set_permissions(&database, fs::Permissions::from_mode(0o640)).unwrap();
        let owner = |path: &Path| {
            let metadata = fs::metadata(path).unwrap();
            (metadata.mode(), metadata.uid(), metadata.gid())
        };
        if std::os::unix::fs::chown(&database, Some(1234), Some(4321)).is_err() {
            eprintln!("skipped: only root can give files away");
        }
        let before = owner(&database);
        let cas = [authority("msb sandbox CA"), authority("Corporate Root")];
        let changed = |root: &Root| {
            let of_nss = |(purpose, _): &&(Purpose, PathBuf)| *purpose == Purpose::NssDatabase;
            root.boot(&cas).done.iter().filter(of_nss).count()
        };
        assert!(changed(&root) > 0, "{kind}");
        assert_eq!(owner(&database), before, "{kind}");
        let snapshot = root.snapshot();
        assert_eq!(changed(&root), 0, "{kind}");
        assert!(root.snapshot() == snapshot, "{kind}");
        // NSS itself finds nothing to do either.
        assert_eq!(
            nss.list(DIRECTORY)
                .iter()
                .filter(|(name, _)| name.starts_with("msb-ca-"))
                .count(),
            2
        );
        assert!(root.snapshot() == snapshot, "{kind}");
    }
}

#[test]
fn nss_asks_for_the_signatures() {
    let root = Root::new();
    let Some(nss) = Nss::new(&root) else { return };
    nss.create(DIRECTORY, "empty password");
    let ca = Authority::new("msb sandbox CA");
    let cas = std::slice::from_ref(&ca.certificate);
    let _ = root.boot(cas);
    let keys = Connection::open(root.outside(DIRECTORY).join("key4.db")).unwrap();
    let removed = keys
        .execute("DELETE FROM metaData WHERE id LIKE 'sig_cert_%'", [])
        .unwrap();
    assert_eq!(removed, 6);
    assert!(!nss.verifies(DIRECTORY, &ca));
    let _ = root.boot(cas);
    assert!(nss.verifies(DIRECTORY, &ca));
}

#[test]
fn a_database_without_keys_is_trusted_when_nss_has_made_them() {
    let root = Root::new();
    let Some(nss) = Nss::new(&root) else { return };
    nss.create(DIRECTORY, "empty password");
    fs::remove_file(root.outside(DIRECTORY).join("key4.db")).unwrap();
    let ca = Authority::new("msb sandbox CA");
    let report = root.boot(std::slice::from_ref(&ca.certificate));
    assert_eq!(report.failed, []);
    // For reading alone NSS opens no such database.
    nss.certutil(DIRECTORY, &["-L", "-X"]);
    assert!(nss.verifies(DIRECTORY, &ca));
}

#[test]
fn what_is_signed_stays_valid_when_the_user_sets_a_password() {
    let root = Root::new();
    let Some(nss) = Nss::new(&root) else { return };
    nss.create(DIRECTORY, "empty password");
    let ca = Authority::new("msb sandbox CA");
    let _ = root.boot(std::slice::from_ref(&ca.certificate));
    root.file("/old", "\n").file("/new", "secret-1\n");
    let [old, new] = ["/old", "/new"].map(|path| root.outside(path).display().to_string());
    nss.certutil(DIRECTORY, &["-W", "-f", &old, "-@", &new]);
    assert!(nss.verifies(DIRECTORY, &ca));
    // It is not asked for at a boot, so nothing can be signed: told, and left as it is.
    let before = of_nss(&root);
    let report = root.boot(&[authority("msb sandbox CA")]);
    check(
        &report.failed,
        "cert9.db",
        "left alone: its password is not empty",
    );
    assert_eq!(of_nss(&root), before);
}

#[test]
fn what_the_user_says_of_the_same_authority_counts() {
    for (trust, verifies) in [("p,,", false), ("C,,", true)] {
        let root = Root::new();
        let Some(nss) = Nss::new(&root) else { return };
        nss.create(DIRECTORY, "empty password");
        let ca = Authority::new("Corporate Root");
        nss.import(DIRECTORY, &ca.certificate, "mine", trust);
        let before = nss.list(DIRECTORY);
        let snapshot = root.snapshot();
        let report = root.boot(std::slice::from_ref(&ca.certificate));
        assert_eq!(report.failed, []);
        assert_eq!(nss.list(DIRECTORY), before);
        assert_eq!(nss.verifies(DIRECTORY, &ca), verifies, "{trust}");
        let database = Path::new(DIRECTORY).join("cert9.db");
        assert!(root.snapshot()[&database] == snapshot[&database]);
    }
}

#[test]
fn databases_are_found_wherever_browsers_keep_them() {
    let directories = [
        "/etc/pki/nssdb",
        "/root/.pki/nssdb",
        "/home/alice/.pki/nssdb",
        "/home/alice/.local/share/pki/nssdb",
        "/home/alice/.mozilla/firefox/abcd1234.default-esr",
        "/home/alice/.config/mozilla/firefox/x.default-release",
        "/home/alice/snap/firefox/common/.mozilla/firefox/y.default",
        "/home/alice/.var/app/org.mozilla.firefox/.mozilla/firefox/z.default",
        "/srv/bob/.thunderbird/0.default",
    ];
    let root = Root::new();
    let Some(nss) = Nss::new(&root) else { return };
    root.file(
        "/etc/passwd",
        "alice:x:1:1::/home/alice:/bin/sh\nbroken\nbob:x:2:2::/srv/bob:\nrelative:x:3:3::home:\n",
    );
    for directory in directories {
        nss.create(directory, "empty password");
    }
    // The same one by another name.
    root.directory("/home/alice/.mozilla/firefox")
        .link("/home/alice/.mozilla/firefox/link", "abcd1234.default-esr");
    let ca = Authority::new("msb sandbox CA");
    let report = root.boot(std::slice::from_ref(&ca.certificate));
    assert_eq!(report.failed, []);
    for directory in directories {
        assert!(nss.verifies(directory, &ca), "{directory}");
    }
}

#[track_caller]
fn check(failed: &[msb_guest_trust::Failure], file: &str, expected: &str) {
    let lines: Vec<_> = failed.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [format!(
            "NSS database {:?}: {expected}",
            Path::new(DIRECTORY).join(file)
        )]
    );
}

/// A database of NSS's own tables, but made by SQLite alone, with more of it.
fn database(more: &str) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    let connection = Connection::open(file.path()).unwrap();
    let columns = [
        "a0",
        "a1",
        "a2",
        "a3",
        "a11",
        "a80",
        "a81",
        "a82",
        "a101",
        "a102",
        "a170",
        "ace536358",
        "ace536359",
        "ace53635a",
        "ace53635b",
        "ace536360",
        "ace5363b4",
        "ace5363b5",
    ];
    let schema = format!(
        "CREATE TABLE nssPublic (id PRIMARY KEY UNIQUE ON CONFLICT ABORT, {});
         CREATE INDEX issuer ON nssPublic (a81); {more}",
        columns.join(", ")
    );
    connection.execute_batch(&schema).unwrap();
    drop(connection);
    fs::read(file.path()).unwrap()
}

type Build = fn(&Root, &str);

#[test]
fn an_image_that_means_harm_is_told_of_and_changes_nothing() {
    const FOREIGN: &str = "left alone: it holds more than a database of NSS does";
    const DAMAGED: &str = "left alone: it is damaged, or no database of NSS";
    let cases: &[(Build, &str, &str)] = &[
        (
            |root, path| _ = root.file(path, ""),
            "cert9.db",
            "left alone: it lacks the tables of NSS",
        ),
        (
            |root, path| _ = root.file(path, "SQLite"),
            "cert9.db",
            DAMAGED,
        ),
        (
            |root, path| _ = root.file(path, [0xff; 70_000]),
            "cert9.db",
            DAMAGED,
        ),
        (
            |root, path| _ = root.file(path, &database("")[..6000]),
            "cert9.db",
            DAMAGED,
        ),
        (
            |root, path| {
                let trigger =
                    "CREATE TRIGGER t AFTER INSERT ON nssPublic BEGIN DELETE FROM nssPublic; END;";
                root.file(path, database(trigger));
            },
            "cert9.db",
            FOREIGN,
        ),
        (
            |root, path| _ = root.file(path, database("CREATE VIEW v AS SELECT * FROM nssPublic;")),
            "cert9.db",
            FOREIGN,
        ),
        (
            |root, path| _ = root.file(path, database("CREATE TABLE other (x);")),
            "cert9.db",
            FOREIGN,
        ),
        (
            |root, path| {
                _ = root
                    .file(path, database(""))
                    .file("/root/.pki/nssdb/key4.db", "?")
            },
            "cert9.db",
            DAMAGED,
        ),
        (
            |root, path| {
                _ = root
                    .file(path, database(""))
                    .file("/root/.pki/nssdb/cert9.db-journal", "hot")
            },
            "cert9.db-journal",
            "left alone: it was not closed",
        ),
        (
            |root, path| {
                _ = root
                    .file(path, database(""))
                    .file("/root/.pki/nssdb/cert9.db-wal", "log")
            },
            "cert9.db-wal",
            "left alone: it was not closed",
        ),
        (
            |root, path| _ = root.directory(path),
            "cert9.db",
            "not a regular file",
        ),
        (
            |root, path| {
                root.directory(DIRECTORY);
                rustix::fs::mkfifoat(rustix::fs::CWD, root.outside(path), 0o666.into()).unwrap();
            },
            "cert9.db",
            "not a regular file",
        ),
        (
            |root, path| {
                root.file(path, "");
                let file = fs::OpenOptions::new()
                    .write(true)
                    .open(root.outside(path))
                    .unwrap();
                file.set_len(1 << 40).unwrap();
            },
            "cert9.db",
            "left alone: 1099511627776 bytes is too large for a bundle",
        ),
        (
            |root, path| _ = root.file(&path.replace("cert9", "cert8"), "old"),
            "cert8.db",
            "left alone: databases of this old kind are not written; `certutil --upgrade-merge` makes it a new one",
        ),
    ];
    for (build, file, expected) in cases {
        let root = Root::new();
        build(&root, &format!("{DIRECTORY}/cert9.db"));
        let before = of_nss(&root);
        let report = root.boot(&[authority("msb sandbox CA")]);
        check(&report.failed, file, expected);
        assert_eq!(of_nss(&root), before, "{expected}");
        // Who asks for nothing is told nothing.
        assert_eq!(root.boot(&[]).failed, []);
    }
}

/// What is in the directory, with lengths for contents.
fn of_nss(root: &Root) -> Vec<(PathBuf, u64, u64)> {
    let entries = fs::read_dir(root.outside(DIRECTORY)).unwrap();
    let mut found: Vec<_> = entries
        .map(|entry| {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            (entry.path(), metadata.len(), metadata.ino())
        })
        .collect();
    found.sort();
    found
}

#[test]
fn links_are_followed_inside_the_root_only() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().join("cert9.db");
    fs::write(&target, database("")).unwrap();
    let before = fs::read(&target).unwrap();
    let root = Root::new();
    root.link(&format!("{DIRECTORY}/cert9.db"), target.to_str().unwrap());
    root.link("/home/a/.pki/nssdb", "/home/a/.pki/nssdb");
    root.file("/etc/passwd", "a:x:1:1::/home/a:\nb:x:1:1::/home/b:\n");
    root.link("/home/b/.pki/nssdb", "../../../srv/nssdb");
    root.file("/srv/nssdb/cert9.db", database(""));
    let report = root.boot(&[authority("msb sandbox CA")]);
    assert_eq!(report.failed, []);
    assert_eq!(fs::read(&target).unwrap(), before);
    let done: Vec<_> = report
        .done
        .iter()
        .filter(|(purpose, _)| *purpose == Purpose::NssDatabase)
        .collect();
    assert_eq!(
        done,
        [&(Purpose::NssDatabase, PathBuf::from("/srv/nssdb/cert9.db"))]
    );
}

#[test]
fn more_databases_than_anyone_has_are_told_of_once() {
    let root = Root::new();
    let content = database("");
    for number in 0..80 {
        root.file(
            &format!("/root/.mozilla/firefox/{number:03}/cert9.db"),
            &content,
        );
    }
    let report = root.boot(&[authority("msb sandbox CA")]);
    assert_eq!(report.failed.len(), 1, "{:?}", report.failed);
    assert_eq!(report.failed[0].problem, Problem::TooMany);
    let of_nss = |(purpose, _): &&(Purpose, PathBuf)| *purpose == Purpose::NssDatabase;
    assert_eq!(report.done.iter().filter(of_nss).count(), 64);
}

#[test]
fn databases_that_fill_memory_are_told_of() {
    let root = Root::new();
    for number in 0..6 {
        let path = format!("/root/.mozilla/firefox/{number}/cert9.db");
        root.file(&path, "");
        let file = fs::OpenOptions::new()
            .write(true)
            .open(root.outside(&path))
            .unwrap();
        file.set_len(16 << 20).unwrap();
    }
    let report = root.boot(&[authority("msb sandbox CA")]);
    let too_much = |failure: &&msb_guest_trust::Failure| failure.problem == Problem::TooMuch;
    assert_eq!(
        report.failed.iter().filter(too_much).count(),
        2,
        "{:?}",
        report.failed
    );
    assert_eq!(report.failed.len(), 6);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever bytes of a database are other than NSS wrote them, it is left alone or as sound as SQLite can tell.
    #[test]
    fn a_database_with_any_bytes_changed_ends_no_boot(
        changes in proptest::collection::vec((0_usize..20_000, any::<u8>()), 1..12),
        cut in proptest::option::of(0_usize..20_000),
    ) {
        let mut content = database("");
        let len = content.len();
        for (at, byte) in changes {
            content[at % len] = byte;
        }
        content.truncate(cut.unwrap_or(len));
        let root = Root::new();
        let path = format!("{DIRECTORY}/cert9.db");
        root.file(&path, &content);
        let report = root.boot(&[authority("msb sandbox CA")]);
        if report.failed.is_empty() {
            let changed = Connection::open(root.outside(&path)).unwrap();
            let said: String = changed.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
            prop_assert_eq!(said, "ok");
        } else {
            prop_assert_eq!(root.read(&path), content);
        }
    }
}
