//! A full-speed guest without a VM: a network namespace whose only link is a TAP device, the other end of which
//! is the test's.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tun_rs::{DeviceBuilder, Layer};

/// The link's name inside the namespace.
const INTERFACE: &str = "eth0";
/// Programs that make the namespace and enter it: of util-linux, of mount, and of iproute2.
const PROGRAMS: &[&str] = &["unshare", "nsenter", "mount", "ip"];
/// Makes the namespaces of the guest, tells that it has, and keeps them until its input ends, which it does with this process
/// however that ends, and then clears up. Programs must ask the guest's name server, so what leads elsewhere is covered.
const HOLD: &str = r#"set -e
for file in resolv.conf nsswitch.conf; do
    if [ -e "/etc/$file" ]; then mount --bind "$1/$file" "/etc/$file"; fi
done
ip link set lo up
echo ready
cat
rm -r "$1""#;

/// How the guest's interface is set up.
#[derive(Clone, Debug)]
pub struct NetnsSettings {
    /// Largest IP packet, in octets.
    pub mtu: u16,
    /// The interface's hardware address.
    pub mac: [u8; 6],
    /// Its addresses with their prefix lengths. With none, no address is set and router advertisements are heeded.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Default routes, at most one of each family.
    pub gateways: Vec<IpAddr>,
    /// What `/etc/resolv.conf` names.
    pub nameservers: Vec<IpAddr>,
}

/// A network namespace with a TAP device in it. Both are gone with this value, and with this process if that is killed,
/// once the programs started in it have ended.
#[derive(Debug)]
pub struct NetnsGuest {
    holder: Child,
    /// Its end ends the holder.
    alive: Option<ChildStdin>,
    tap: Option<OwnedFd>,
    /// What the guest has in the place of the host's files.
    files: PathBuf,
}

impl NetnsGuest {
    /// Why this machine cannot have such a guest; `None` if it can.
    #[must_use]
    pub fn missing() -> Option<String> {
        if !rustix::process::geteuid().is_root() {
            return Some("a network namespace with a TAP device takes root".to_owned());
        }
        let device = Path::new("/dev/net/tun");
        if let Err(error) = fs::File::open(device) {
            return Some(format!("{}: {error}", device.display()));
        }
        let lacks = |program: &&&str| Command::new(program).arg("--version").output().is_err();
        if let Some(program) = PROGRAMS.iter().find(lacks) {
            return Some(format!("{program} is not installed"));
        }
        let mut unshare = Command::new("unshare");
        let tried = unshare.args(["--net", "--mount", "true"]).output();
        tried
            .is_ok_and(|output| !output.status.success())
            .then(|| "this machine lets nobody make network or mount namespaces".to_owned())
    }

    /// Makes the guest; where [that cannot be](Self::missing), says so as tests do that are skipped.
    ///
    /// # Panics
    /// When a machine that has everything needed still refuses.
    #[must_use]
    pub fn start_or_skip(settings: &NetnsSettings) -> Option<Self> {
        if let Some(reason) = Self::missing() {
            eprintln!("skipped: {reason}");
            return None;
        }
        Some(Self::start(settings))
    }

    /// Makes the guest.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn start(settings: &NetnsSettings) -> Self {
        let mut guest = Self::unlinked(&settings.nameservers);
        guest.tap = Some(guest.make_tap());
        guest.configure(settings);
        guest
    }

    /// A namespace without a link, for a program that brings its own.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn unlinked(nameservers: &[IpAddr]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let unique = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("msb-netns-{}-{unique}", std::process::id());
        let files = std::env::temp_dir().join(name);
        fs::create_dir(&files).unwrap();
        let nameservers = nameservers
            .iter()
            .map(|address| format!("nameserver {address}\n"));
        fs::write(files.join("resolv.conf"), nameservers.collect::<String>()).unwrap();
        fs::write(
            files.join("nsswitch.conf"),
            "passwd: files\ngroup: files\nhosts: files dns\n",
        )
        .unwrap();
        let mut holder = Command::new("unshare")
            .args([
                "--net",
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-c",
                HOLD,
                "sh",
            ])
            .arg(&files)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let stdout = holder.stdout.take().unwrap();
        let alive = holder.stdin.take().unwrap();
        let guest = Self {
            holder,
            alive: Some(alive),
            tap: None,
            files,
        };
        BufReader::new(stdout).read_line(&mut said).unwrap();
        assert_eq!(said, "ready\n", "the namespace could not be made");
        guest
    }

    /// The other end of the guest's link: the TAP device, one frame a read or write. To be taken once.
    ///
    /// # Panics
    /// When it was taken before.
    pub fn take_tap(&mut self) -> OwnedFd {
        self.tap.take().expect("the link has one other end")
    }

    /// The process id of a process in the namespace, which lives as long as it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.holder.id()
    }

    /// A command that runs `program` in the guest. Its directory is `/`.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.namespace("net").display()));
        command.arg(format!("--mount={}", self.namespace("mnt").display()));
        command.arg("--").arg(program);
        command
    }

    /// Runs `script` in the guest's shell and returns what it wrote.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn shell(&self, script: &str) -> String {
        let output = self.command("sh").args(["-ec", script]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let failure = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}: {said}{failure}");
        said
    }

    fn namespace(&self, kind: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/{kind}", self.holder.id()))
    }

    /// Runs `work` on a thread whose sockets are the guest's.
    ///
    /// # Panics
    /// When `work` does.
    #[track_caller]
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = fs::File::open(self.namespace("net")).unwrap();
        let enter = move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        };
        std::thread::scope(|scope| scope.spawn(enter).join()).expect("the work inside panicked")
    }

    fn make_tap(&self) -> OwnedFd {
        self.inside(|| {
            let device = DeviceBuilder::new()
                .name(INTERFACE)
                .layer(Layer::L2)
                .enable(false);
            let device = device.build_sync().unwrap();
            device.as_fd().try_clone_to_owned().unwrap()
        })
    }

    fn configure(&self, settings: &NetnsSettings) {
        let NetnsSettings {
            mtu,
            mac,
            addresses,
            gateways,
            ..
        } = settings;
        let mac = mac.map(|octet| format!("{octet:02x}")).join(":");
        let mut script = format!("ip link set {INTERFACE} address {mac} mtu {mtu}\n");
        if !addresses.is_empty() {
            script += &format!("echo 0 >/proc/sys/net/ipv6/conf/{INTERFACE}/accept_ra\n");
        }
        script += &format!("ip link set {INTERFACE} up\n");
        for (address, prefix_len) in addresses {
            // An address still being checked for duplicates cannot be used, and there is nobody to have the same.
            let check = if address.is_ipv6() { " nodad" } else { "" };
            script += &format!("ip addr add {address}/{prefix_len} dev {INTERFACE}{check}\n");
        }
        for gateway in gateways {
            let family = if gateway.is_ipv6() { "-6" } else { "-4" };
            script += &format!("ip {family} route add default via {gateway} dev {INTERFACE}\n");
        }
        self.shell(&script);
    }
}

impl Drop for NetnsGuest {
    fn drop(&mut self) {
        drop(self.alive.take());
        // It ends, for its input has.
        let _ = self.holder.wait();
        // The holder has removed them, unless something has ended it before.
        let _ = fs::remove_dir_all(&self.files);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn settings() -> NetnsSettings {
        NetnsSettings {
            mtu: 65_520,
            mac: [2, 0, 0, 0, 0, 2],
            addresses: vec![
                ("192.0.2.2".parse().unwrap(), 24),
                ("fd00::2".parse().unwrap(), 64),
            ],
            gateways: vec!["192.0.2.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            nameservers: vec!["192.0.2.1".parse().unwrap()],
        }
    }

    #[test]
    fn the_guest_has_its_addresses_routes_and_name_server_and_nothing_of_the_hosts() {
        let Some(guest) = NetnsGuest::start_or_skip(&settings()) else {
            return;
        };
        let addresses = guest.shell("ip -o addr show");
        for part in ["192.0.2.2/24", "fd00::2/64"] {
            assert!(addresses.contains(part), "{part} is missing in {addresses}");
        }
        let link = guest.shell("ip -o link show");
        for part in ["mtu 65520", "02:00:00:00:00:02"] {
            assert!(link.contains(part), "{part} is missing in {link}");
        }
        assert_eq!(link.lines().count(), 2, "lo and the TAP device: {link}");
        assert!(
            guest
                .shell("ip -4 route show default")
                .starts_with("default via 192.0.2.1")
        );
        assert!(
            guest
                .shell("ip -6 route show default")
                .starts_with("default via fd00::1")
        );
        assert_eq!(
            guest.shell("cat /etc/resolv.conf"),
            "nameserver 192.0.2.1\n"
        );
    }

    #[test]
    fn frames_of_the_guest_come_out_of_the_tap() {
        let Some(mut guest) = NetnsGuest::start_or_skip(&settings()) else {
            return;
        };
        let mut tap = fs::File::from(guest.take_tap());
        rustix::io::ioctl_fionbio(&tap, false).unwrap();
        // Nobody is there to answer ARP.
        guest.shell("ip neigh add 192.0.2.1 lladdr 02:00:00:00:00:01 dev eth0");
        let mut bash = guest.command("bash");
        let sent = bash.args(["-c", "echo hello >/dev/udp/192.0.2.1/9"]);
        assert!(sent.status().unwrap().success());
        let mut frame = vec![0; 70_000];
        loop {
            let len = tap.read(&mut frame).unwrap();
            if len > 34 && frame[12..14] == [8, 0] && frame[23] == 17 {
                assert_eq!(frame[30..34], [192, 0, 2, 1]);
                assert!(frame[..len].ends_with(b"hello\n"));
                return;
            }
        }
    }

    #[test]
    fn nothing_is_left_of_a_guest_that_is_gone() {
        let Some(guest) = NetnsGuest::start_or_skip(&settings()) else {
            return;
        };
        let (pid, files) = (guest.pid(), guest.files.clone());
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _guest = guest;
            panic!("a test fails");
        }));
        assert!(panicked.is_err());
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
        assert!(!files.exists());
    }
}
