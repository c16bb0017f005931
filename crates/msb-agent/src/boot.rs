//! From the first instruction of `/init` to a mounted root: kernel file systems, modules, root disk, overlay.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use msb_agent_proto::PORT_NAME;
use msb_agent_proto::v1::Mount;
use rustix::fs::OFlags;
use rustix::mount::{MountFlags, mount};

use crate::error::Error;
use crate::timings;

/// Device probing is asynchronous; a device that has not come after this long is not coming.
const DEVICE_WAIT: Duration = Duration::from_secs(20);
/// Serial numbers of disks, as `msb-vmm` gives them: disks come in no order.
const ROOT_DISK: &str = "msb-root";
const SCRATCH_DISK: &str = "msb-scratch";
/// Words of the kernel's command line: there is a scratch disk; directories of the host will be mounted.
const HAS_SCRATCH: &str = "msb.scratch";
const HAS_SHARES: &str = "msb.shares";

/// Mounts what modules and devices need and loads the initramfs' modules in their written order.
pub(crate) fn prepare() -> Result<(), Error> {
    mount_kernel_file_systems()?;
    timings::mark("kernel file systems mounted");
    let order = fs::read_to_string("/modules/order").map_err(|source| Error::Initramfs {
        path: "/modules/order",
        source,
    })?;
    load_modules(&order)?;
    Ok(())
}

/// Loads modules of the initramfs by their names, one a line.
fn load_modules(order: &str) -> Result<(), Error> {
    for name in order.lines().filter(|line| !line.is_empty()) {
        let load = |path: PathBuf| {
            let module = File::open(path)?;
            match rustix::system::finit_module(&module, c"", 0) {
                // Built in, or loaded by an earlier line.
                Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
                Err(error) => Err(io::Error::from(error)),
            }
        };
        load(Path::new("/modules").join(name)).map_err(|source| Error::Module {
            name: name.to_owned(),
            source,
        })?;
        timings::mark(format!("module {name}"));
    }
    Ok(())
}

/// Opens the virtio-serial port the host speaks on, non-blocking.
pub(crate) fn open_agent_port() -> Result<File, Error> {
    let device = wait_for(|| find_port("/sys/class/virtio-ports"))
        .ok_or(Error::NoAgentPort { name: PORT_NAME })?;
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open(device)
        .map_err(Error::AgentPort)
}

fn find_port(class: &str) -> Option<PathBuf> {
    fs::read_dir(class)
        .ok()?
        .flatten()
        .find(|entry| {
            fs::read_to_string(entry.path().join("name"))
                .is_ok_and(|name| name.trim_end() == PORT_NAME)
        })
        .map(|entry| Path::new("/dev").join(entry.file_name()))
        .filter(|device| device.exists())
}

/// Mounts the root disk read-only under a writable tmpfs overlay and makes it `/`.
pub(crate) fn enter_root() -> Result<(), Error> {
    for dir in ["/lower", "/upper", "/root"] {
        fs::create_dir_all(dir).map_err(Error::EnterRoot)?;
    }
    let root = wait_for_disk(ROOT_DISK)?;
    let cmdline = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let has = |word: &str| cmdline.split_ascii_whitespace().any(|other| other == word);
    let fstype = root_fstype(&cmdline).to_owned();
    load_modules_of(&fstype)?;
    if has(HAS_SHARES) {
        load_modules_of("virtiofs")?;
    }
    mount(&root, "/lower", fstype.as_str(), MountFlags::RDONLY, None).map_err(|error| {
        Error::RootDisk {
            fstype,
            source: error.into(),
        }
    })?;
    mount_upper(has(HAS_SCRATCH))?;
    for dir in ["/upper/data", "/upper/work"] {
        fs::create_dir(dir).map_err(Error::EnterRoot)?;
    }
    mount_at(
        "overlay",
        "overlay",
        "/root",
        MountFlags::empty(),
        Some(c"lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work"),
    )?;
    switch_root().map_err(Error::EnterRoot)?;
    timings::mark("root mounted");
    mount_kernel_file_systems()?;
    mount_user_file_systems()?;
    end_thrashing();
    timings::mark("file systems mounted");
    Ok(())
}

/// Has the kernel kill a program when memory does not even hold what was used within the last second. Else it drops and
/// reads again the pages of programs' files, which it counts as progress, for minutes before it gives up (measured: over
/// 100 s in 192 MiB, and 7 to 18 s with this). Linux 6.1, `admin-guide/mm/multigen_lru.rst`; a kernel without it stays as
/// it is.
fn end_thrashing() {
    for (file, value) in [("enabled", "y"), ("min_ttl_ms", "1000")] {
        let _ = fs::write(Path::new("/sys/kernel/mm/lru_gen").join(file), value);
    }
}

/// What is written to the root goes there: into memory, or onto the scratch disk.
fn mount_upper(to_disk: bool) -> Result<(), Error> {
    if !to_disk {
        let data = Some(c"mode=0755");
        return mount_at("tmpfs", "tmpfs", "/upper", MountFlags::empty(), data);
    }
    let disk = wait_for_disk(SCRATCH_DISK)?;
    load_modules_of("ext4")?;
    mount(&disk, "/upper", "ext4", MountFlags::NOATIME, None).map_err(|error| Error::ScratchDisk {
        source: error.into(),
    })
}

/// The device of the disk with this serial number.
fn wait_for_disk(serial: &'static str) -> Result<PathBuf, Error> {
    let found = wait_for(|| {
        let device = Path::new("/dev").join(find_disk("/sys/block", serial)?);
        device.exists().then_some(device)
    });
    found.ok_or(Error::NoDisk { serial })
}

fn find_disk(class: &str, serial: &str) -> Option<std::ffi::OsString> {
    let disks = fs::read_dir(class).ok()?.flatten();
    let found = disks.map(|entry| entry.path()).find(|disk| {
        fs::read_to_string(disk.join("serial")).is_ok_and(|found| found.trim_end() == serial)
    });
    found?.file_name().map(ToOwned::to_owned)
}

/// Loads the modules that only this file system needs; most need none.
fn load_modules_of(fstype: &str) -> Result<(), Error> {
    match fs::read_to_string(format!("/modules/order.{fstype}")) {
        Ok(order) => load_modules(&order),
        Err(_) => Ok(()),
    }
}

/// Mounts a directory of the host where the host wants it.
pub(crate) fn mount_share(mount_request: &Mount) -> io::Result<()> {
    let Mount {
        tag,
        path,
        read_only,
    } = mount_request;
    fs::create_dir_all(path)?;
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
    flags.set(MountFlags::RDONLY, *read_only);
    Ok(mount(tag.as_str(), path.as_str(), "virtiofs", flags, None)?)
}

/// `msb.rootfstype=` on the kernel command line; squashfs when it is not there.
fn root_fstype(cmdline: &str) -> &str {
    cmdline
        .split_ascii_whitespace()
        .find_map(|word| word.strip_prefix("msb.rootfstype="))
        .unwrap_or("squashfs")
}

/// The initial root cannot be pivoted away from (it is rootfs): the new root is moved over it instead.
fn switch_root() -> io::Result<()> {
    // The initramfs' own mounts stay below and are out of reach after the chroot.
    rustix::process::chdir("/root")?;
    rustix::mount::mount_move(".", "/")?;
    rustix::process::chroot(".")?;
    rustix::process::chdir("/")?;
    Ok(())
}

fn mount_kernel_file_systems() -> Result<(), Error> {
    let quiet = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
    for (fstype, target, flags, data) in [
        ("proc", "/proc", quiet, None),
        ("sysfs", "/sys", quiet, None),
        ("devtmpfs", "/dev", MountFlags::NOSUID, Some(c"mode=0755")),
    ] {
        fs::create_dir_all(target).map_err(|source| Error::Mount {
            what: fstype,
            target,
            source,
        })?;
        mount_at(fstype, fstype, target, flags, data)?;
    }
    Ok(())
}

/// What programs expect besides the kernel's own: terminals, shared memory, `/run`, `/tmp`.
fn mount_user_file_systems() -> Result<(), Error> {
    let nosuid = MountFlags::NOSUID | MountFlags::NODEV;
    for (fstype, target, flags, data) in [
        (
            "devpts",
            "/dev/pts",
            MountFlags::NOSUID | MountFlags::NOEXEC,
            Some(c"gid=5,mode=0620,ptmxmode=0666"),
        ),
        ("tmpfs", "/dev/shm", nosuid, Some(c"mode=1777")),
        ("tmpfs", "/run", nosuid, Some(c"mode=0755")),
        ("tmpfs", "/tmp", nosuid, Some(c"mode=1777")),
        (
            "cgroup2",
            "/sys/fs/cgroup",
            nosuid | MountFlags::NOEXEC,
            None,
        ),
    ] {
        // An image may lack the directory; the overlay above it is writable, sysfs brings its own.
        let _ = fs::create_dir_all(target);
        mount_at(fstype, fstype, target, flags, data)?;
    }
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        match std::os::unix::fs::symlink(target, link) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::EnterRoot(error));
            }
            _ => {}
        }
    }
    Ok(())
}

fn mount_at(
    source: &'static str,
    fstype: &'static str,
    target: &'static str,
    flags: MountFlags,
    data: Option<&std::ffi::CStr>,
) -> Result<(), Error> {
    match mount(source, target, fstype, flags, data) {
        // The kernel mounts devtmpfs by itself where it is configured to.
        Ok(()) | Err(rustix::io::Errno::BUSY) => Ok(()),
        Err(error) => Err(Error::Mount {
            what: fstype,
            target,
            source: error.into(),
        }),
    }
}

/// Asks until there is an answer or `DEVICE_WAIT` is over. Nothing else runs yet that could be waited on.
fn wait_for<T>(mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let start = std::time::Instant::now();
    loop {
        if let Some(found) = probe() {
            return Some(found);
        }
        if start.elapsed() > DEVICE_WAIT {
            return None;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_fstype_comes_from_the_command_line() {
        for (cmdline, expected) in [
            ("", "squashfs"),
            ("quiet msb.rootfstype=ext4 panic=-1\n", "ext4"),
            ("xmsb.rootfstype=ext4", "squashfs"),
        ] {
            assert_eq!(root_fstype(cmdline), expected, "{cmdline:?}");
        }
    }

    #[test]
    fn a_disk_is_found_by_its_serial_number() {
        let class = tempfile::tempdir().expect("a directory");
        for (disk, serial) in [
            ("vda", Some("msb-scratch")),
            ("vdb", Some("msb-root\n")),
            ("loop0", None),
        ] {
            fs::create_dir(class.path().join(disk)).expect("a disk");
            if let Some(serial) = serial {
                fs::write(class.path().join(disk).join("serial"), serial).expect("its number");
            }
        }
        let class = class.path().to_str().expect("UTF-8");
        for (serial, expected) in [
            ("msb-root", Some("vdb")),
            ("msb-scratch", Some("vda")),
            ("msb", None),
        ] {
            assert_eq!(
                find_disk(class, serial).as_deref(),
                expected.map(AsRef::as_ref),
                "{serial}"
            );
        }
    }

    #[test]
    fn the_agent_port_is_found_by_its_name() {
        let class = tempfile::tempdir().expect("a directory");
        for (port, name) in [("vport0p1", "other\n"), ("null", "dev.msb.agent\n")] {
            fs::create_dir(class.path().join(port)).expect("a port");
            fs::write(class.path().join(port).join("name"), name).expect("its name");
        }
        let class = class.path().to_str().expect("UTF-8");
        assert_eq!(find_port(class), Some(PathBuf::from("/dev/null")));
    }
}
