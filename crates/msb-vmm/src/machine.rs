//! What the guest is made of, and the QEMU arguments that make it. Pure: no file is looked at.

use std::ffi::OsString;
use std::num::NonZeroU8;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::Accelerator;

/// The name of the virtio-serial port the agent listens on in the guest.
const AGENT_PORT: &str = "dev.msb.agent";

/// The serial number of the root disk in the guest: disks are not numbered in the order in which they are given.
pub const ROOT_SERIAL: &str = "msb-root";
/// The serial number of the scratch disk in the guest.
pub const SCRATCH_SERIAL: &str = "msb-scratch";
/// Requests to a shared directory that may be under way at once.
const SHARE_QUEUE: u16 = 1024;

/// One guest machine. The fields may be changed freely until it is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The QEMU program: a path, or a name looked up in `PATH`.
    pub qemu: PathBuf,
    /// An uncompressed kernel with a PVH entry point (`vmlinux`).
    pub kernel: PathBuf,
    /// The initial file system, a cpio archive.
    pub initramfs: Option<PathBuf>,
    /// The root disk, `/dev/vda` in the guest, always read-only.
    pub root: Option<Disk>,
    /// Virtual processors.
    pub cpus: NonZeroU8,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// What runs the guest's instructions.
    pub accelerator: Accelerator,
    /// The frequency of the host's time stamp counter in kHz, from [`tsc_khz`](crate::tsc_khz). Needed under
    /// TCG, whose timers are too coarse for the guest kernel to measure it by itself on a busy host.
    pub tsc_khz: Option<u64>,
    /// The guest's network interface; `None` leaves it without one.
    pub network: Option<NetworkDevice>,
    /// Whether the guest has the agent's port.
    pub agent: bool,
    /// Further words for the kernel command line.
    pub kernel_args: Vec<String>,
}

/// A disk image file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The raw image file.
    pub path: PathBuf,
    /// Its file system, as the guest's `mount -t` names it.
    pub fstype: String,
}

/// A virtio network interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkDevice {
    /// The guest's hardware address.
    pub mac: [u8; 6],
    /// The interface's MTU in bytes, 68 to 65,520. The guest takes it from the device.
    pub mtu: u16,
}

/// The descriptor numbers the QEMU process finds its ends of the channels at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fds {
    /// The QMP monitor.
    pub qmp: i32,
    /// The agent's byte stream.
    pub agent: i32,
    /// Ethernet frames, each behind its length as four big-endian bytes.
    pub network: i32,
    /// A writable raw disk, if the guest has one; its serial number in the guest is [`SCRATCH_SERIAL`].
    pub scratch: Option<i32>,
    /// Connections to who serves directories of the host (vhost-user), with the tags under which the guest mounts them.
    pub shares: Vec<(String, i32)>,
}

impl Machine {
    /// A machine with one processor, 512 MiB, the agent's port, no disk and no network.
    pub fn new(
        kernel: impl Into<PathBuf>,
        initramfs: impl Into<PathBuf>,
        accelerator: Accelerator,
    ) -> Self {
        Self {
            qemu: PathBuf::from("qemu-system-x86_64"),
            kernel: kernel.into(),
            initramfs: Some(initramfs.into()),
            root: None,
            cpus: NonZeroU8::MIN,
            memory_mib: 512,
            accelerator,
            tsc_khz: None,
            network: None,
            agent: true,
            kernel_args: Vec::new(),
        }
    }

    /// QEMU's arguments, the program itself aside.
    pub fn arguments(&self, fds: &Fds) -> Vec<OsString> {
        let mut args = Arguments::default();
        args.pair(
            "-M",
            "microvm,x-option-roms=off,rtc=on,auto-kernel-cmdline=off",
        );
        for flag in ["-nodefaults", "-no-user-config", "-no-reboot"] {
            args.flag(flag);
        }
        args.pair("-display", "none");
        args.pair(
            "-sandbox",
            "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        );
        let (accel, cpu) = self.accelerator.arguments();
        args.pair("-accel", accel);
        args.pair("-cpu", cpu);
        args.pair("-smp", self.cpus.to_string());
        args.pair("-m", format!("{}M", self.memory_mib));
        if !fds.shares.is_empty() {
            // Who serves the directories reads and writes the guest's memory.
            let size = self.memory_mib;
            let memory = format!("memory-backend-memfd,id=memory,size={size}M,share=on");
            args.pair("-object", memory);
            args.pair("-machine", "memory-backend=memory");
            // Their servers know the standard's devices only, not those from before it.
            args.pair("-global", "virtio-mmio.force-legacy=false");
        }
        args.path("-kernel", &self.kernel);
        if let Some(initramfs) = &self.initramfs {
            args.path("-initrd", initramfs);
        }
        args.pair("-append", self.command_line());
        self.devices(fds, &mut args);
        args.0
    }

    fn devices(&self, fds: &Fds, args: &mut Arguments) {
        args.pair("-chardev", format!("socket,id=qmp,fd={}", fds.qmp));
        args.pair("-mon", "chardev=qmp,mode=control");
        args.pair("-chardev", "stdio,id=console,signal=off");
        args.pair("-serial", "chardev:console");
        args.pair("-device", "virtio-rng-device");
        if self.agent {
            args.pair("-chardev", format!("socket,id=agent,fd={}", fds.agent));
            // Of the 31 it has by itself the guest's driver would set up two queues each. Port 0 is a console's.
            args.pair("-device", "virtio-serial-device,max_ports=2");
            args.pair(
                "-device",
                format!("virtserialport,chardev=agent,name={AGENT_PORT}"),
            );
        }
        if let Some(network) = &self.network {
            args.pair("-netdev", format!("socket,id=net,fd={}", fds.network));
            let [a, b, c, d, e, f] = network.mac;
            args.pair(
                "-device",
                format!(
                    "virtio-net-device,netdev=net,host_mtu={},mac={a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}",
                    network.mtu
                ),
            );
        }
        if let Some(root) = &self.root {
            args.pair("-blockdev", block_device(&root.path));
            let device = format!("virtio-blk-device,drive=root,serial={ROOT_SERIAL}");
            args.pair("-device", device);
        }
        if let Some(scratch) = fds.scratch {
            args.pair("-add-fd", format!("fd={scratch},set=1"));
            args.pair("-blockdev", scratch_device());
            let device = format!("virtio-blk-device,drive=scratch,serial={SCRATCH_SERIAL}");
            args.pair("-device", device);
        }
        for (tag, fd) in &fds.shares {
            args.pair("-chardev", format!("socket,id={tag},fd={fd}"));
            let device =
                format!("vhost-user-fs-device,chardev={tag},tag={tag},queue-size={SHARE_QUEUE}");
            args.pair("-device", device);
        }
    }

    /// The kernel's command line.
    pub fn command_line(&self) -> String {
        // Without it the kernel tests its own ciphers at each boot: 0.4 s under emulation.
        let no_self_tests = "cryptomgr.notests";
        let mut words: Vec<String> = ["console=ttyS0", "quiet", "panic=-1", no_self_tests]
            .map(str::to_owned)
            .into();
        if self.accelerator == Accelerator::Tcg {
            // It counts ticks for a while and panics when too few came, as on a busy host they do.
            words.push("no_timer_check".to_owned());
            // QEMU keeps translated code by its address (until 8.0). Randomised, every program that starts is translated
            // anew, which makes a start four times as long. The guest's `kernel.randomize_va_space` turns it on again.
            words.push("norandmaps".to_owned());
        }
        if let Some(khz) = self.tsc_khz
            && self.accelerator == Accelerator::Tcg
        {
            words.push(format!("tsc_early_khz={khz}"));
            // Told, not only measured: on a busy host ticks come late, the kernel's watchdog then takes the counter
            // for the one that is wrong, and time goes on by counting ticks.
            words.push("tsc=reliable".to_owned());
        }
        if let Some(root) = &self.root {
            words.push(format!("msb.rootfstype={}", root.fstype));
        }
        words.extend(self.kernel_args.iter().cloned());
        words.join(" ")
    }
}

/// JSON, so that no character of the path has a meaning of its own.
fn block_device(path: &Path) -> String {
    json!({
        "driver": "raw",
        "node-name": "root",
        "read-only": true,
        "file": { "driver": "file", "filename": path.to_string_lossy(), "read-only": true },
    })
    .to_string()
}

/// Freed blocks go back to the host. Nobody else has the file, and what it holds ends with the machine.
fn scratch_device() -> String {
    json!({
        "driver": "raw",
        "node-name": "scratch",
        "discard": "unmap",
        "detect-zeroes": "unmap",
        "cache": { "no-flush": true },
        "file": { "driver": "file", "filename": "/dev/fdset/1", "locking": "off", "discard": "unmap" },
    })
    .to_string()
}

#[derive(Default)]
struct Arguments(Vec<OsString>);

impl Arguments {
    fn flag(&mut self, flag: &str) {
        self.0.push(flag.into());
    }

    fn pair(&mut self, flag: &str, value: impl Into<String>) {
        self.flag(flag);
        self.0.push(value.into().into());
    }

    fn path(&mut self, flag: &str, path: &Path) {
        self.flag(flag);
        self.0.push(path.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FDS: Fds = Fds {
        qmp: 3,
        agent: 4,
        network: 5,
        scratch: None,
        shares: Vec::new(),
    };

    fn machine() -> Machine {
        Machine::new("/k/vmlinux", "/k/initramfs", Accelerator::Tcg)
    }

    /// The values given to `flag`.
    fn values(machine: &Machine, flag: &str) -> Vec<String> {
        let args = machine.arguments(&FDS);
        args.windows(2)
            .filter(|pair| pair[0] == flag)
            .map(|pair| pair[1].to_string_lossy().into_owned())
            .collect()
    }

    #[track_caller]
    fn check(machine: &Machine, flag: &str, expected: &[&str]) {
        assert_eq!(values(machine, flag), expected, "{flag}");
    }

    #[test]
    fn each_part_of_the_machine_has_its_arguments() {
        let mut machine = machine();
        check(&machine, "-m", &["512M"]);
        check(&machine, "-smp", &["1"]);
        check(&machine, "-kernel", &["/k/vmlinux"]);
        check(&machine, "-initrd", &["/k/initramfs"]);
        check(&machine, "-netdev", &[]);
        check(&machine, "-blockdev", &[]);
        check(
            &machine,
            "-chardev",
            &[
                "socket,id=qmp,fd=3",
                "stdio,id=console,signal=off",
                "socket,id=agent,fd=4",
            ],
        );

        machine.network = Some(NetworkDevice {
            mac: [2, 0, 0, 0xab, 0, 1],
            mtu: 65520,
        });
        check(&machine, "-netdev", &["socket,id=net,fd=5"]);
        assert!(values(&machine, "-device").contains(
            &"virtio-net-device,netdev=net,host_mtu=65520,mac=02:00:00:ab:00:01".to_owned()
        ));
    }

    #[test]
    fn a_scratch_disk_and_shared_directories_come_by_descriptors() {
        let fds = Fds {
            scratch: Some(6),
            shares: vec![("share0".into(), 7), ("share1".into(), 8)],
            ..FDS
        };
        let args = machine().arguments(&fds);
        let args: Vec<_> = args.iter().map(|arg| arg.to_string_lossy()).collect();
        for expected in [
            ["-add-fd", "fd=6,set=1"],
            [
                "-device",
                "virtio-blk-device,drive=scratch,serial=msb-scratch",
            ],
            [
                "-object",
                "memory-backend-memfd,id=memory,size=512M,share=on",
            ],
            ["-machine", "memory-backend=memory"],
            ["-global", "virtio-mmio.force-legacy=false"],
            ["-chardev", "socket,id=share1,fd=8"],
            [
                "-device",
                "vhost-user-fs-device,chardev=share0,tag=share0,queue-size=1024",
            ],
        ] {
            assert!(
                args.windows(2).any(|pair| pair == expected),
                "{expected:?} in {args:?}"
            );
        }
    }

    #[test]
    fn the_accelerator_decides_the_processor_model() {
        let mut machine = machine();
        for (accelerator, accel, cpu) in [
            (Accelerator::Kvm, "kvm", "host"),
            (Accelerator::Tcg, "tcg,thread=multi", "max,-erms,-fsrm"),
        ] {
            machine.accelerator = accelerator;
            check(&machine, "-accel", &[accel]);
            check(&machine, "-cpu", &[cpu]);
        }
    }

    #[test]
    fn a_path_with_commas_and_quotes_reaches_the_block_device_whole() {
        let mut machine = machine();
        let path = "/tmp/a,b=\"c\" d";
        machine.root = Some(Disk {
            path: path.into(),
            fstype: "squashfs".into(),
        });
        let json = values(&machine, "-blockdev").remove(0);
        let parsed: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(parsed["file"]["filename"], path);
        assert_eq!(parsed["read-only"], true);
    }

    #[test]
    fn the_tsc_frequency_is_told_under_tcg_only() {
        let mut machine = machine();
        machine.tsc_khz = Some(2_500_000);
        assert!(
            machine
                .command_line()
                .contains("tsc_early_khz=2500000 tsc=reliable")
        );
        machine.accelerator = Accelerator::Kvm;
        assert!(!machine.command_line().contains("tsc"));
    }

    #[test]
    fn an_emulated_guest_is_spared_what_emulation_makes_slow() {
        let mut machine = machine();
        for (accelerator, expected) in [(Accelerator::Tcg, true), (Accelerator::Kvm, false)] {
            machine.accelerator = accelerator;
            let spared = machine.command_line().contains(" norandmaps");
            assert_eq!(spared, expected, "{accelerator}");
        }
    }

    #[test]
    fn the_guest_never_writes_its_root_disk() {
        let mut machine = machine();
        machine.root = Some(Disk {
            path: "root.squashfs".into(),
            fstype: "squashfs".into(),
        });
        assert!(machine.command_line().contains("msb.rootfstype=squashfs"));
        assert!(values(&machine, "-blockdev")[0].contains(r#""read-only":true"#));
    }
}
