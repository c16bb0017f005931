//! What is left when a sandbox ends, however it ends.

use std::time::Duration;

use msb_e2e::{Guest, Home, HostProcess, on_guests};

#[test]
fn a_dropped_or_powered_off_sandbox_leaves_nothing() {
    on_guests(async {
        let home = Home::new();
        let before = home.files();
        let guest = Guest::boot("dropped", |builder| builder.store(home.path())).await;
        let qemu = HostProcess::open(guest.sandbox.vmm_pid()).expect("QEMU");
        drop(guest);
        assert!(qemu.ends_within(Duration::from_secs(1)), "QEMU is left");

        let guest = Guest::boot("off", |builder| builder.store(home.path())).await;
        let qemu = HostProcess::open(guest.sandbox.vmm_pid()).expect("QEMU");
        let line = "sync; echo o > /proc/sysrq-trigger; sleep 600";
        let outcome = guest.sandbox.exec("/bin/sh", ["-c", line]).await;
        assert!(
            matches!(outcome, Err(msb::Error::Ended { .. })),
            "{outcome:?}"
        );
        assert_eq!(guest.sandbox.wait().await, "the guest has powered off");
        assert!(qemu.ends_within(Duration::ZERO), "QEMU is left");
        guest
            .sandbox
            .stop()
            .await
            .expect("stopping again is harmless");
        drop(guest);
        assert_eq!(home.files(), before);
        assert_eq!(home.processes(), Vec::<String>::new());
    });
}

#[test]
fn a_creation_that_is_given_up_leaves_nothing() {
    on_guests(async {
        let home = Home::new();
        let before = home.files();
        let boot = Guest::boot("given-up", |builder| builder.store(home.path()));
        let begun = async {
            while home.processes().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            _ = boot => panic!("it was up before its QEMU was seen"),
            () = begun => {}
        }
        let gone = async {
            while !home.processes().is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let gone = tokio::time::timeout(Duration::from_secs(2), gone).await;
        assert!(gone.is_ok(), "{:?}", home.processes());
        assert_eq!(home.files(), before);
    });
}
