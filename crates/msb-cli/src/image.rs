//! `msb image`: what is in the store, what comes into it and what leaves it.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use msb::image::{
    Artefact, Credentials, Digest, ImageArgument, ImageName, ImportOptions, Imported, Login,
    Manifest, PullOptions, Reference, Store,
};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::progress::Progress;
use crate::report;

/// Digits of a digest that lists show.
const SHORT_DIGEST: usize = 12;
/// The longest tokens in use are a few KiB.
const PASSWORD_LIMIT: u64 = 64 << 10;

#[derive(Debug, Subcommand)]
pub(crate) enum ImageTask {
    /// Fetch an image from its registry, and print its name.
    ///
    /// What was pulled before is fetched again only where the registry has something else under that name now. A pull
    /// that was cut off goes on where it ended. Without --username, credentials are those that `docker login` or `podman
    /// login` has stored.
    Pull(Pull),
    /// Make an image of a file or directory, and print its name.
    ///
    /// Takes an OCI image layout (a directory, or a tar archive of one), a docker archive (`docker save`), a directory with
    /// a root file system, or a squashfs or ext4 file. What was imported before is not made again.
    Import(Import),
    /// List the images.
    Ls {
        /// As a JSON array.
        #[arg(long)]
        json: bool,
    },
    /// Remove imported images. A sandbox that runs one keeps it until its end.
    Rm {
        /// Their names, or references of those that were pulled.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Show one image as JSON.
    Inspect {
        /// Its name, or its reference if it was pulled.
        name: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Pull {
    /// `[REGISTRY/]REPOSITORY[:TAG][@sha256:DIGEST]`. Without REGISTRY it is docker.io; without TAG, `latest`.
    reference: Reference,

    /// The user to pull as.
    #[arg(long, value_name = "NAME", requires = "password_stdin")]
    username: Option<String>,

    /// Read the user's password or token from standard input.
    #[arg(long, requires = "username")]
    password_stdin: bool,

    #[command(flatten)]
    registry: RegistryArgs,
}

/// Whom to believe to be the registry.
#[derive(Debug, Args)]
pub(crate) struct RegistryArgs {
    /// Authorities (PEM) that may sign for the image's registry, besides those of this machine. May be repeated.
    #[arg(long = "registry-ca", value_name = "FILE")]
    ca_files: Vec<PathBuf>,

    /// A registry that may be spoken to in plain http if it speaks no TLS. Those on this machine always may. May be repeated.
    #[arg(long = "registry-insecure", value_name = "HOST[:PORT]")]
    insecure: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Import {
    /// The file or directory.
    path: PathBuf,

    /// Its name in the store. Default: the file's own.
    #[arg(long)]
    name: Option<ImageName>,

    /// Which image, where the layout or archive has several: a reference or a tag.
    #[arg(long = "ref", value_name = "REFERENCE")]
    reference: Option<String>,
}

/// An image for people and programs.
#[derive(Serialize)]
struct Shown<'a> {
    name: &'a str,
    #[serde(flatten)]
    manifest: &'a Manifest,
}

pub(crate) fn run(task: ImageTask) -> Result<()> {
    let store = Store::open_default()?;
    match task {
        ImageTask::Pull(args) => {
            let credentials = credentials(&args)?;
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build()
                .context("cannot start")?;
            let pulling = pull(&store, &args.reference, &args.registry, credentials);
            let imported = runtime.block_on(pulling)?;
            tell(&imported);
            print(imported.name.as_str())
        }
        ImageTask::Import(import) => {
            let options = ImportOptions {
                name: import.name,
                reference: import.reference,
                ..ImportOptions::default()
            };
            let imported = store.import(&import.path, &options)?;
            tell(&imported);
            print(imported.name.as_str())
        }
        ImageTask::Ls { json } => list(&store, json),
        ImageTask::Rm { names } => {
            for name in names {
                store.remove_image(&store.find(&name)?)?;
            }
            Ok(())
        }
        ImageTask::Inspect { name } => {
            let name = store.find(&name)?;
            let manifest = store.image(&name)?;
            let shown = Shown {
                name: name.as_str(),
                manifest: &manifest,
            };
            print(&serde_json::to_string_pretty(&shown)?)
        }
    }
}

/// A name of the store for the image that `text` means, which is imported or pulled if it is not there yet.
pub(crate) async fn resolve(text: &str, registry: &RegistryArgs) -> Result<String> {
    let reference = match ImageArgument::parse(text)? {
        ImageArgument::Path(path) => {
            return tokio::task::spawn_blocking(move || import_path(&path)).await?;
        }
        ImageArgument::Name(_, None) => return Ok(text.to_owned()),
        ImageArgument::Name(_, Some(reference)) | ImageArgument::Reference(reference) => reference,
    };
    let store = Store::open_default()?;
    match store.find(text) {
        Ok(name) => return Ok(name.to_string()),
        Err(msb::image::Error::UnknownImage { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    if Path::new(text).exists() {
        bail!(
            "there is a file `{text}` here, and no image of that name in the store: write ./{text} for the file, or \
             {reference} for the registry's image"
        );
    }
    report::note(&format!("pulling {reference}"));
    let imported = pull(&store, &reference, registry, None).await?;
    tell(&imported);
    Ok(imported.name.to_string())
}

async fn pull(
    store: &Store,
    reference: &Reference,
    registry: &RegistryArgs,
    credentials: Option<Credentials>,
) -> Result<Imported> {
    let progress = Progress::new();
    let options = PullOptions {
        login: credentials.map_or(Login::Stored, Login::As),
        ca_files: registry.ca_files.clone(),
        insecure: registry.insecure.clone(),
        on_event: Some(progress.sink()),
        ..PullOptions::default()
    };
    let pulled = store.pull(reference, &options).await;
    progress.finish();
    Ok(pulled?)
}

/// What --username and --password-stdin say.
fn credentials(args: &Pull) -> Result<Option<Credentials>> {
    let Some(user) = args.username.clone() else {
        return Ok(None);
    };
    let mut password = Zeroizing::new(String::new());
    std::io::stdin()
        .take(PASSWORD_LIMIT)
        .read_to_string(&mut password)
        .context("cannot read the password from standard input")?;
    // What `echo` appends is not part of it.
    let len = password.trim_end_matches(['\n', '\r']).len();
    password.truncate(len);
    if password.is_empty() {
        bail!("there is no password on standard input");
    }
    Ok(Some(Credentials::new(user, password)))
}

/// Imports what is at `path` for a run, under a name that no other path has, and returns that name.
fn import_path(path: &Path) -> Result<String> {
    let store = Store::open_default()?;
    let whole = path
        .canonicalize()
        .with_context(|| format!("cannot find the image {}", path.display()))?;
    let digest = Digest::of(whole.as_os_str().as_encoded_bytes()).to_string();
    let options = ImportOptions {
        name: Some(format!("path-{}", &digest[..SHORT_DIGEST]).parse()?),
        ..ImportOptions::default()
    };
    let imported = store.import(&whole, &options)?;
    if imported.is_new {
        tell(&imported);
    }
    Ok(imported.name.to_string())
}

/// Whether the image says what to run. Where it cannot be told, the sandbox will tell why.
pub(crate) fn says_command(name: &str) -> bool {
    let config = || {
        let store = Store::open_default().ok()?;
        let manifest = store.image(&store.find(name).ok()?).ok()?;
        Some(manifest.config)
    };
    config().is_none_or(|config| !config.command(&[]).is_empty())
}

fn tell(imported: &Imported) {
    let mib = imported.manifest.content.bytes as f64 / f64::from(1 << 20);
    let state = match imported.is_new {
        true => "new",
        false => "known already",
    };
    report::note(&format!("image {}: {mib:.1} MiB ({state})", imported.name));
}

fn list(store: &Store, json: bool) -> Result<()> {
    let mut images = Vec::new();
    for name in store.image_names()? {
        match store.manifest(&Artefact::Image(name.clone())) {
            Ok(Some(manifest)) => images.push((name, manifest)),
            // It is being removed.
            Ok(None) => {}
            // The others can be used.
            Err(error @ msb::image::Error::Damaged { .. }) => report::note(&error.to_string()),
            Err(error) => return Err(error.into()),
        }
    }
    if json {
        let shown = images.iter().map(|(name, manifest)| Shown {
            name: name.as_str(),
            manifest,
        });
        return print(&serde_json::to_string_pretty(&shown.collect::<Vec<_>>())?);
    }
    let names = images.iter().map(|(name, _)| name.as_str().len());
    let width = names.max().unwrap_or(0).max("NAME".len());
    let mut text = format!("{:width$}  {:12}  {:>10}  ORIGIN", "NAME", "DIGEST", "SIZE");
    for (name, manifest) in &images {
        let digest = manifest.content.sha256.to_string();
        let mib = manifest.content.bytes as f64 / f64::from(1 << 20);
        // A path may have bytes in it that drive a terminal.
        let origin = manifest.origin.escape_debug();
        let digest = &digest[..SHORT_DIGEST];
        text.push_str(&format!(
            "\n{:width$}  {digest}  {mib:>6.1} MiB  {origin}",
            name.as_str()
        ));
    }
    print(&text)
}

fn print(text: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{text}").context("cannot write to standard output")
}
