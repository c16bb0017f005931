//! From the first instruction of `/init` to a mounted root: kernel file systems, modules, root disk, overlay.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use msb_agent_proto::PORT_NAME;
use rustix::fs::OFlags;
use rustix::mount::{MountFlags, mount};

use crate::error::Error;
use crate::timings;

/// Device probing is asynchronous; a device that has not come after this long is not coming.
const DEVICE_WAIT: Duration = Duration::from_secs(20);
const ROOT_DISK: &str = "/dev/vda";

/// Mounts what modules and devices need and loads the initramfs' modules in their written order.
pub(crate) fn prepare() -> Result<(), Error> {
    mount_kernel_file_systems()?;
    timings::mark("kernel file systems mounted");
    let order = fs::read_to_string("/modules/order").map_err(|source| Error::Initramfs {
        path: "/modules/order",
        source,
    })?;
    load_modules(&order)?;
    timings::mark("modules loaded");
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
    wait_for(|| Path::new(ROOT_DISK).exists().then_some(()))
        .ok_or(Error::NoRootDisk { device: ROOT_DISK })?;
    let fstype = root_fstype(&fs::read_to_string("/proc/cmdline").unwrap_or_default()).to_owned();
    // Modules that only this file system needs; most need none.
    if let Ok(order) = fs::read_to_string(format!("/modules/order.{fstype}")) {
        load_modules(&order)?;
    }
    mount(
        ROOT_DISK,
        "/lower",
        fstype.as_str(),
        MountFlags::RDONLY,
        None,
    )
    .map_err(|error| Error::RootDisk {
        fstype,
        source: error.into(),
    })?;
    mount_at(
        "tmpfs",
        "tmpfs",
        "/upper",
        MountFlags::empty(),
        Some(c"mode=0755"),
    )?;
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
    timings::mark("file systems mounted");
    Ok(())
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
