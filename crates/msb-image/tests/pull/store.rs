//! What a pull leaves in the store: nothing half-made, nothing for others, and whole images in the place of damaged ones.

use super::*;

#[tokio::test]
async fn a_damaged_image_is_made_whole_by_pulling_it_again() {
    type Damage = fn(&Store, &Imported);
    let damages: [Damage; 4] = [
        |store, image| {
            let disk = store.content_path(&image.manifest.content.sha256);
            std::fs::File::options()
                .write(true)
                .open(disk)
                .unwrap()
                .set_len(10)
                .unwrap();
        },
        |store, image| {
            let disk = store.content_path(&image.manifest.content.sha256);
            std::fs::remove_file(disk).unwrap();
        },
        |store, _| damage_manifest(store, b"{}"),
        |store, _| damage_manifest(store, b""),
    ];
    for damage in damages {
        let place = Place::new().await;
        let pulled = place.pull().await.unwrap();
        let (store, name) = (place.store(), place.registry.reference());
        damage(&store, &pulled);
        let text = fault(&store.root_disk(&name).unwrap_err());
        assert!(
            text.contains("again, or remove it with `msb image rm`") || text.contains("no image"),
            "{text}"
        );
        let pulled = place.pull().await.unwrap();
        assert!(pulled.is_new);
        drop(store.root_disk(&name).unwrap());
        damage(&store, &pulled);
        if store.find(&name).is_ok() {
            store.remove_image(&pulled.name).expect("test files");
        }
        assert!(store.image_names().expect("test files").is_empty());
    }
}

fn damage_manifest(store: &Store, bytes: &[u8]) {
    let entries = std::fs::read_dir(store.dir().join("images")).expect("test files");
    for entry in entries {
        std::fs::write(entry.expect("test files").path(), bytes).expect("test files");
    }
}

#[tokio::test]
async fn a_store_that_is_made_is_for_nobody_else() {
    let place = Place::new().await;
    place.pull().await.unwrap();
    let mode = |store: &Store| std::fs::metadata(store.dir()).unwrap().mode() & 0o777;
    assert_eq!(mode(&place.store()), 0o700);
    let imported = Store::open(place.dir.path().join("other/store"));
    imported
        .import(place.layout.path(), &Default::default())
        .unwrap();
    assert_eq!(mode(&imported), 0o700);
}

/// A small file system of this test's own, unmounted when it is dropped.
struct Small {
    dir: tempfile::TempDir,
}

impl Small {
    /// Of so many KiB. None, with the reason told, where there can be none.
    fn mount(kib: u32) -> Option<Self> {
        let dir = tempfile::tempdir().expect("test files");
        let mounted = std::process::Command::new("mount")
            .args([
                "-t",
                "tmpfs",
                "-o",
                &format!("size={kib}k,mode=0755"),
                "tmpfs",
            ])
            .arg(dir.path())
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self { dir }),
            _ => {
                eprintln!("skipped: only root can mount a small file system to fill");
                None
            }
        }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg(self.dir.path())
            .output();
    }
}

#[tokio::test]
async fn a_full_disk_is_told_as_such_and_nothing_half_made_stays() {
    let large = (0..4).map(|n| vec![Entry::file(&format!("{n}"), &noise(300_000 + 4 * n))]);
    let large: Vec<_> = large.collect();
    // The layer of 300 kB does not fit; it fits and the disk does not; of four at once none has room.
    for (kib, layers) in [(200, layers()), (450, layers()), (500, large)] {
        let Some(small) = Small::mount(kib) else {
            return;
        };
        let place = Place::of(Door::Open, &layers, |_| {}).await;
        let store = Store::open(small.dir.path());
        let reference = place.registry.reference().parse().unwrap();
        let error = store.pull(&reference, &place.options()).await.unwrap_err();
        assert!(
            matches!(error, Error::NoSpace { .. }),
            "{kib}: {}",
            fault(&error)
        );
        assert!(
            fault(&error).contains("no space left for images in"),
            "{}",
            fault(&error)
        );
        assert!(store.image_names().unwrap().is_empty());
        let mut used = 0;
        let mut rest = vec![small.dir.path().to_owned()];
        while let Some(dir) = rest.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let entry = entry.unwrap();
                let metadata = entry.metadata().unwrap();
                match metadata.is_dir() {
                    true => rest.push(entry.path()),
                    false => used += metadata.blocks() * 512,
                }
            }
        }
        assert!(used < 20_000, "{kib}: {used} bytes are left");
        // An import of the same image tells the same.
        let error = store.import(place.layout.path(), &Default::default());
        if let Err(error) = error {
            assert!(
                matches!(error, Error::NoSpace { .. }),
                "{kib}: {}",
                fault(&error)
            );
        }
    }
}
