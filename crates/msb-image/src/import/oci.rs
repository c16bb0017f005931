//! The documents of an image: which layers make it up, and how its program is started.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::error::{ImportError, shown_text};
use super::layer::{Compression, Layer};
use super::source::{Source, blob, check_digest};
use crate::config::ImageConfig;
use crate::content::Digest;

/// Indexes in indexes; nobody makes more than two.
pub(crate) const INDEX_DEPTH: usize = 4;
/// Docker allows 127.
const LAYERS: usize = 512;

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// What a sandbox runs.
const AMD64: (&str, &str) = ("linux", "amd64");

/// The reference of an image in a layout's index.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// An image whose documents hold together. Its layers are still to be read.
#[derive(Debug)]
pub(crate) struct Image {
    /// Identifies it: of its manifest, or of the configuration in a docker archive.
    pub(crate) digest: Digest,
    pub(crate) config: ImageConfig,
    pub(crate) layers: Vec<Layer>,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
    #[serde(default)]
    layers: Option<IgnoredAny>,
    #[serde(default)]
    config: Option<IgnoredAny>,
}

/// What is looked for in an index.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wanted<'a> {
    /// One of several images, by its reference if there is one: a layout's own index.
    Image(Option<&'a str>),
    /// The part for this platform of one image.
    Platform,
}

/// Where a part of an image is, and what.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    pub(crate) size: u64,
    platform: Option<Platform>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

/// What an index leads to.
#[derive(Debug)]
pub(crate) enum Chosen {
    Manifest(Descriptor),
    /// Another index.
    Index(Descriptor),
}

#[derive(Clone, Debug, Deserialize)]
struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: String,
}

/// The parts of an image.
#[derive(Debug, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
    #[serde(default)]
    manifests: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Configuration {
    #[serde(flatten)]
    platform: Platform,
    config: Option<Execution>,
    rootfs: RootFs,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Execution {
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// The image in an OCI layout: the only one for linux/amd64, or the one called `reference`.
pub(super) fn layout(source: &Source, reference: Option<&str>) -> Result<Image, ImportError> {
    let index = source.document("index", "index.json")?;
    let mut chosen = choose(&index, Wanted::Image(reference))?;
    for _ in 0..INDEX_DEPTH {
        let Chosen::Index(descriptor) = chosen else {
            break;
        };
        chosen = choose(&fetch(source, "index", &descriptor)?, Wanted::Platform)?;
    }
    let descriptor = chosen.manifest()?;
    let manifest = Manifest::parse(&fetch(source, "manifest", &descriptor)?)?;
    let configuration = fetch(source, "configuration", &manifest.config)?;
    manifest.image(descriptor.digest("manifest")?, &configuration)
}

impl Descriptor {
    /// Its digest; `what` it names is for the error.
    pub(crate) fn digest(&self, what: &str) -> Result<Digest, ImportError> {
        digest(what, &self.digest)
    }

    /// Checks what was found against it.
    pub(crate) fn check(&self, what: &str, bytes: &[u8]) -> Result<(), ImportError> {
        if bytes.len() as u64 != self.size {
            return Err(ImportError::BlobSize {
                what: what.to_owned(),
                expected: self.size,
                found: bytes.len() as u64,
            });
        }
        check_digest(what, self.digest(what)?, Digest::of(bytes))
    }
}

impl Chosen {
    /// The manifest, where no more indexes are followed.
    pub(crate) fn manifest(self) -> Result<Descriptor, ImportError> {
        match self {
            Self::Manifest(descriptor) => Ok(descriptor),
            Self::Index(_) => Err(ImportError::Document {
                what: "index".into(),
                problem: format!("leads to indexes more than {INDEX_DEPTH} deep"),
            }),
        }
    }
}

impl Manifest {
    /// Reads a manifest and checks what it is of.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, ImportError> {
        let manifest: Self = parse("manifest", text)?;
        if manifest.manifests.is_some() {
            return Err(two_documents("manifest"));
        }
        let of_config = manifest.config.media_type.as_str();
        if ![OCI_CONFIG, DOCKER_CONFIG].contains(&of_config) {
            return Err(media_type("configuration", of_config));
        }
        check_layers(manifest.layers.len())?;
        Ok(manifest)
    }

    /// The image with this configuration, which was checked, and `digest` for its manifest.
    pub(crate) fn image(&self, digest: Digest, text: &[u8]) -> Result<Image, ImportError> {
        let (config, diff_ids) = configuration(text, self.layers.len())?;
        let of = self.layers.len();
        let layers = self.layers.iter().zip(diff_ids).enumerate();
        let layers = layers.map(|(at, (layer, diff_id))| {
            let what = format!("layer {} of {of}", at + 1);
            let compression = Compression::of_media_type(&layer.media_type)
                .ok_or_else(|| media_type(&what, &layer.media_type))?;
            let digest = layer.digest(&what)?;
            Ok(Layer {
                number: at + 1,
                of,
                label: format!("{digest:?}"),
                name: blob(digest),
                blob: Some((digest, layer.size)),
                compression: Some(compression),
                diff_id,
            })
        });
        Ok(Image {
            digest,
            config,
            layers: layers.collect::<Result<_, _>>()?,
        })
    }
}

/// The image in what `docker save` writes.
pub(super) fn docker(source: &Source, reference: Option<&str>) -> Result<Image, ImportError> {
    let images: Vec<DockerImage> =
        parse("manifest", &source.document("manifest", "manifest.json")?)?;
    let tags = |image: &DockerImage| image.repo_tags.clone().unwrap_or_default();
    let found: Vec<String> = images.iter().flat_map(tags).collect();
    let mut fitting = images
        .into_iter()
        .filter(|image| reference.is_none_or(|name| tags(image).iter().any(|tag| tag == name)));
    let image = match (fitting.next(), fitting.next(), reference) {
        (Some(image), None, _) | (Some(image), Some(_), Some(_)) => image,
        (Some(_), Some(_), None) => return Err(ImportError::Ambiguous { found }),
        (None, _, reference) => {
            return Err(ImportError::UnknownReference {
                reference: reference.unwrap_or_default().to_owned(),
                found,
            });
        }
    };
    let text = source.document("configuration", &image.config)?;
    // Its name is its digest, in both ways that docker has named it.
    let named = image.config.trim_end_matches(".json").rsplit('/').next();
    if let Some(expected) = named.and_then(|name| name.parse().ok()) {
        check_digest("configuration", expected, Digest::of(&text))?;
    }
    let (config, diff_ids) = configuration(&text, image.layers.len())?;
    let of = image.layers.len();
    let layers = image.layers.into_iter().zip(diff_ids).enumerate();
    let layers = layers.map(|(at, (name, diff_id))| Layer {
        number: at + 1,
        of,
        label: name.clone(),
        name,
        blob: None,
        compression: None,
        diff_id,
    });
    Ok(Image {
        digest: Digest::of(&text),
        config,
        layers: layers.collect(),
    })
}

/// What of an index is for linux/amd64.
pub(crate) fn choose(index: &[u8], wanted: Wanted<'_>) -> Result<Chosen, ImportError> {
    let index: Index = parse("index", index)?;
    if index.layers.is_some() || index.config.is_some() {
        return Err(two_documents("index"));
    }
    let name_of = |entry: &Descriptor| {
        let annotations = entry.annotations.as_ref();
        annotations.and_then(|all| all.get(REF_NAME)).cloned()
    };
    let names: Vec<String> = index.manifests.iter().filter_map(name_of).collect();
    let mut entries: Vec<&Descriptor> = index.manifests.iter().collect();
    if let Wanted::Image(Some(reference)) = wanted {
        entries.retain(|entry| name_of(entry).as_deref() == Some(reference));
        if entries.is_empty() {
            return Err(ImportError::UnknownReference {
                reference: reference.to_owned(),
                found: names,
            });
        }
    }
    let fitting = fitting(&entries);
    let Some(first) = fitting.first() else {
        let platforms = entries.iter().filter_map(|entry| entry.platform.as_ref());
        return Err(ImportError::Platform {
            found: platforms.map(ToString::to_string).collect(),
        });
    };
    let is_other = |entry: &&Descriptor| entry.digest != first.digest;
    if let (Wanted::Image(_), true) = (wanted, fitting.iter().any(is_other)) {
        let digests = || fitting.iter().map(|entry| entry.digest.clone()).collect();
        return Err(ImportError::Ambiguous {
            found: if names.is_empty() { digests() } else { names },
        });
    }
    match first.media_type.as_str() {
        OCI_MANIFEST | DOCKER_MANIFEST => Ok(Chosen::Manifest((*first).clone())),
        OCI_INDEX | DOCKER_LIST => Ok(Chosen::Index((*first).clone())),
        other => Err(media_type("manifest", other)),
    }
}

/// Those that a sandbox can run, of the kind that fits best: for linux/amd64, for a variant of it, or of those that do not
/// say what they are for and are judged by their configuration. The first counts, says the image specification.
fn fitting<'a>(entries: &[&'a Descriptor]) -> Vec<&'a Descriptor> {
    let rank = |entry: &Descriptor| match &entry.platform {
        Some(platform) if (platform.os.as_str(), platform.architecture.as_str()) != AMD64 => None,
        Some(platform) => Some(u8::from(!matches!(platform.variant.as_str(), "" | "v1"))),
        None => Some(2),
    };
    let best = entries.iter().filter_map(|entry| rank(entry)).min();
    let fits = |entry: &&Descriptor| best.is_some() && rank(entry) == best;
    entries.iter().copied().filter(fits).collect()
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match self.variant.as_str() {
            "" => Ok(()),
            variant => write!(f, "/{variant}"),
        }
    }
}

/// Who signed or named it by its digest may have read it as the other one (CVE-2021-41190).
fn two_documents(what: &str) -> ImportError {
    ImportError::Document {
        what: what.into(),
        problem: "is a manifest and an index at the same time".into(),
    }
}

fn configuration(text: &[u8], layers: usize) -> Result<(ImageConfig, Vec<Digest>), ImportError> {
    check_layers(layers)?;
    let parsed: Configuration = parse("configuration", text)?;
    let platform = parsed.platform;
    if (platform.os.as_str(), platform.architecture.as_str()) != AMD64 {
        return Err(ImportError::Platform {
            found: vec![platform.to_string()],
        });
    }
    let diff_ids = parsed.rootfs.diff_ids.iter();
    let diff_ids = diff_ids.map(|text| digest("configuration", text));
    let diff_ids: Vec<_> = diff_ids.collect::<Result<_, _>>()?;
    if diff_ids.len() != layers {
        return Err(ImportError::Document {
            what: "configuration".into(),
            problem: format!("names {} layers, the manifest {layers}", diff_ids.len()),
        });
    }
    let execution = parsed.config.unwrap_or_default();
    let config = ImageConfig {
        entrypoint: execution.entrypoint.unwrap_or_default(),
        cmd: execution.cmd.unwrap_or_default(),
        env: execution.env.unwrap_or_default(),
        working_dir: execution.working_dir.unwrap_or_default(),
        user: execution.user.unwrap_or_default(),
    };
    config.check().map_err(|problem| ImportError::Document {
        what: "configuration".into(),
        problem,
    })?;
    Ok((config, diff_ids))
}

/// A document by its descriptor, verified.
fn fetch(source: &Source, what: &str, descriptor: &Descriptor) -> Result<Vec<u8>, ImportError> {
    let bytes = source.document(what, &blob(descriptor.digest(what)?))?;
    descriptor.check(what, &bytes)?;
    Ok(bytes)
}

fn check_layers(found: usize) -> Result<(), ImportError> {
    match found {
        ..=LAYERS => Ok(()),
        found => Err(ImportError::Layers {
            found,
            limit: LAYERS,
        }),
    }
}

fn parse<T: DeserializeOwned>(what: &str, text: &[u8]) -> Result<T, ImportError> {
    serde_json::from_slice(text).map_err(|error| ImportError::Document {
        what: what.to_owned(),
        problem: format!("does not parse: {}", shown_text(&error.to_string())),
    })
}

fn digest(what: &str, text: &str) -> Result<Digest, ImportError> {
    let digest = text
        .strip_prefix("sha256:")
        .and_then(|hex| hex.parse().ok());
    digest.ok_or_else(|| ImportError::Document {
        what: what.to_owned(),
        problem: format!(
            "is named by \"{}\", which is no SHA-256 digest",
            shown_text(text)
        ),
    })
}

fn media_type(what: &str, media_type: &str) -> ImportError {
    ImportError::MediaType {
        what: what.to_owned(),
        media_type: media_type.to_owned(),
    }
}

#[cfg(test)]
mod tests;
