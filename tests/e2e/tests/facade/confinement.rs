//! What the process that runs the guest could reach if the guest took it over (SPEC V9).

use std::fs;
use std::path::Path;

use msb::Event;
use msb_e2e::{Guest, on_guests};

#[test]
fn the_machine_has_its_own_files_and_nothing_else() {
    on_guests(async {
        let guest = Guest::boot("confined", |builder| builder).await;
        let process = format!("/proc/{}", guest.sandbox.vmm_pid());
        let status = fs::read_to_string(format!("{process}/status")).expect("QEMU's status");
        for line in [
            "CapInh:\t0000000000000000",
            "CapPrm:\t0000000000000000",
            "CapEff:\t0000000000000000",
            "CapAmb:\t0000000000000000",
            "NoNewPrivs:\t1",
            "Seccomp:\t2",
        ] {
            assert!(status.contains(line), "{line} in {status}");
        }
        let environment = fs::read(format!("{process}/environ")).expect("QEMU's environment");
        let names: Vec<_> = environment.split(|byte| *byte == 0).collect();
        assert!(
            names
                .iter()
                .all(|name| name.is_empty() || name.starts_with(b"PATH=")),
            "{}",
            String::from_utf8_lossy(&environment)
        );
        its_descriptors_are_its_channels_and_files(Path::new(&process));
        // What this host cannot give is told; all else has to be so.
        let gap = |event| match event {
            Event::Warning(text) if text.starts_with("QEMU ") => Some(text),
            _ => None,
        };
        let told: Vec<_> = guest.events().into_iter().filter_map(gap).collect();
        for gap in &told {
            eprintln!("skipped: {gap}");
        }
        let network = |process: &str| fs::read_link(format!("{process}/ns/net")).expect("a link");
        let is_told = told.iter().any(|text| text.contains("network"));
        assert_eq!(network(&process) == network("/proc/self"), is_told);
        guest.stop().await;
    });
}

fn its_descriptors_are_its_channels_and_files(process: &Path) {
    let store = msb::image::Store::open_default().expect("a store");
    let store = fs::canonicalize(store.dir())
        .expect("its directory")
        .join("files");
    let dir = fs::read_dir(process.join("fd")).expect("QEMU's descriptors");
    for entry in dir.flatten() {
        let target = fs::read_link(entry.path()).expect("a link");
        let target = target.to_string_lossy();
        let is_channel = ["socket:[", "pipe:[", "anon_inode:", "/memfd:"]
            .iter()
            .any(|kind| target.starts_with(kind));
        let is_file = ["/dev/null", "/dev/kvm"].contains(&&*target)
            || target.starts_with(&*store.to_string_lossy());
        assert!(is_channel || is_file, "{target}");
    }
}
