//! `msb proxy`: the engine without a machine, for containers, CI and foreign tools.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use msb::{CutOff, Event, EventFile, EventWriter, Proxy, SecretBuilder};
use tokio::task::JoinHandle;

use crate::args::ProxyArgs;
use crate::interrupt::{HANG_UP, Interrupts};
use crate::report;
use crate::secrets::SecretSpec;

/// Anybody may read a certificate: containers and other users have to.
const CA_MODE: u32 = 0o644;

/// How long the end of all connections may take once there is a reason for it.
const LAST_RESETS: Duration = Duration::from_secs(2);

/// Serves until it is told to end, and returns the exit status.
///
/// # Errors
/// What kept it from serving, or the violation that ended it.
pub(crate) async fn run(args: ProxyArgs) -> Result<u8> {
    let mut signals = Interrupts::new().context("cannot watch for signals")?;
    raise_file_limit();
    let specs: Arc<[SecretSpec]> = args.engine.secrets.specs()?.into();
    let events = args.engine.events.as_deref().map(EventFile::open);
    let events = events.transpose().context("--events")?;
    let writer = events.as_ref().map(EventFile::writer);
    let secrets = tokio::select! {
        secrets = read(&specs, Vec::new()) => secrets??,
        code = signals.end() => return Ok(code),
    };
    let proxy = start(&args, secrets, writer.clone()).await?;
    write_ca(&args.ca_out, &proxy.ca_pem())?;
    announce(&proxy, &specs).context("cannot write to standard output")?;
    let served = serve(&proxy, &specs, writer.as_ref(), &mut signals).await;
    if let Err(reason) = served {
        // All connections are being reset, which the end of the process must not overtake.
        proxy.drain(LAST_RESETS).await;
        bail!("the proxy ended: {reason}");
    }
    let cut_off = tokio::select! {
        cut_off = proxy.drain(Duration::from_secs(args.drain_timeout)) => cut_off,
        code = signals.end() => return Ok(code),
    };
    let CutOff {
        connections,
        unending,
    } = cut_off;
    if connections > 0 {
        let among = match unending {
            0 => String::new(),
            _ => format!(", {unending} of them bypassed or not HTTP"),
        };
        report::note(&format!(
            "{connections} connections did not end in time and were cut off{among}"
        ));
    }
    Ok(0)
}

/// Each connection has two descriptors, and many systems allow 1024 unless more are asked for.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: maximum,
        maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, all) {
        tracing::debug!("the limit of open files stays as it is: {error}");
    }
}

async fn start(
    args: &ProxyArgs,
    secrets: Vec<SecretBuilder>,
    events: Option<EventWriter>,
) -> Result<Proxy> {
    let mut builder = Proxy::builder()
        .listen(args.listen)
        .mode(args.mode.into())
        .upstream_port(args.upstream_port)
        .allow_remote(args.allow_remote)
        .max_connections(args.max_connections.into())
        .network(|network| {
            let network = args.engine.network(network);
            network.tls(|tls| args.engine.tls(tls))
        });
    for secret in secrets {
        builder = builder.secret(|_| secret);
    }
    if let Some(events) = events {
        builder = builder.on_event(move |event| events.write(event));
    }
    Ok(builder.start().await?)
}

/// Reads all values, on a thread that may block. Each secret keeps the placeholder it has.
fn read(
    specs: &Arc<[SecretSpec]>,
    placeholders: Vec<String>,
) -> JoinHandle<Result<Vec<SecretBuilder>>> {
    let specs = Arc::clone(specs);
    tokio::task::spawn_blocking(move || {
        let specs = specs.iter().enumerate();
        let secrets = specs.map(|(index, spec)| {
            let placeholder = placeholders.get(index).map(String::as_str);
            Ok(spec.builder(spec.read()?, placeholder))
        });
        secrets.collect()
    })
}

/// Tells where the proxy listens; from then on clients can connect. Placeholders that nobody can know follow.
fn announce(proxy: &Proxy, specs: &[SecretSpec]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "listening on {}", proxy.address())?;
    for (spec, (name, placeholder)) in specs.iter().zip(proxy.env()) {
        if spec.has_placeholder_like_value() {
            writeln!(out, "{name}={placeholder}")?;
        }
    }
    out.flush()
}

/// Serves until the proxy is asked to end; an error is the reason for which it ended by itself.
async fn serve(
    proxy: &Proxy,
    specs: &Arc<[SecretSpec]>,
    events: Option<&EventWriter>,
    signals: &mut Interrupts,
) -> Result<(), String> {
    let mut reading: Option<JoinHandle<_>> = None;
    let mut asked_again = false;
    loop {
        tokio::select! {
            reason = proxy.ended() => return Err(reason),
            signal = signals.next() => {
                if signal != HANG_UP {
                    return Ok(());
                }
                asked_again = reading.is_some();
                if reading.is_none() {
                    reading = Some(read(specs, placeholders(proxy)));
                }
            }
            read_in = joined(&mut reading) => {
                replace(proxy, read_in, events);
                reading = asked_again.then(|| read(specs, placeholders(proxy)));
                asked_again = false;
            }
        }
    }
}

fn placeholders(proxy: &Proxy) -> Vec<String> {
    proxy.env().map(|(_, text)| text.to_owned()).collect()
}

/// The result of what is being read, once there is something.
async fn joined<T>(reading: &mut Option<JoinHandle<Result<T>>>) -> Result<T> {
    match reading {
        Some(task) => task.await.unwrap_or_else(|error| Err(error.into())),
        None => std::future::pending().await,
    }
}

fn replace(proxy: &Proxy, secrets: Result<Vec<SecretBuilder>>, events: Option<&EventWriter>) {
    let replaced = secrets.and_then(|secrets| Ok(proxy.replace_secrets(secrets)?));
    match replaced {
        Ok(_) => report::note("secrets were reloaded"),
        Err(error) => {
            let text = format!("secrets were not reloaded, the former ones stay in use: {error:#}");
            report::note(&text);
            if let Some(events) = events {
                events.write(&Event::Warning(text));
            }
        }
    }
}

/// Writes the certificate in one piece, or leaves what was there.
///
/// It stays when the proxy ends: its key is gone by then, so nobody can use it, and taking it away could hit the file of a
/// proxy that was started since.
fn write_ca(path: &Path, pem: &str) -> Result<()> {
    let write = || {
        let dir = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        let mut file = tempfile::Builder::new()
            .prefix(".msb-ca-")
            .tempfile_in(dir)?;
        file.write_all(pem.as_bytes())?;
        // Not left to the umask.
        let mode = std::fs::Permissions::from_mode(CA_MODE);
        file.as_file().set_permissions(mode)?;
        file.as_file().sync_all()?;
        file.persist(path).map(drop).map_err(|error| error.error)
    };
    match std::fs::symlink_metadata(path) {
        Ok(is) if is.is_dir() => bail!("--ca-out: {} is a directory", path.display()),
        Ok(is) if !is.is_file() && !is.is_symlink() => {
            bail!(
                "--ca-out: {} is not a file, and would be replaced by one",
                path.display()
            )
        }
        _ => write().with_context(|| format!("--ca-out: cannot write {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certificate_is_written_whole_and_readable_by_all() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("ca.pem");
        for pem in ["first", "second"] {
            write_ca(&path, pem).expect("written");
            assert_eq!(std::fs::read_to_string(&path).expect("read"), pem);
            let mode = std::fs::metadata(&path)
                .expect("there")
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, CA_MODE);
        }
        let left: Vec<_> = std::fs::read_dir(dir.path()).expect("listed").collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn what_is_no_file_is_not_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        for (path, expected) in [
            (dir.path().to_owned(), "is a directory"),
            (dir.path().join("missing/ca.pem"), "cannot write"),
            ("/dev/null".into(), "is not a file"),
        ] {
            let error = format!("{:#}", write_ca(&path, "pem").expect_err("refused"));
            assert!(error.contains(expected), "{error}");
        }
    }
}
