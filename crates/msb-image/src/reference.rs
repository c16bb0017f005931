//! References to images in registries, and what a text that names an image means. Pure.
//!
//! ```text
//! begins with `/`, `./` or `../`, or is `.` or `..`   a path
//! an image name that the store has                    that image
//! anything else                                       a reference: [REGISTRY/]REPOSITORY[:TAG][@sha256:DIGEST]
//! ```
//!
//! The first part of a reference is a registry if it has a dot or a colon in it or is `localhost`; else the registry is
//! docker.io, and a repository of one part is below `library/` there. Grammar: distribution's `reference` package.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::content::Digest;
use crate::manifest::ImageName;

/// The registry of references that name none.
const DEFAULT_REGISTRY: &str = "docker.io";
/// Where that registry's own images are.
const DEFAULT_NAMESPACE: &str = "library";
const DEFAULT_TAG: &str = "latest";
/// Of a reference written out, in bytes: it becomes the name of a file, where `/`, `:` and `@` take three and `.json` is
/// behind it.
const LIMIT: usize = 250;
/// By the specification.
const TAG_LIMIT: usize = 128;

/// An image in a registry, written out: nothing of it is left to defaults.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    version: Version,
}

/// Which of a repository's images.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Version {
    Tag(String),
    Digest(Digest),
}

/// A text that is no reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is no reference of an image: {problem} (a reference is \
     [REGISTRY/]REPOSITORY[:TAG][@sha256:DIGEST], a path begins with `/` or `./`)"
)]
pub struct InvalidReference {
    text: String,
    problem: &'static str,
}

/// What a text that names an image means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageArgument {
    /// A file or directory.
    Path(PathBuf),
    /// An image of this name if the store has one, else what it means as a reference, if it can be one.
    Name(ImageName, Option<Reference>),
    /// An image of a registry.
    Reference(Reference),
}

impl Reference {
    /// Host and port of the registry as the reference says it, such as `docker.io` or `localhost:5000`.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository's path, such as `library/debian`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The digest, if the reference names one.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        match self.version {
            Version::Digest(digest) => Some(digest),
            Version::Tag(_) => None,
        }
    }

    /// What stands for the image in a registry's interface: the digest, else the tag.
    pub(crate) fn version(&self) -> String {
        match &self.version {
            Version::Tag(tag) => tag.clone(),
            Version::Digest(digest) => format!("{digest:?}"),
        }
    }
}

/// Written out: `docker.io/library/debian:latest`. What it gives is read back as the same reference.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let between = match self.version {
            Version::Tag(_) => ':',
            Version::Digest(_) => '@',
        };
        let (registry, repository) = (&self.registry, &self.repository);
        write!(f, "{registry}/{repository}{between}{}", self.version())
    }
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).map_err(|problem| InvalidReference {
            text: text.escape_debug().take(300).collect(),
            problem,
        })
    }
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => {
            let hex = digest.strip_prefix("sha256:");
            let digest = hex.and_then(|hex| hex.parse::<Digest>().ok());
            (
                rest,
                Some(digest.ok_or("its digest is not sha256 and 64 lowercase digits")?),
            )
        }
        None => (text, None),
    };
    // A colon behind the last slash is a tag's, one before it a port's.
    let last = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (path, tag) = match rest[last..].split_once(':') {
        Some((name, tag)) => (&rest[..last + name.len()], Some(tag)),
        None => (rest, None),
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err(
            "a tag has 1 to 128 letters, digits, `.`, `_` and `-`, and begins with none of `.-`",
        );
    }
    let (registry, repository) = match path.split_once('/') {
        Some((first, rest)) if is_registry(first) => (first.to_ascii_lowercase(), rest.to_owned()),
        Some(_) => (DEFAULT_REGISTRY.to_owned(), path.to_owned()),
        None => (
            DEFAULT_REGISTRY.to_owned(),
            format!("{DEFAULT_NAMESPACE}/{path}"),
        ),
    };
    let (registry, repository) = match (registry.as_str(), repository.contains('/')) {
        // Old names of it.
        ("index.docker.io" | "registry-1.docker.io" | DEFAULT_REGISTRY, true) => {
            (DEFAULT_REGISTRY.to_owned(), repository)
        }
        ("index.docker.io" | "registry-1.docker.io" | DEFAULT_REGISTRY, false) => (
            DEFAULT_REGISTRY.to_owned(),
            format!("{DEFAULT_NAMESPACE}/{repository}"),
        ),
        _ => (registry, repository),
    };
    if !is_host(&registry) {
        return Err("its registry is no host name, or its port no port");
    }
    if !repository.split('/').all(is_component) {
        return Err(
            "a repository's parts have lowercase letters and digits, and between them `.`, `_`, `__` or `-`",
        );
    }
    let version = match (digest, tag) {
        (Some(digest), _) => Version::Digest(digest),
        (None, tag) => Version::Tag(tag.unwrap_or(DEFAULT_TAG).to_owned()),
    };
    let reference = Reference {
        registry,
        repository,
        version,
    };
    let written = reference.to_string();
    let escaped = written.matches(['/', ':', '@']).count();
    if written.len() + 2 * escaped > LIMIT {
        return Err("it is too long");
    }
    Ok(reference)
}

fn is_registry(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost"
}

fn is_tag(tag: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (1..=TAG_LIMIT).contains(&tag.len())
        && tag.starts_with(word)
        && tag.chars().all(|c| word(c) || matches!(c, '.' | '-'))
}

/// `HOST`, `HOST:PORT`, `[IPV6]` or `[IPV6]:PORT`.
fn is_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let Some((address, rest)) = rest.split_once(']') else {
                return false;
            };
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            let port = rest.strip_prefix(':');
            if port.is_none() && !rest.is_empty() {
                return false;
            }
            ("ipv6", port)
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let label = |label: &str| {
        label.starts_with(plain)
            && label.ends_with(plain)
            && label.chars().all(|c| plain(c) || c == '-')
    };
    let digits = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    host.split('.').all(label)
        && port.is_none_or(|port| digits(port) && port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// Letters and digits, parted by one `.`, one or two `_`, or any number of `-`.
fn is_component(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let mut between = text.split(plain).filter(|between| !between.is_empty());
    text.starts_with(plain)
        && text.ends_with(plain)
        && between.all(|text| matches!(text, "." | "_" | "__") || text.bytes().all(|b| b == b'-'))
}

impl ImageArgument {
    /// What `text` means, by nothing but itself.
    ///
    /// # Errors
    /// It is neither a path nor a name nor a reference.
    pub fn parse(text: &str) -> Result<Self, InvalidReference> {
        let is_path = ["/", "./", "../"]
            .iter()
            .any(|start| text.starts_with(start));
        if is_path || matches!(text, "." | "..") {
            return Ok(Self::Path(text.into()));
        }
        match text.parse::<ImageName>() {
            // What `cargo xtask image` builds is never somebody else's.
            Ok(name) if name == ImageName::base() => Ok(Self::Name(name, None)),
            Ok(name) => Ok(Self::Name(name, text.parse().ok())),
            Err(_) => text.parse().map(Self::Reference),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_means_a_path_a_name_or_one_reference_written_out() {
        #[track_caller]
        fn check(text: &str, expected: &str) {
            let got = match ImageArgument::parse(text) {
                Ok(ImageArgument::Path(path)) => format!("path {}", path.display()),
                Ok(ImageArgument::Name(name, None)) => format!("name {name}"),
                Ok(ImageArgument::Name(name, Some(reference))) => {
                    format!("name {name} or {reference}")
                }
                Ok(ImageArgument::Reference(reference)) => {
                    let again: Reference = reference.to_string().parse().unwrap();
                    assert_eq!(again, reference, "{text}");
                    reference.to_string()
                }
                Err(_) => "refused".to_owned(),
            };
            assert_eq!(got, expected, "{text:?}");
        }
        let digest = Digest::of(b"x").to_string();
        for path in ["/", "/a", "./a", "../a", ".", "..", "./a:b", "./"] {
            check(path, &format!("path {path}"));
        }
        check("base", "name base");
        check("debian", "name debian or docker.io/library/debian:latest");
        check(
            "disk.ext4",
            "name disk.ext4 or docker.io/library/disk.ext4:latest",
        );
        check("a..b", "name a..b");
        check("a_", "name a_");
        check("debian:12", "docker.io/library/debian:12");
        check("base:1", "docker.io/library/base:1");
        check("debian:12.1-Slim_2", "docker.io/library/debian:12.1-Slim_2");
        check("grafana/grafana", "docker.io/grafana/grafana:latest");
        check("docker.io/debian", "docker.io/library/debian:latest");
        check(
            "index.docker.io/library/debian",
            "docker.io/library/debian:latest",
        );
        check("a/b/c/d:1", "docker.io/a/b/c/d:1");
        check("ghcr.io/a/b", "ghcr.io/a/b:latest");
        check("GHCR.io/a/b", "ghcr.io/a/b:latest");
        check("localhost/a", "localhost/a:latest");
        check("localhost:5000/a:1", "localhost:5000/a:1");
        check("127.0.0.1:5000/a/b", "127.0.0.1:5000/a/b:latest");
        check("[::1]:5000/a", "[::1]:5000/a:latest");
        check("quay.io/a__b/c-d--e.f_g", "quay.io/a__b/c-d--e.f_g:latest");
        check(
            &format!("a@sha256:{digest}"),
            &format!("docker.io/library/a@sha256:{digest}"),
        );
        check(
            &format!("q.io/a:1@sha256:{digest}"),
            &format!("q.io/a@sha256:{digest}"),
        );
        let (long, longest) = ("a".repeat(129), "a".repeat(128));
        check(&format!("q.io/a:{longest}"), &format!("q.io/a:{longest}"));
        for refused in [
            "",
            " ",
            "a b",
            "A",
            "q.io/A",
            "Debian:12",
            ":1",
            "a:",
            "a:.1",
            "a:-1",
            "a:1:2",
            "a/",
            "a//b",
            "q.io/",
            "q.io//a",
            "q.io/../a",
            "q.io/a/./b",
            "q.io/.a",
            "q.io/a___b",
            "q.io/a..b",
            "q.io/a%2fb",
            "q.io/a?b",
            "q.io/a#b",
            "q.io:/a",
            "q.io:0/a",
            "q.io:99999/a",
            "q.io:1x/a",
            "q..io/a",
            "-q.io/a",
            "user@q.io/a",
            "https://q.io/a",
            "[::1/a",
            "[::1]x/a",
            "[zz]:1/a",
            "a@sha256:12",
            "a@sha512:12",
            "a\0",
            "a\n",
            "é",
            "~/a",
            &format!("a:{long}"),
            &format!("a@sha256:{}", digest.to_uppercase()),
            &format!("q.io/{}", "a/".repeat(150) + "a"),
        ] {
            check(refused, "refused");
        }
    }

    #[test]
    fn errors_show_the_text_in_one_safe_line() {
        let error = "a\u{1b}[2J\n".parse::<Reference>().unwrap_err().to_string();
        assert!(!error.contains(['\u{1b}', '\n']), "{error:?}");
    }
}
