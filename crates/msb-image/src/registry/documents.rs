//! The documents of an image: from a reference to its manifest, configuration and list of layers.

use serde::Deserialize;

use super::PullError;
use super::client::Client;
use crate::content::Digest;
use crate::import::oci::{self, Chosen, INDEX_DEPTH, Image, Manifest};
use crate::import::source::DOCUMENT_LIMIT;
use crate::import::{ImportError, shown_text};
use crate::reference::Reference;

const SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1";

/// The image's documents, checked, and digests and sizes of its layers.
pub(super) async fn documents(
    client: &Client,
    reference: &Reference,
) -> Result<(Image, Vec<(Digest, u64)>), PullError> {
    const ACCEPTED: [&str; 4] = [
        oci::OCI_INDEX,
        oci::OCI_MANIFEST,
        oci::DOCKER_LIST,
        oci::DOCKER_MANIFEST,
    ];
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Head {
        #[serde(default)]
        schema_version: u64,
        #[serde(default)]
        media_type: String,
    }
    let url = client.url("manifests", &reference.version())?;
    let (mut bytes, field) = client
        .document("manifest", &url, &ACCEPTED, DOCUMENT_LIMIT)
        .await?;
    let mut digest = Digest::of(&bytes);
    if let Some(expected) = reference.digest()
        && expected != digest
    {
        return Err(PullError::Digest {
            what: "manifest".into(),
            expected,
            found: digest,
        });
    }
    let head = serde_json::from_slice::<Head>(&bytes);
    let head = head.map_err(|error| match field.starts_with("text/html") {
        true => PullError::Protocol {
            registry: client.host(),
            problem: "answers with a web page in the place of a manifest: is it a registry, or does something on the way to \
                      it want a login?"
                .into(),
        },
        false => PullError::Image(ImportError::Document {
            what: "manifest".into(),
            problem: format!("does not parse: {}", shown_text(&error.to_string())),
        }),
    })?;
    if head.schema_version == 1 || field.starts_with(SCHEMA_1) {
        return Err(PullError::SchemaOne);
    }
    let field = field.split(';').next().unwrap_or_default().trim();
    let media_type = match head.media_type.as_str() {
        "" => field,
        within => within,
    };
    let mut is_index = match media_type {
        oci::OCI_INDEX | oci::DOCKER_LIST => true,
        oci::OCI_MANIFEST | oci::DOCKER_MANIFEST => false,
        other => {
            return Err(ImportError::MediaType {
                what: "manifest".into(),
                media_type: other.to_owned(),
            }
            .into());
        }
    };
    for _ in 0..=INDEX_DEPTH {
        if !is_index {
            break;
        }
        let chosen = oci::choose(&bytes, oci::Wanted::Platform)?;
        is_index = matches!(chosen, Chosen::Index(_));
        let (Chosen::Index(descriptor) | Chosen::Manifest(descriptor)) = chosen;
        let what = if is_index { "index" } else { "manifest" };
        digest = descriptor.digest(what)?;
        let url = client.url("manifests", &format!("{digest:?}"))?;
        (bytes, _) = client
            .document(what, &url, &ACCEPTED, DOCUMENT_LIMIT)
            .await?;
        check(&descriptor, what, &bytes)?;
    }
    if is_index {
        return Err(ImportError::Document {
            what: "index".into(),
            problem: format!("leads to indexes more than {INDEX_DEPTH} deep"),
        }
        .into());
    }
    let manifest = Manifest::parse(&bytes)?;
    let what = "configuration";
    let url = client.url("blobs", &format!("{:?}", manifest.config.digest(what)?))?;
    let (text, _) = client
        .document(what, &url, &["*/*"], DOCUMENT_LIMIT)
        .await?;
    check(&manifest.config, what, &text)?;
    let image = manifest.image(digest, &text)?;
    let layers = image.layers.iter().filter_map(|layer| layer.blob).collect();
    Ok((image, layers))
}

/// Checks a document against what names it.
fn check(descriptor: &oci::Descriptor, what: &str, bytes: &[u8]) -> Result<(), PullError> {
    let expected = descriptor.digest(what)?;
    let found = Digest::of(bytes);
    if bytes.len() as u64 != descriptor.size {
        return Err(PullError::Size {
            what: what.to_owned(),
            expected: descriptor.size,
            found: bytes.len() as u64,
        });
    }
    match found == expected {
        true => Ok(()),
        false => Err(PullError::Digest {
            what: what.to_owned(),
            expected,
            found,
        }),
    }
}
