//! `cargo xtask bench image [PAIRS]`: an image of five layers and 300 MB becomes a root disk, beside `umoci unpack` and
//! `mksquashfs` of the same image with the same compressor.
//!
//! The image is made of this machine's own files below `/usr`: programs, libraries and texts, as images have them. `msb image
//! import` reads it from the layout that umoci reads; `msb image pull` gets it from a registry on this machine besides,
//! which umoci is not asked to do. As root, because umoci needs that to keep owners.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "the figures are the program's output")]

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use msb_benches::{Finished, Running, Spread, facts};
use msb_image::Digest;

const PAIRS: usize = 5;
/// At most this many times the time of umoci and mksquashfs, by the median.
const GOAL: f64 = 2.0;
/// Unpacked megabytes of the layers, from the lowest: a distribution, a runtime, libraries, a program, settings.
const LAYERS_MB: [u64; 5] = [160, 70, 40, 25, 5];
/// Images are made of smaller files.
const FILE_LIMIT: u64 = 30_000_000;
const LIMIT: Duration = Duration::from_secs(600);
/// As msb makes disks.
const FORMAT: [&str; 6] = ["-comp", "lz4", "-Xhc", "-b", "128K", "-no-exports"];

/// Time and processor time.
#[derive(Clone, Copy, Default)]
struct Cost {
    took: Duration,
    cpu: Duration,
}

/// One measurement of each side.
struct Round {
    umoci: Cost,
    import: Cost,
    pull: Option<Cost>,
}

fn main() -> Result<()> {
    let pairs = match std::env::args().nth(1) {
        Some(text) => text
            .parse()
            .context("the argument is the number of pairs")?,
        None => PAIRS,
    };
    let dir = tempfile::tempdir()?;
    println!("{}", facts());
    let layout = dir.path().join("layout");
    let (unpacked, packed) = make_image(dir.path(), &layout)?;
    println!(
        "{pairs} rounds; {} layers, {} MB, {} MB compressed by gzip",
        LAYERS_MB.len(),
        unpacked / 1_000_000,
        packed / 1_000_000
    );
    let registry = Registry::start(dir.path(), &layout);
    if let Err(error) = &registry {
        println!("skipped: the pull, {error:#}");
    }
    let registry = registry.ok();
    let mut rounds = Vec::new();
    for round in 0..pairs {
        // Alternating which goes first evens out a load that grows or shrinks.
        let (umoci, import) = if round % 2 == 0 {
            let umoci = umoci(dir.path(), &layout)?;
            (umoci, import(dir.path(), &layout)?)
        } else {
            let import = import(dir.path(), &layout)?;
            (umoci(dir.path(), &layout)?, import)
        };
        let pull = match &registry {
            Some(registry) => Some(pull(dir.path(), registry)?),
            None => None,
        };
        println!(
            "  {:>2}: umoci and mksquashfs {:.2} s ({:.2} s of processor), import {:.2} s ({:.2} s), pull {:.2} s",
            round + 1,
            umoci.took.as_secs_f64(),
            umoci.cpu.as_secs_f64(),
            import.took.as_secs_f64(),
            import.cpu.as_secs_f64(),
            pull.unwrap_or_default().took.as_secs_f64(),
        );
        rounds.push(Round {
            umoci,
            import,
            pull,
        });
    }
    report(&rounds)
}

fn report(rounds: &[Round]) -> Result<()> {
    let ratio = |ours: Duration, theirs: Duration| ours.as_secs_f64() / theirs.as_secs_f64();
    let import = Spread::of(
        rounds
            .iter()
            .map(|round| ratio(round.import.took, round.umoci.took)),
    );
    let import = import.context("nothing was measured")?;
    let cpu = Spread::of(
        rounds
            .iter()
            .map(|round| ratio(round.import.cpu, round.umoci.cpu)),
    );
    let pulls = rounds
        .iter()
        .filter_map(|round| Some(ratio(round.pull?.took, round.umoci.took)));
    println!("import, ratio:                 {import}");
    println!(
        "import, processor time, ratio: {}",
        cpu.context("nothing was measured")?
    );
    if let Some(pull) = Spread::of(pulls) {
        println!("pull, ratio:                   {pull}");
    }
    let verdict = if import.median <= GOAL {
        "met"
    } else {
        "missed"
    };
    println!("goal: import at most {GOAL} by the median: {verdict}");
    Ok(())
}

/// A program of `cargo xtask image-tools`, or an installed one.
fn tool(name: &str) -> Command {
    let tools = std::env::var_os("MSB_BENCH_IMAGE_TOOLS").map(PathBuf::from);
    let tool = tools
        .map(|dir| dir.join(name))
        .filter(|tool| tool.is_file());
    Command::new(tool.unwrap_or_else(|| name.into()))
}

fn msb(home: &Path) -> Result<Command> {
    let beside = std::env::current_exe()?.with_file_name("msb");
    ensure!(
        beside.is_file(),
        "{} is missing: run this through `cargo xtask bench`",
        beside.display()
    );
    let mut command = Command::new(beside);
    command
        .env("MSB_HOME", home)
        .env("DOCKER_CONFIG", home)
        .env("HOME", home);
    Ok(command)
}

fn timed(command: &mut Command) -> Result<Cost> {
    let finished: Finished = Running::start(command)?.finish(LIMIT)?;
    ensure!(
        finished.status.success(),
        "{command:?} ended with {}:\n{}{}",
        finished.status,
        finished.stdout,
        finished.stderr
    );
    Ok(Cost {
        took: finished.took,
        cpu: finished.cpu,
    })
}

fn umoci(dir: &Path, layout: &Path) -> Result<Cost> {
    let bundle = dir.join("bundle");
    let disk = dir.join("disk");
    let image = format!("{}:bench", layout.display());
    let unpacked = timed(
        tool("umoci")
            .args(["unpack", "--image", &image])
            .arg(&bundle),
    )?;
    let packed = timed(
        Command::new("mksquashfs")
            .arg(bundle.join("rootfs"))
            .arg(&disk)
            .args(FORMAT)
            .args(["-noappend", "-no-progress", "-quiet"]),
    )?;
    fs::remove_dir_all(&bundle)?;
    fs::remove_file(&disk)?;
    Ok(Cost {
        took: unpacked.took + packed.took,
        cpu: unpacked.cpu + packed.cpu,
    })
}

fn import(dir: &Path, layout: &Path) -> Result<Cost> {
    let home = dir.join("home");
    let cost = timed(
        msb(&home)?
            .args(["image", "import", "--name", "bench"])
            .arg(layout),
    )?;
    fs::remove_dir_all(&home)?;
    Ok(cost)
}

fn pull(dir: &Path, registry: &Registry) -> Result<Cost> {
    let home = dir.join("home");
    let reference = format!("127.0.0.1:{}/bench:1", registry.port);
    let cost = timed(msb(&home)?.args(["image", "pull", &reference]))?;
    fs::remove_dir_all(&home)?;
    Ok(cost)
}

/// Debian's registry with the image, ended when this is dropped.
struct Registry {
    child: Child,
    port: u16,
}

impl Registry {
    fn start(dir: &Path, layout: &Path) -> Result<Self> {
        let config = dir.join("registry.yml");
        let storage = dir.join("storage");
        let text = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:0\n",
            storage.display()
        );
        fs::write(&config, text)?;
        let mut child = tool("docker-registry")
            .arg("serve")
            .arg(config)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("docker-registry cannot be started")?;
        let stderr = child.stderr.take().context("no output")?;
        let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
        let port = lines.find_map(|line| {
            let (_, address) = line.split_once("listening on 127.0.0.1:")?;
            let digits = address.find(|c: char| !c.is_ascii_digit())?;
            address[..digits].parse().ok()
        });
        // Somebody has to read what it says.
        std::thread::spawn(move || lines.for_each(drop));
        let registry = Self {
            child,
            port: port.context("docker-registry does not listen")?,
        };
        let to = format!("docker://127.0.0.1:{}/bench:1", registry.port);
        timed(
            tool("skopeo")
                .env("HOME", dir)
                .args(["--insecure-policy", "copy", "--dest-tls-verify=false"])
                .arg(format!("oci:{}:bench", layout.display()))
                .arg(to),
        )?;
        Ok(registry)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Both fail only when it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes the layout. Unpacked and packed bytes of its layers.
fn make_image(dir: &Path, layout: &Path) -> Result<(u64, u64)> {
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let mut files = files()?.into_iter();
    let (mut unpacked, mut packed) = (0, 0);
    let (mut layers, mut ids) = (Vec::new(), Vec::new());
    for megabytes in LAYERS_MB {
        let mut list = Vec::new();
        let mut left = megabytes * 1_000_000;
        while left > 0 {
            let (path, len) = files.next().context("there is too little below /usr")?;
            left = left.saturating_sub(len);
            list.extend_from_slice(path.as_os_str().as_bytes());
            list.push(0);
        }
        let names = dir.join("names");
        fs::write(&names, list)?;
        let tar = dir.join("layer.tar");
        timed(
            Command::new("tar")
                .args([
                    "--null",
                    "--numeric-owner",
                    "--no-recursion",
                    "-C",
                    "/",
                    "-cf",
                ])
                .arg(&tar)
                .arg("-T")
                .arg(&names),
        )?;
        let plain = fs::read(&tar)?;
        ids.push(format!(r#""sha256:{}""#, Digest::of(&plain)));
        unpacked += plain.len() as u64;
        timed(Command::new("gzip").arg("-fn").arg(&tar))?;
        let gzip = fs::read(dir.join("layer.tar.gz"))?;
        packed += gzip.len() as u64;
        layers.push(put(&blobs, "layer.v1.tar+gzip", &gzip)?);
    }
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        ids.join(",")
    );
    let config = put(&blobs, "config.v1+json", config.as_bytes())?;
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{config},"layers":[{}]}}"#,
        layers.join(",")
    );
    let manifest = put(&blobs, "manifest.v1+json", manifest.as_bytes())?;
    let named = r#","annotations":{"org.opencontainers.image.ref.name":"bench"}}"#;
    let manifest = manifest.trim_end_matches('}').to_owned() + named;
    let mut index = fs::File::create(layout.join("index.json"))?;
    write!(index, r#"{{"schemaVersion":2,"manifests":[{manifest}]}}"#)?;
    fs::write(
        layout.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )?;
    Ok((unpacked, packed))
}

fn put(blobs: &Path, kind: &str, bytes: &[u8]) -> Result<String> {
    let digest = Digest::of(bytes).to_string();
    fs::write(blobs.join(&digest), bytes)?;
    Ok(format!(
        r#"{{"mediaType":"application/vnd.oci.image.{kind}","digest":"sha256:{digest}","size":{}}}"#,
        bytes.len()
    ))
}

/// Files below `/usr` with their lengths, in order of their names, paths from the root.
fn files() -> Result<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    let mut rest: Vec<PathBuf> = ["/usr/bin", "/usr/lib", "/usr/share"]
        .map(PathBuf::from)
        .into();
    while let Some(dir) = rest.pop() {
        for entry in fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))? {
            let entry = entry?;
            let metadata = entry.path().symlink_metadata()?;
            if metadata.is_dir() {
                rest.push(entry.path());
            } else if metadata.is_file() && metadata.len() <= FILE_LIMIT {
                found.push((entry.path().strip_prefix("/")?.to_owned(), metadata.len()));
            }
        }
    }
    found.sort();
    // Programs, libraries and texts in each layer.
    let step = 7;
    let spread = |from: usize| (from..found.len()).step_by(step);
    let order = (0..step).flat_map(spread);
    Ok(order.map(|at| found[at].clone()).collect())
}
