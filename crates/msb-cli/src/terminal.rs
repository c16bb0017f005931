//! The terminal msb runs on, while a program of the guest has it: raw, and given back whatever happens.

use std::io::{self, IsTerminal as _};
use std::sync::{Mutex, Once, PoisonError};

use anyhow::{Context as _, Result, bail};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// What a terminal is taken for that does not say how large it is.
const DEFAULT_SIZE: (u16, u16) = (24, 80);
/// What a guest is told of a terminal that its image may never have heard of: those made since are like it.
const LIKE_MOST: &str = "xterm-256color";
/// What every distribution's base system can drive (Debian's ncurses-base).
const KNOWN_TERMS: &[&str] = &[
    "ansi",
    "dumb",
    "linux",
    "rxvt",
    "rxvt-unicode",
    "screen",
    "screen-256color",
    "tmux",
    "tmux-256color",
    "vt100",
    "vt102",
    "vt220",
    "xterm",
    "xterm-color",
    "xterm-256color",
];
/// Signals that would end msb at once; the others are acted on elsewhere, or cannot be.
const ENDING: [SignalKind; 4] = [
    SignalKind::quit(),
    SignalKind::alarm(),
    SignalKind::user_defined1(),
    SignalKind::user_defined2(),
];

/// How the terminal was before it was made raw. Kept where a panic on any thread finds it.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);
static HOOK: Once = Once::new();

/// The terminal of standard input in raw mode. It is as it was when this is dropped, and before a panic is told.
#[derive(Debug)]
pub(crate) struct RawTerminal {
    resized: Signal,
    continued: Signal,
    ended: mpsc::Receiver<u8>,
}

/// What happens to a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It has so many rows and columns now.
    Size(u16, u16),
    /// msb is to end with this exit status, because of a signal.
    End(u8),
}

impl RawTerminal {
    /// Makes the terminal raw: what is typed goes to whoever reads standard input, Ctrl-C too.
    ///
    /// # Errors
    /// When standard input is no terminal.
    pub(crate) fn enter() -> Result<Self> {
        require()?;
        let (sender, ended) = mpsc::channel(1);
        let watch = || {
            for kind in ENDING {
                let (mut signal, sender) = (signal(kind)?, sender.clone());
                let number = u8::try_from(kind.as_raw_value()).unwrap_or_default();
                tokio::spawn(async move {
                    if signal.recv().await.is_some() {
                        // A full queue means that it ends already.
                        let _ = sender.try_send(number.saturating_add(128));
                    }
                });
            }
            io::Result::Ok(Self {
                resized: signal(SignalKind::window_change())?,
                continued: signal(SignalKind::from_raw(rustix::process::Signal::CONT.as_raw()))?,
                ended,
            })
        };
        let terminal = watch().context("cannot watch for signals")?;
        HOOK.call_once(|| {
            let tell = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                restore();
                tell(panic);
            }));
        });
        make_raw().context("cannot make the terminal raw")?;
        Ok(terminal)
    }

    /// Waits for the next change. Cancelling it loses none.
    pub(crate) async fn changed(&mut self) -> Change {
        tokio::select! {
            _ = self.resized.recv() => {}
            _ = self.continued.recv() => {
                // Whoever had the terminal meanwhile has set it for himself.
                let _ = make_raw();
            }
            code = self.ended.recv() => {
                // The tasks hold the sender until they have sent.
                return Change::End(code.unwrap_or(crate::OWN_FAILURE));
            }
        }
        let (rows, cols) = size();
        Change::Size(rows, cols)
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
    }
}

/// # Errors
/// When standard input is no terminal.
pub(crate) fn require() -> Result<()> {
    if !io::stdin().is_terminal() {
        bail!("standard input is not a terminal: leave --tty out, or run msb on one");
    }
    Ok(())
}

fn make_raw() -> io::Result<()> {
    let stdin = io::stdin();
    let mut before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner);
    let settings = match &*before {
        Some(settings) => settings.clone(),
        None => tcgetattr(&stdin)?,
    };
    let mut raw = settings.clone();
    raw.make_raw();
    tcsetattr(&stdin, OptionalActions::Now, &raw)?;
    *before = Some(settings);
    Ok(())
}

fn restore() {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(settings) = before {
        // If it is gone there is nothing to give back.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &settings);
    }
}

/// The rows and columns of the terminal, whichever stream it is on.
pub(crate) fn size() -> (u16, u16) {
    let sizes = [
        tcgetwinsize(io::stdin()),
        tcgetwinsize(io::stdout()),
        tcgetwinsize(io::stderr()),
    ];
    let told = sizes.into_iter().flatten();
    told.map(|size| (size.ws_row, size.ws_col))
        .find(|(rows, cols)| *rows > 0 && *cols > 0)
        .unwrap_or(DEFAULT_SIZE)
}

/// What the guest is to take the terminal for: its `TERM`.
pub(crate) fn term() -> String {
    guest_term(std::env::var("TERM").ok().as_deref()).to_owned()
}

fn guest_term(of_host: Option<&str>) -> &str {
    match of_host {
        Some(term) if KNOWN_TERMS.contains(&term) => term,
        _ => LIKE_MOST,
    }
}

#[cfg(test)]
mod tests {
    use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
    use rustix::termios::LocalModes;

    use super::*;

    /// Set in the process that panics on a terminal.
    const CHILD: &str = "MSB_TEST_PANICS";

    /// The terminal is made raw, a thread panics, and nothing is dropped, as in a program that aborts on a panic.
    #[test]
    fn a_panic_gives_the_terminal_back() {
        if std::env::var_os(CHILD).is_some() {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let _guard = runtime.enter();
            let _terminal = RawTerminal::enter().unwrap();
            assert!(
                !tcgetattr(io::stdin())
                    .unwrap()
                    .local_modes
                    .contains(LocalModes::ICANON)
            );
            let _ = std::thread::spawn(|| panic!("on purpose")).join();
            std::process::exit(7);
        }
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = openpt(flags).unwrap();
        unlockpt(&ours).unwrap();
        let theirs = ioctl_tiocgptpeer(&ours, flags).unwrap();
        let modes = || {
            let settings = tcgetattr(&theirs).unwrap();
            (
                settings.local_modes,
                settings.input_modes,
                settings.output_modes,
            )
        };
        let before = modes();
        assert!(before.0.contains(LocalModes::ICANON | LocalModes::ECHO));
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "terminal::tests::a_panic_gives_the_terminal_back",
            ])
            .env(CHILD, "1")
            .stdin(theirs.try_clone().unwrap())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(7));
        assert_eq!(modes(), before);
    }

    #[test]
    fn terminals_that_no_image_knows_are_like_most() {
        for (of_host, expected) in [
            (Some("tmux-256color"), "tmux-256color"),
            (Some("dumb"), "dumb"),
            (Some("xterm-kitty"), "xterm-256color"),
            (Some(""), "xterm-256color"),
            (None, "xterm-256color"),
        ] {
            assert_eq!(guest_term(of_host), expected);
        }
    }
}
