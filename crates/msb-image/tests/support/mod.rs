//! Images for tests: layers as tar archives, layouts of them, and what GNU tar makes of the layers.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use msb_image::{Digest, Imported, Store};
use serde_json::json;
use tar::{EntryType, Header};

/// One entry of a layer.
#[derive(Clone)]
pub(crate) struct Entry {
    name: String,
    header: Header,
    link: String,
    data: Vec<u8>,
    records: Vec<(String, Vec<u8>)>,
}

impl Entry {
    fn new(name: &str, kind: EntryType) -> Self {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        Self {
            name: name.to_owned(),
            header,
            link: String::new(),
            data: Vec::new(),
            records: Vec::new(),
        }
    }

    pub(crate) fn of_type(name: &str, byte: u8) -> Self {
        Self::new(name, EntryType::new(byte))
    }

    pub(crate) fn file(name: &str, data: &[u8]) -> Self {
        let mut entry = Self::new(name, EntryType::Regular);
        entry.data = data.to_owned();
        entry
    }

    pub(crate) fn whiteout(name: &str) -> Self {
        Self::file(name, b"")
    }

    pub(crate) fn dir(name: &str) -> Self {
        Self::new(name, EntryType::Directory)
    }

    pub(crate) fn fifo(name: &str) -> Self {
        Self::new(name, EntryType::Fifo)
    }

    pub(crate) fn symlink(name: &str, target: &str) -> Self {
        let mut entry = Self::new(name, EntryType::Symlink).mode(0o777);
        entry.link = target.to_owned();
        entry
    }

    pub(crate) fn hard_link(name: &str, target: &str) -> Self {
        let mut entry = Self::new(name, EntryType::Link);
        entry.link = target.to_owned();
        entry
    }

    pub(crate) fn character(name: &str, major: u32, minor: u32) -> Self {
        Self::new(name, EntryType::Char).device(major, minor)
    }

    pub(crate) fn block(name: &str, major: u32, minor: u32) -> Self {
        Self::new(name, EntryType::Block).device(major, minor)
    }

    fn device(mut self, major: u32, minor: u32) -> Self {
        self.header.set_device_major(major).expect("test files");
        self.header.set_device_minor(minor).expect("test files");
        self
    }

    pub(crate) fn mode(mut self, mode: u32) -> Self {
        self.header.set_mode(mode);
        self
    }

    pub(crate) fn owner(mut self, uid: u64, gid: u64) -> Self {
        self.header.set_uid(uid);
        self.header.set_gid(gid);
        self
    }

    pub(crate) fn time(mut self, time: u64) -> Self {
        self.header.set_mtime(time);
        self
    }

    pub(crate) fn xattr(mut self, name: &str, value: &[u8]) -> Self {
        self.records
            .push((format!("SCHILY.xattr.{name}"), value.to_owned()));
        self
    }

    fn emit(&self, archive: &mut Vec<u8>) {
        let mut records = self.records.clone();
        for (key, text) in [("path", &self.name), ("linkpath", &self.link)] {
            if text.len() > 100 {
                records.push((key.to_owned(), text.clone().into_bytes()));
            }
        }
        if !records.is_empty() {
            let mut bytes = Vec::new();
            for (key, value) in records {
                let rest = key.len() + value.len() + 3;
                let digits = (1..)
                    .find(|n| (rest + n).to_string().len() == *n)
                    .expect("test files");
                bytes.extend(format!("{} {key}=", rest + digits).bytes());
                bytes.extend(value);
                bytes.push(b'\n');
            }
            let mut header = Header::new_ustar();
            header.set_entry_type(EntryType::XHeader);
            append(archive, header, &bytes);
        }
        let mut header = self.header.clone();
        let old = header.as_old_mut();
        for (field, text) in [(&mut old.name, &self.name), (&mut old.linkname, &self.link)] {
            let len = text.len().min(field.len());
            field[..len].copy_from_slice(&text.as_bytes()[..len]);
        }
        append(archive, header, &self.data);
    }
}

fn append(archive: &mut Vec<u8>, mut header: Header, data: &[u8]) {
    header.set_size(data.len() as u64);
    header.set_cksum();
    archive.extend(header.as_bytes());
    archive.extend(data);
    archive.resize(archive.len().next_multiple_of(512), 0);
}

fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    entries.iter().for_each(|entry| entry.emit(&mut bytes));
    bytes.extend([0; 1024]);
    bytes
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Compressed {
    No,
    Gzip,
    Zstd,
}

type Damage = Box<dyn Fn(&Path)>;

pub(crate) struct Layer {
    pub(crate) blob: Vec<u8>,
    pub(crate) media_type: String,
    pub(crate) diff_id: String,
    pub(crate) digest: String,
}

/// An OCI layout. What a test changes of it is made whole again by [`Layout::write`], except for damage to blobs.
pub(crate) struct Layout {
    dir: PathBuf,
    pub(crate) layers: Vec<Layer>,
    plain: Vec<Vec<u8>>,
    pub(crate) architecture: String,
    pub(crate) config_type: String,
    pub(crate) index: Option<String>,
    pub(crate) diff_ids_left_out: usize,
    damage: Vec<Damage>,
}

impl Layout {
    pub(crate) fn new(dir: &Path, layers: &[Vec<Entry>], compressed: Compressed) -> Self {
        let plain: Vec<_> = layers.iter().map(|entries| archive(entries)).collect();
        let layers = plain.iter().map(|plain| {
            let (blob, suffix) = match compressed {
                Compressed::No => (plain.clone(), ""),
                Compressed::Gzip => {
                    let mut gzip =
                        flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                    gzip.write_all(plain).expect("test files");
                    (gzip.finish().expect("test files"), "+gzip")
                }
                Compressed::Zstd => (
                    zstd::encode_all(plain.as_slice(), 1).expect("test files"),
                    "+zstd",
                ),
            };
            Layer {
                blob,
                media_type: format!("application/vnd.oci.image.layer.v1.tar{suffix}"),
                diff_id: Digest::of(plain).to_string(),
                digest: String::new(),
            }
        });
        let mut layout = Self {
            dir: dir.to_owned(),
            layers: layers.collect(),
            plain: plain.clone(),
            architecture: "amd64".into(),
            config_type: "application/vnd.oci.image.config.v1+json".into(),
            index: None,
            diff_ids_left_out: 0,
            damage: Vec::new(),
        };
        layout.write();
        layout
    }

    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn damage_blob(&mut self, layer: usize) {
        self.change(layer, |path| {
            let mut bytes = std::fs::read(path).expect("test files");
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            std::fs::write(path, bytes).expect("test files");
        });
    }

    pub(crate) fn cut_blob(&mut self, layer: usize) {
        self.change(layer, |path| {
            let bytes = std::fs::read(path).expect("test files");
            std::fs::write(path, &bytes[..bytes.len() - 1]).expect("test files");
        });
    }

    pub(crate) fn remove_blob(&mut self, layer: usize) {
        self.change(layer, |path| {
            std::fs::remove_file(path).expect("test files")
        });
    }

    fn change(&mut self, layer: usize, change: fn(&Path)) {
        let name = self.layers[layer].digest.clone();
        self.damage.push(Box::new(move |dir| {
            change(&dir.join("blobs/sha256").join(&name))
        }));
    }

    fn config(&self) -> String {
        let ids = self.layers.iter().skip(self.diff_ids_left_out);
        let ids: Vec<_> = ids
            .map(|layer| format!("sha256:{}", layer.diff_id))
            .collect();
        let execution = json!({"Entrypoint": ["/entry"], "Cmd": ["by", "default"], "Env": ["A=b"]});
        json!({"architecture": self.architecture, "os": "linux", "config": execution,
               "rootfs": {"type": "layers", "diff_ids": ids}})
        .to_string()
    }

    pub(crate) fn config_digest(&self) -> String {
        Digest::of(self.config().as_bytes()).to_string()
    }

    /// Writes all of it.
    pub(crate) fn write(&mut self) {
        let blobs = self.dir.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).expect("test files");
        let put = |bytes: &[u8]| {
            let digest = Digest::of(bytes).to_string();
            std::fs::write(blobs.join(&digest), bytes).expect("test files");
            digest
        };
        let describe = |media_type: &str, bytes: &[u8]| json!({"mediaType": media_type, "digest": format!("sha256:{}", put(bytes)), "size": bytes.len()});
        for layer in &mut self.layers {
            layer.digest = Digest::of(&layer.blob).to_string();
        }
        let layers = self
            .layers
            .iter()
            .map(|layer| describe(&layer.media_type, &layer.blob));
        let manifest = json!({"schemaVersion": 2, "layers": layers.collect::<Vec<_>>(),
                              "config": describe(&self.config_type, self.config().as_bytes())});
        let manifest = manifest.to_string();
        let manifest = describe(
            "application/vnd.oci.image.manifest.v1+json",
            manifest.as_bytes(),
        );
        let index = json!({"schemaVersion": 2, "manifests": [manifest]}).to_string();
        let index = self.index.clone().unwrap_or(index);
        std::fs::write(self.dir.join("index.json"), index).expect("test files");
        std::fs::write(
            self.dir.join("oci-layout"),
            r#"{"imageLayoutVersion":"1.0.0"}"#,
        )
        .expect("test files");
        for damage in &self.damage {
            damage(&self.dir);
        }
    }

    /// The layout as a tar archive.
    pub(crate) fn archive(&self) -> Vec<u8> {
        let mut entries = Vec::new();
        for name in ["oci-layout", "index.json"] {
            entries.push(Entry::file(
                name,
                &std::fs::read(self.dir.join(name)).expect("test files"),
            ));
        }
        for blob in std::fs::read_dir(self.dir.join("blobs/sha256")).expect("test files") {
            let path = blob.expect("test files").path();
            let name = format!(
                "blobs/sha256/{}",
                path.file_name()
                    .expect("test files")
                    .to_str()
                    .expect("test files")
            );
            entries.push(Entry::file(
                &name,
                &std::fs::read(path).expect("test files"),
            ));
        }
        archive(&entries)
    }

    /// What `docker save` wrote before it wrote layouts too: a layer in a directory, another one by a link to it.
    pub(crate) fn docker_archive(&self) -> Vec<u8> {
        let config = self.config();
        let config_name = format!("{}.json", Digest::of(config.as_bytes()));
        let mut entries = vec![Entry::file(&config_name, config.as_bytes())];
        let mut names = Vec::new();
        for (at, plain) in self.plain.iter().enumerate() {
            entries.push(Entry::file(&format!("{at}/data.tar"), plain));
            entries.push(Entry::symlink(
                &format!("{at}/layer.tar"),
                &format!("../{at}/data.tar"),
            ));
            names.push(format!("{at}/layer.tar"));
        }
        let manifest = json!([{"Config": config_name, "RepoTags": ["a:latest"], "Layers": names}]);
        entries.push(Entry::file(
            "manifest.json",
            manifest.to_string().as_bytes(),
        ));
        archive(&entries)
    }
}

/// Layers as ordinary tools make them: what they add up to is what GNU tar says.
pub(crate) fn ordinary() -> Vec<Vec<Entry>> {
    let long = format!("usr/{}/file", "long-name/".repeat(20));
    vec![
        vec![
            Entry::dir("./").mode(0o755).time(5),
            Entry::dir("./etc").mode(0o750).owner(0, 42),
            Entry::file("./etc/passwd", b"root:x:0:0\n").mode(0o644),
            Entry::file("etc/gone", b"x"),
            Entry::dir("etc/cleared"),
            Entry::file("etc/cleared/a", b"a"),
            Entry::dir("etc/cleared/deep"),
            Entry::file("etc/cleared/deep/b", b"b"),
            Entry::dir("tree"),
            Entry::dir("tree/sub"),
            Entry::file("tree/sub/file", b"1"),
            Entry::file("was-file", b"file"),
            Entry::dir("was-dir"),
            Entry::file("was-dir/inner", b"inner"),
            Entry::dir("usr").time(77),
            Entry::dir("usr/lib"),
            Entry::symlink("lib", "usr/lib"),
            Entry::file("bin/tool", b"\x7fELF")
                .mode(0o4755)
                .owner(1000, 1001),
            Entry::hard_link("bin/tool2", "bin/tool"),
            Entry::hard_link("lib-link", "lib"),
            Entry::character("dev/null", 1, 3).mode(0o666),
            Entry::block("dev/sda", 8, 1).mode(0o660).owner(0, 6),
            Entry::fifo("run/pipe").mode(0o600),
            Entry::file(&long, &vec![7; 300_000]),
            Entry::file("caps", b"c").xattr("user.note", b"line\nbreak\0nul"),
            Entry::file("empty", b"").owner(3_000_000, 4_000_000),
        ],
        vec![
            Entry::whiteout("etc/.wh.gone"),
            Entry::whiteout("etc/.wh.never-there"),
            Entry::whiteout("no/such/place/.wh.x"),
            Entry::dir("etc/cleared").mode(0o700),
            Entry::file("etc/cleared/new", b"new"),
            Entry::whiteout("etc/cleared/.wh..wh..opq"),
            Entry::whiteout(".wh.tree"),
            Entry::dir("was-file"),
            Entry::file("was-file/now", b"dir"),
            Entry::file("was-dir", b"now a file"),
            Entry::file("usr/lib/so", b"so").mode(0o600),
        ],
        vec![
            Entry::file("etc/gone", b"back"),
            Entry::dir("tree"),
            Entry::file("tree/only", b"2"),
            Entry::file("dup", b"first"),
            Entry::file("dup", b"second, which counts").mode(0o640),
            Entry::file("bin/tool", b"new tool"),
        ],
    ]
}

/// Whether file systems can be unpacked with owners and devices. Says why not.
pub(crate) fn can_unpack() -> bool {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can unpack a reference with its owners and devices");
        return false;
    }
    for program in ["tar", "unsquashfs"] {
        if Command::new(program).arg("--version").output().is_err() {
            eprintln!("skipped: {program} is not installed");
            return false;
        }
    }
    true
}

/// What is in the layers by GNU tar, each unpacked over the ones below, its whiteouts done first by the text of the
/// specification: a whiteout hides what is of lower layers.
pub(crate) fn reference(dir: &Path, layers: &[Vec<Entry>]) -> BTreeMap<String, String> {
    std::fs::create_dir_all(dir).expect("test files");
    for layer in layers {
        let (whiteouts, rest): (Vec<_>, Vec<_>) = layer
            .iter()
            .cloned()
            .partition(|entry| entry.name.contains(".wh."));
        for whiteout in whiteouts {
            let path = dir.join(&whiteout.name);
            let hidden = path
                .file_name()
                .expect("test files")
                .to_str()
                .expect("test files")
                .strip_prefix(".wh.")
                .expect("test files")
                .to_owned();
            let parent = path.parent().expect("test files");
            let hidden = match hidden.as_str() {
                ".wh..opq" => std::fs::read_dir(parent)
                    .expect("test files")
                    .map(|entry| entry.expect("test files").path())
                    .collect(),
                name => vec![parent.join(name)],
            };
            for path in hidden {
                remove(&path);
            }
        }
        for entry in &rest {
            let path = dir.join(&entry.name);
            let is = path.symlink_metadata().map(|metadata| metadata.is_dir());
            let becomes_dir = entry.header.entry_type() == EntryType::Directory;
            if is.is_ok_and(|is_dir| is_dir != becomes_dir) {
                remove(&path);
            }
        }
        let file = dir.with_extension("tar");
        std::fs::write(&file, archive(&rest)).expect("test files");
        run(Command::new("tar")
            .args([
                "--numeric-owner",
                "--same-owner",
                "--xattrs",
                "--xattrs-include=*",
                "-xpf",
            ])
            .arg(&file)
            .arg("-C")
            .arg(dir));
    }
    listing(dir)
}

fn remove(path: &Path) {
    match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(path).expect("test files"),
        Ok(_) => std::fs::remove_file(path).expect("test files"),
        Err(_) => {}
    }
}

/// What is on the disk, by `unsquashfs`.
pub(crate) fn unpacked(dir: &Path, disk: &Path) -> BTreeMap<String, String> {
    run(Command::new("unsquashfs")
        .args(["-q", "-n", "-d"])
        .arg(dir)
        .arg(disk));
    listing(dir)
}

/// What is on an image's disk, without the data of files. The root directory's time is when the disk was made, by
/// mksquashfs 4.5.
pub(crate) fn contents(store: &Store, image: &Imported) -> Vec<String> {
    let disk = store.content_path(&image.manifest.content.sha256);
    let output = Command::new("unsquashfs")
        .arg("-lls")
        .arg(disk)
        .output()
        .expect("unsquashfs");
    let listed = String::from_utf8(output.stdout).expect("text");
    let below: Vec<_> = listed
        .lines()
        .filter(|line| line.contains("squashfs-root/"))
        .map(str::to_owned)
        .collect();
    assert!(!below.is_empty(), "{listed}");
    below
}

pub(crate) fn run(command: &mut Command) {
    let output = command.output().expect("test files");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Every path with what is to be known of it. Times of directories that no layer describes are whatever they are.
pub(crate) fn listing(root: &Path) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut first_of_inode = BTreeMap::new();
    let mut rest = vec![root.to_owned()];
    while let Some(path) = rest.pop() {
        let metadata = path.symlink_metadata().expect("test files");
        let kind = metadata.file_type();
        let name = path
            .strip_prefix(root)
            .expect("test files")
            .to_str()
            .expect("test files")
            .to_owned();
        let (mode, uid, gid) = (metadata.mode(), metadata.uid(), metadata.gid());
        let mut text = format!("{mode:o} {uid}:{gid}");
        if kind.is_dir() {
            let mut entries: Vec<_> = std::fs::read_dir(&path)
                .expect("test files")
                .map(|entry| entry.expect("test files").path())
                .collect();
            entries.sort();
            rest.extend(entries);
        } else {
            text += &format!(" time {} links {}", metadata.mtime(), metadata.nlink());
            let first = first_of_inode
                .entry(metadata.ino())
                .or_insert_with(|| name.clone());
            text += &format!(" as {first}");
        }
        if kind.is_file() {
            text += &format!(
                " {:?}",
                Digest::of(&std::fs::read(&path).expect("test files"))
            );
        } else if kind.is_symlink() {
            text += &format!(" -> {:?}", std::fs::read_link(&path).expect("test files"));
        } else if kind.is_char_device() || kind.is_block_device() {
            text += &format!(" device {:x}", metadata.rdev());
        }
        text += &attributes(&path);
        all.insert(name, text);
    }
    all
}

/// Extended attributes of the file itself, sorted.
fn attributes(path: &Path) -> String {
    let mut names = vec![0; 4096];
    let len = rustix::fs::llistxattr(path, &mut names[..]).expect("test files");
    let names = names[..len]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty());
    let mut all: Vec<_> = names
        .map(|name| {
            let mut value = vec![0; 4096];
            let len = rustix::fs::lgetxattr(path, name, &mut value[..]).expect("test files");
            format!(" {}={}", name.escape_ascii(), value[..len].escape_ascii())
        })
        .collect();
    all.sort();
    all.concat()
}

/// An error with its causes.
pub(crate) fn fault(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text += &format!(": {cause}");
        next = cause.source();
    }
    text
}
