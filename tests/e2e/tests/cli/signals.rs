//! Whatever ends `msb`, the guest and QEMU end with it.

use std::time::{Duration, Instant};

use msb_e2e::on_guests;
use rustix::process::Signal;
use tokio::io::AsyncReadExt as _;

use crate::{Place, process, qemu_of};

#[test]
fn an_interrupted_run_ends_guest_and_qemu_and_leaves_nothing() {
    on_guests(async {
        let place = Place::new();
        let mut running = Vec::new();
        for (signal, code) in [
            (Signal::INT, Some(130)),
            (Signal::TERM, Some(143)),
            (Signal::HUP, Some(129)),
            (Signal::KILL, None),
        ] {
            let line = "trap '' INT TERM; echo up; sleep 600";
            let mut command = place.msb(["run", "base", "--", "sh", "-c", line]);
            running.push((command.spawn().expect("msb starts"), signal, code));
        }
        for (child, ..) in &mut running {
            let mut up = [0; 3];
            let stdout = child.stdout.as_mut().expect("piped");
            stdout.read_exact(&mut up).await.expect("the guest is up");
            assert_eq!(&up, b"up\n");
        }
        for (mut child, signal, code) in running {
            let msb = process(&child);
            let qemu = qemu_of(&msb).await;
            let start = Instant::now();
            msb.signal(signal);
            let status = child.wait().await.expect("an end");
            let took = start.elapsed();
            assert_eq!(status.code(), code, "{signal:?}");
            assert!(took < Duration::from_secs(2), "{signal:?}: {took:?}");
            let limit = Duration::from_secs(1).saturating_sub(took);
            let limit = limit.max(Duration::from_millis(200));
            assert!(qemu.ends_within(limit), "{signal:?}: QEMU is left");
            let mut stderr = String::new();
            let mut pipe = child.stderr.take().expect("piped");
            pipe.read_to_string(&mut stderr).await.expect("UTF-8");
            assert_eq!(stderr, "", "{signal:?}");
        }
        place.check_nothing_is_left("after every signal");
    });
}

#[test]
fn a_run_interrupted_while_it_boots_leaves_nothing() {
    on_guests(async {
        let place = Place::new();
        for (signal, code) in [(Signal::INT, Some(130)), (Signal::KILL, None)] {
            let mut child = place
                .msb(["run", "base", "--", "true"])
                .spawn()
                .expect("msb starts");
            let msb = process(&child);
            let qemu = qemu_of(&msb).await;
            msb.signal(signal);
            let status = child.wait().await.expect("an end");
            assert_eq!(status.code(), code, "{signal:?}");
            assert!(
                qemu.ends_within(Duration::from_secs(1)),
                "{signal:?}: QEMU is left"
            );
        }
        place.check_nothing_is_left("after an interrupted boot");
    });
}
