//! `msb run -it` on a terminal: a pseudo-terminal of this host, driven as a person would.

use std::fs::File;
use std::io::ErrorKind;
use std::process::Stdio;
use std::time::Duration;

use msb_e2e::on_guests;
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};

use crate::detached::{Background, Expected};
use crate::{OWN_FAILURE, Place, finish, process};

/// A terminal with `msb` on it, and what it has shown.
pub(crate) struct Screen {
    output: pipe::Receiver,
    keys: pipe::Sender,
    pub(crate) shown: String,
    msb: Child,
}

impl Screen {
    fn start(place: &Place, args: &[&str]) -> Self {
        Self::run(&place.msb(args.iter().copied()))
    }

    /// Starts `msb` as a shell starts a job: in a session of its own, with the terminal as its controlling one.
    pub(crate) fn run(msb: &Command) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = openpt(flags).expect("a terminal");
        unlockpt(&ours).expect("unlocked");
        let theirs = ioctl_tiocgptpeer(&ours, flags).expect("its other end");
        rustix::io::ioctl_fionbio(&ours, true).expect("non-blocking");
        let ours = File::from(ours);
        let keys = ours.try_clone().expect("a descriptor");
        let stream = || Stdio::from(theirs.try_clone().expect("a descriptor"));
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(msb.as_std().get_program());
        command.args(msb.as_std().get_args()).env("TERM", "vt100");
        for (name, value) in msb.as_std().get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.stdin(stream()).stdout(stream()).stderr(stream());
        let screen = Self {
            output: pipe::Receiver::from_file_unchecked(ours).expect("registered"),
            keys: pipe::Sender::from_file_unchecked(keys).expect("registered"),
            shown: String::new(),
            msb: command.kill_on_drop(true).spawn().expect("setsid starts"),
        };
        screen.resize(33, 99);
        screen
    }

    pub(crate) fn resize(&self, rows: u16, cols: u16) {
        let size = Winsize {
            ws_row: rows,
            ws_col: cols,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&self.keys, size).expect("a size");
    }

    fn is_raw(&self) -> bool {
        let settings = tcgetattr(&self.keys).expect("settings");
        let cooked = LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
        !settings.local_modes.intersects(cooked)
    }

    pub(crate) async fn type_keys(&self, keys: &str) {
        let mut keys = keys.as_bytes();
        while !keys.is_empty() {
            self.keys.writable().await.expect("a terminal");
            match self.keys.try_write(keys) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                written => keys = &keys[written.expect("written")..],
            }
        }
    }

    /// Reads on until `text` is shown, and forgets what came up to there.
    pub(crate) async fn shows(&mut self, text: &str) {
        loop {
            if let Some(at) = self.shown.find(text) {
                self.shown.drain(..at + text.len());
                return;
            }
            assert!(self.read().await, "{text:?} is not in {:?}", self.shown);
        }
    }

    /// False: nobody has the other end any more.
    async fn read(&mut self) -> bool {
        let mut chunk = [0; 4096];
        loop {
            self.output.readable().await.expect("a terminal");
            match self.output.try_read(&mut chunk) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => return false,
                Ok(len) => {
                    self.shown.push_str(&String::from_utf8_lossy(&chunk[..len]));
                    return true;
                }
            }
        }
    }

    /// Waits for msb's end; what it showed last is left in `shown`.
    pub(crate) async fn ends(&mut self) -> Option<i32> {
        let status = self.msb.wait().await.expect("an end");
        assert!(!self.is_raw(), "the terminal is left raw");
        while self.read().await {}
        status.code()
    }
}

fn on_terminal(line: &str) -> Vec<&str> {
    vec!["run", "-it", "base", "--", "sh", "-c", line]
}

#[test]
fn a_terminal_is_handed_on_with_its_keys_and_changes() {
    on_guests(async {
        let place = Place::new();
        let line = "stty size; echo $TERM; stty -echo; echo ready; read word; echo \"got $word\"; \
            trap 'stty size' WINCH; trap 'echo caught; exit 5' INT; echo waiting; \
            while :; do sleep 0.05; done";
        let mut screen = Screen::start(&place, &on_terminal(line));
        screen.shows("33 99\r\nvt100\r\nready\r\n").await;
        assert!(screen.is_raw());
        screen.type_keys("wörd\r").await;
        screen.shows("got wörd\r\nwaiting\r\n").await;
        screen.resize(20, 60);
        screen.shows("20 60\r\n").await;
        screen.type_keys("\x03").await;
        screen.shows("caught\r\n").await;
        assert_eq!(screen.ends().await, Some(5), "{}", screen.shown);
        place.check_nothing_is_left("after a program on a terminal");
    });
}

#[test]
fn an_editor_and_top_work_on_the_terminal() {
    on_guests(async {
        let place = Place::new();
        let line = "busybox vi /tmp/x; cat /tmp/x; busybox top -d 1";
        let mut screen = Screen::start(&place, &on_terminal(line));
        // It fills the screen with tildes, and its last line says the mode and the file's name. A key that comes with
        // Escape would be taken for a part of one.
        screen.shows("~").await;
        screen.shows("- /tmp/x").await;
        screen.type_keys("i").await;
        screen.shows("I /tmp/x").await;
        screen.type_keys("hello there\x1b").await;
        screen.shows("- /tmp/x").await;
        screen.type_keys(":wq\r").await;
        // From `cat`: the editor moves the cursor between the letters.
        screen.shows("hello there\r\n").await;
        screen.shows("Mem: ").await;
        screen.shows("busybox top").await;
        screen.type_keys("q").await;
        assert_eq!(screen.ends().await, Some(0), "{}", screen.shown);
    });
}

#[test]
fn the_terminal_is_given_back_whatever_ends_msb() {
    on_guests(async {
        let place = Place::new();
        let line = "trap '' INT TERM HUP; stty -echo; echo ready; sleep 600";
        for (signal, code) in [
            (Signal::INT, 130),
            (Signal::TERM, 143),
            (Signal::HUP, 129),
            (Signal::QUIT, 131),
            (Signal::USR1, 138),
        ] {
            let mut screen = Screen::start(&place, &on_terminal(line));
            screen.shows("ready\r\n").await;
            assert!(screen.is_raw());
            process(&screen.msb).signal(signal);
            assert_eq!(screen.ends().await, Some(code), "{signal:?}");
        }
        let mut screen = Screen::start(&place, &on_terminal(line));
        screen.shows("ready\r\n").await;
        let qemu = crate::qemu_of(&process(&screen.msb)).await;
        qemu.signal(Signal::KILL);
        assert_eq!(screen.ends().await, Some(OWN_FAILURE));
        assert!(
            screen.shown.contains("the sandbox has ended"),
            "{}",
            screen.shown
        );
        place.check_nothing_is_left("after every end");
    });
}

#[test]
fn the_terminal_is_given_back_by_exec_and_attach_too() {
    on_guests(async {
        let there = Background::new();
        let line = "run -dit --name box base -- sh -c";
        let command = Some("trap '' INT TERM HUP; echo up; sleep 600");
        there.check(line, command, Expected::says("box\n")).await;
        let line = "trap '' INT TERM HUP; echo ready; sleep 600";
        for (signal, code) in [(Signal::TERM, 143), (Signal::HUP, 129), (Signal::QUIT, 131)] {
            let exec = there.command(["exec", "-it", "box", "sh", "-c", line]);
            let mut screen = Screen::run(&exec);
            screen.shows("ready\r\n").await;
            assert!(screen.is_raw());
            process(&screen.msb).signal(signal);
            assert_eq!(screen.ends().await, Some(code), "exec: {signal:?}");
        }
        let mut screen = Screen::run(&there.command(["attach", "--no-signals", "box"]));
        while !screen.is_raw() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        process(&screen.msb).signal(Signal::TERM);
        assert_eq!(screen.ends().await, Some(143), "attach");
        let mut screen = Screen::run(&there.command(["attach", "box"]));
        while !screen.is_raw() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        there.check("kill box", None, Expected::says("box\n")).await;
        assert_eq!(screen.ends().await, Some(137), "attach");
        there.check("rm box", None, Expected::says("box\n")).await;
        there.check_nothing_is_left("after its removal").await;
    });
}

#[test]
fn missing_programs_and_time_that_is_over_are_told_on_a_terminal_too() {
    on_guests(async {
        let place = Place::new();
        for (args, code, part) in [
            ("run -it base -- no-such-program", 127, "no such program"),
            ("run -it base -- /etc/passwd", 126, "cannot execute"),
            (
                "run -it --timeout 1 base -- sleep 600",
                124,
                "longer than 1 s",
            ),
            ("run -it --user nobody base -- sh -c exit", 0, ""),
            (
                "run -it --user mallory base -- true",
                OWN_FAILURE,
                "mallory",
            ),
        ] {
            let args: Vec<_> = args.split(' ').collect();
            let mut screen = Screen::start(&place, &args);
            assert_eq!(
                screen.ends().await,
                Some(code),
                "{args:?}: {}",
                screen.shown
            );
            assert!(screen.shown.contains(part), "{args:?}: {}", screen.shown);
        }
        place.check_nothing_is_left("after each end");
    });
}

/// No guest is booted for nothing.
#[test]
fn a_terminal_that_is_none_is_refused_at_once() {
    on_guests(async {
        let place = Place::new();
        for args in ["run -t base -- true", "run -it base -- true"] {
            let command = place.msb(args.split(' '));
            let ended = tokio::time::timeout(Duration::from_secs(60), finish(command, Vec::new()));
            let ended = ended.await.expect("an end");
            assert_eq!(ended.code, Some(OWN_FAILURE), "{args}");
            assert!(ended.stderr.contains("not a terminal"), "{}", ended.stderr);
            assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
        }
        place.check_nothing_is_left("after a refusal");
    });
}
