//! Where distributions keep trusted certificates. Paths are the guest's, absolute, as its programs spell them.

/// Where files for the variables of [`environment`](crate::environment) are written, and a bundle if no other can be.
/// `/run` is in memory, so nothing of a former boot is there.
pub const RUNTIME_DIRECTORY: &str = "/run/msb/trust";

/// All authorities of the request and nothing else.
pub(crate) const RUNTIME_CA_FILE: &str = "ca.pem";
/// A whole bundle, written if none of the system's can be.
pub(crate) const RUNTIME_BUNDLE: &str = "ca-bundle.pem";
/// What the user's `NODE_EXTRA_CA_CERTS` names, and the authorities.
pub(crate) const RUNTIME_NODE_EXTRA: &str = "node-extra-ca-certs.pem";

/// Begins the names of files in directories that hold others' files too.
pub(crate) const FILE_PREFIX: &str = "msb-ca-";

/// System bundles, the ones that most programs read first. Many are links to one another.
pub(crate) const BUNDLES: &[&str] = &[
    // Debian, Ubuntu, Alpine, Arch, Gentoo, NixOS, Void
    "/etc/ssl/certs/ca-certificates.crt",
    // Fedora, RHEL, Amazon Linux; NixOS has it too
    "/etc/pki/tls/certs/ca-bundle.crt",
    // openSUSE, SLES
    "/etc/ssl/ca-bundle.pem",
    // Alpine; OpenSSL's own default below /etc/ssl
    "/etc/ssl/cert.pem",
    // NixOS, Arch
    "/etc/ssl/certs/ca-bundle.crt",
    // what the links of Fedora and RHEL lead to
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/openssl/ca-bundle.trust.crt",
    "/etc/pki/tls/certs/ca-bundle.trust.crt",
    "/etc/pki/tls/cert.pem",
    "/etc/pki/tls/cacert.pem",
    // what the links of openSUSE lead to
    "/var/lib/ca-certificates/ca-bundle.pem",
    // what the links of Arch lead to
    "/etc/ca-certificates/extracted/tls-ca-bundle.pem",
    "/etc/ca-certificates/extracted/ca-bundle.trust.crt",
    // OpenSSL built by Debian, and built from source
    "/usr/lib/ssl/cert.pem",
    "/usr/local/ssl/cert.pem",
];

/// A bundle for a root that has none, made if one of `evidence` exists. No evidence means always.
pub(crate) struct NewBundle {
    pub(crate) path: &'static str,
    pub(crate) evidence: &'static [&'static str],
}

pub(crate) const NEW_BUNDLES: &[NewBundle] = &[
    NewBundle {
        path: "/etc/ssl/certs/ca-certificates.crt",
        evidence: &[],
    },
    NewBundle {
        path: "/etc/pki/tls/certs/ca-bundle.crt",
        evidence: &["/etc/pki", "/etc/redhat-release", "/etc/system-release"],
    },
    NewBundle {
        path: "/etc/ssl/ca-bundle.pem",
        evidence: &["/etc/zypp"],
    },
    NewBundle {
        path: "/etc/ssl/cert.pem",
        evidence: &["/etc/apk"],
    },
];

/// Where a distribution's own tool looks for further anchors when it makes the bundles again.
///
/// The directory is made if any of `evidence` exists: installing `ca-certificates` into an image that had no bundle
/// makes the bundle anew, and must find the anchor.
pub(crate) struct AnchorDirectory {
    pub(crate) path: &'static str,
    pub(crate) evidence: &'static [&'static str],
    /// A directory that serves the same tool; if it is there, this one is not made.
    pub(crate) instead: Option<&'static str>,
}

pub(crate) const ANCHOR_DIRECTORIES: &[AnchorDirectory] = &[
    // Debian, Ubuntu, Alpine, Gentoo, Void: update-ca-certificates
    AnchorDirectory {
        path: "/usr/local/share/ca-certificates",
        evidence: &[
            "/etc/ca-certificates.conf",
            "/etc/debian_version",
            "/etc/apk",
            "/etc/gentoo-release",
        ],
        instead: None,
    },
    // Fedora, RHEL, Amazon Linux: update-ca-trust
    AnchorDirectory {
        path: "/etc/pki/ca-trust/source/anchors",
        evidence: &[
            "/etc/pki/ca-trust",
            "/etc/redhat-release",
            "/etc/system-release",
        ],
        instead: None,
    },
    // openSUSE, SLES: update-ca-certificates over p11-kit
    AnchorDirectory {
        path: "/etc/pki/trust/anchors",
        evidence: &["/etc/pki/trust", "/etc/zypp"],
        instead: Some("/usr/share/pki/trust/anchors"),
    },
    AnchorDirectory {
        path: "/usr/share/pki/trust/anchors",
        evidence: &[],
        instead: Some("/etc/pki/trust/anchors"),
    },
    // Arch: update-ca-trust
    AnchorDirectory {
        path: "/etc/ca-certificates/trust-source/anchors",
        evidence: &["/etc/ca-certificates/trust-source", "/etc/arch-release"],
        instead: None,
    },
];

/// Directories that OpenSSL may search by subject hash. They are left alone unless they hold such a name.
pub(crate) const HASHED_DIRECTORIES: &[&str] = &[
    "/etc/ssl/certs",
    "/etc/pki/tls/certs",
    "/etc/pki/ca-trust/extracted/pem/directory-hash",
    "/etc/ca-certificates/extracted/cadir",
    "/var/lib/ca-certificates/openssl",
    "/var/lib/ca-certificates/pem",
];

/// Key stores of Java that distributions share between all versions.
pub(crate) const KEY_STORES: &[&str] = &[
    // Debian, Ubuntu, Alpine
    "/etc/ssl/certs/java/cacerts",
    // Fedora, RHEL, Amazon Linux
    "/etc/pki/java/cacerts",
    "/etc/pki/ca-trust/extracted/java/cacerts",
    // Arch
    "/etc/ca-certificates/extracted/java-cacerts.jks",
    // openSUSE
    "/var/lib/ca-certificates/java-cacerts",
];

/// Directories whose entries may each be a Java: of distributions, of images made from archives, of SDKMAN.
pub(crate) const JAVA_PARENTS: &[&str] = &[
    "/usr/lib/jvm",
    "/usr/lib64/jvm",
    "/usr/java",
    "/opt",
    "/opt/java",
    "/opt/jdk",
    "/usr/local",
    "/root/.sdkman/candidates/java",
];

/// Where a Java keeps what it trusts, below its home. The first is read instead of the others if it is there.
pub(crate) const KEY_STORES_OF_JAVA: &[&str] = &[
    "lib/security/jssecacerts",
    "lib/security/cacerts",
    "jre/lib/security/jssecacerts",
    "jre/lib/security/cacerts",
];

/// A database of NSS, in the directories where it looks for one: certificates, and what they are trusted for.
pub(crate) const NSS_CERTIFICATES: &str = "cert9.db";
/// Keys, and what signs the trust.
pub(crate) const NSS_KEYS: &str = "key4.db";
/// The format before that of SQLite. NSS reads it only where there is no other.
pub(crate) const NSS_OLD: &str = "cert8.db";
/// What SQLite leaves beside a database that was not closed.
pub(crate) const NSS_JOURNALS: &[&str] = &[
    "cert9.db-journal",
    "cert9.db-wal",
    "key4.db-journal",
    "key4.db-wal",
];
/// What all users share.
pub(crate) const NSS_OF_SYSTEM: &str = "/etc/pki/nssdb";
/// Below a user's home: Chromium and its kin, and whoever else asks NSS for the user's.
pub(crate) const NSS_OF_USER: &[&str] = &[".pki/nssdb", ".local/share/pki/nssdb"];
/// Below a user's home: directories whose entries are profiles, each with a database.
pub(crate) const NSS_PROFILES: &[&str] = &[
    ".mozilla/firefox",
    ".config/mozilla/firefox",
    "snap/firefox/common/.mozilla/firefox",
    ".var/app/org.mozilla.firefox/.mozilla/firefox",
    ".thunderbird",
];

/// Where Firefox is installed.
pub(crate) const FIREFOX_INSTALLATIONS: &[&str] = &[
    "/usr/lib/firefox",
    "/usr/lib/firefox-esr",
    "/usr/lib64/firefox",
    "/usr/share/firefox",
    "/usr/share/firefox-esr",
    "/opt/firefox",
    "/opt/firefox-esr",
    "/usr/local/firefox",
    "/usr/local/lib/firefox",
];
/// Below an installation, and only there.
pub(crate) const FIREFOX_IS_HERE: &str = "application.ini";
/// Below an installation.
pub(crate) const FIREFOX_POLICIES_OF_INSTALLATION: &str = "distribution/policies.json";
/// Read instead of those of the installation, where it is there.
pub(crate) const FIREFOX_POLICIES_OF_SYSTEM: &str = "/etc/firefox/policies/policies.json";

/// Chromium, or a browser made from it.
pub(crate) struct Chromium {
    /// Where its policies are.
    pub(crate) managed: &'static str,
    /// It is installed if one of these exists.
    pub(crate) evidence: &'static [&'static str],
}

pub(crate) const CHROMIUMS: &[Chromium] = &[
    Chromium {
        managed: "/etc/chromium/policies/managed",
        evidence: &[
            "/usr/bin/chromium",
            "/usr/lib/chromium",
            "/usr/lib64/chromium",
            "/usr/lib64/chromium-browser",
            // Playwright's images
            "/ms-playwright",
        ],
    },
    Chromium {
        managed: "/etc/chromium-browser/policies/managed",
        evidence: &["/usr/bin/chromium-browser", "/usr/lib/chromium-browser"],
    },
    Chromium {
        managed: "/etc/opt/chrome/policies/managed",
        evidence: &["/opt/google/chrome"],
    },
    Chromium {
        managed: "/etc/opt/edge/policies/managed",
        evidence: &["/opt/microsoft/msedge"],
    },
    Chromium {
        managed: "/etc/brave/policies/managed",
        evidence: &["/opt/brave.com/brave"],
    },
];

/// Sorts behind what others call theirs: the last file counts.
pub(crate) const CHROMIUM_POLICY_FILE: &str = "zz-msb-ca.json";
