//! What programs and copies cost, on a real guest: `cargo run --release -p msb --example program_figures [MIB]`.
//!
//! - `exec` of `true` in a sandbox that runs.
//! - MIB (1024 if not said) through the standard input and output of `cat`.
//! - 10,000 small files in and out by `Sandbox::fs`, beside `tar` over an exec of the same sandbox, in pairs.
//!
//! Needs the images of `cargo xtask image`, and tar on this host and in the image `base`.
#![expect(clippy::print_stdout, reason = "the figures are the program's output")]

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use msb::{Error, Piece, Process, Sandbox};

const EXECS: usize = 50;
const FILES: usize = 10_000;
const PAIRS: usize = 3;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mib = std::env::args().nth(1);
    let mib = mib.map_or(Ok(1024), |text| text.parse())?;
    let sandbox = Sandbox::builder("figures").memory(1024).create().await?;
    println!("accelerator: {:?}", sandbox.accelerator());
    execs(&sandbox).await?;
    through(&sandbox, mib).await?;
    copies(&sandbox).await?;
    sandbox.stop().await?;
    Ok(())
}

async fn execs(sandbox: &Sandbox) -> Result<(), Error> {
    // Files come into the guest's page cache.
    sandbox.exec("true", [""; 0]).await?;
    for (name, args) in [("true", &[][..]), ("busybox", &["true"])] {
        let mut took = Vec::new();
        for _ in 0..EXECS {
            let start = Instant::now();
            sandbox.exec(name, args.iter().copied()).await?;
            took.push(start.elapsed());
        }
        took.sort();
        println!(
            "exec of {name} {args:?}: median {:.1} ms, best {:.1} ms, 95 of 100 within {:.1} ms",
            ms(took[EXECS / 2]),
            ms(took[0]),
            ms(took[EXECS * 95 / 100])
        );
    }
    Ok(())
}

async fn through(sandbox: &Sandbox, mib: usize) -> Result<(), Error> {
    let mut cat = sandbox.command("cat").spawn().await?;
    let start = Instant::now();
    let stdin = cat.take_stdin();
    let feed = async {
        let piece = Bytes::from(vec![0x5a; 1 << 20]);
        let Some(stdin) = stdin else { return Ok(()) };
        for _ in 0..mib {
            stdin.write(piece.clone()).await?;
        }
        stdin.close().await
    };
    let (fed, came) = tokio::join!(feed, drain(&mut cat));
    fed?;
    let seconds = start.elapsed().as_secs_f64();
    assert_eq!(came?, mib << 20, "all of it came back");
    println!(
        "{mib} MiB through cat: {:.1} MB/s",
        (mib << 20) as f64 / 1e6 / seconds
    );
    Ok(())
}

/// Takes all output, and tells how much it was.
async fn drain(process: &mut Process) -> Result<usize, Error> {
    let mut came = 0;
    loop {
        match process.next().await? {
            Piece::Stdout(bytes) => came += bytes.len(),
            Piece::Stderr(bytes) => println!("{}", String::from_utf8_lossy(&bytes)),
            Piece::Exit(status) => {
                assert!(status.success(), "{status}");
                return Ok(came);
            }
        }
    }
}

async fn copies(sandbox: &Sandbox) -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::temp_dir().join(format!("msb-figures-{}", std::process::id()));
    let tree = dir.join("tree");
    make(&tree)?;
    let fs = sandbox.fs();
    for _ in 0..PAIRS {
        let archive = tar(&["-cf", "-", "-C"], &dir, &["tree"])?;
        let start = Instant::now();
        let mut untar = sandbox
            .command("tar")
            .args(["-xf", "-", "-C", "/tmp"])
            .spawn()
            .await?;
        if let Some(stdin) = untar.take_stdin() {
            stdin.write(archive.into()).await?;
            stdin.close().await?;
        }
        drain(&mut untar).await?;
        let theirs_in = start.elapsed();
        let start = Instant::now();
        fs.copy_in(&tree, "/tmp/ours").await?;
        let ours_in = start.elapsed();
        let start = Instant::now();
        let mut tar = sandbox
            .command("tar")
            .args(["-cf", "-", "-C", "/tmp", "tree"])
            .spawn()
            .await?;
        drain(&mut tar).await?;
        let theirs_out = start.elapsed();
        let start = Instant::now();
        fs.copy_out("/tmp/ours", dir.join("back")).await?;
        let ours_out = start.elapsed();
        println!(
            "{FILES} files: in {:.0} ms, tar {:.0} ms, ratio {:.2}; out {:.0} ms, tar (not unpacked) {:.0} ms, ratio {:.2}",
            ms(ours_in),
            ms(theirs_in),
            ours_in.as_secs_f64() / theirs_in.as_secs_f64(),
            ms(ours_out),
            ms(theirs_out),
            ours_out.as_secs_f64() / theirs_out.as_secs_f64(),
        );
        fs.remove_all("/tmp/ours").await?;
        fs.remove_all("/tmp/tree").await?;
        std::fs::remove_dir_all(dir.join("back"))?;
    }
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

fn make(tree: &Path) -> std::io::Result<()> {
    for n in 0..FILES {
        let dir = tree.join(format!("d{}", n % 100));
        if n < 100 {
            std::fs::create_dir_all(&dir)?;
        }
        std::fs::write(
            dir.join(format!("file-{n}")),
            format!("{n}\n").repeat(n % 200),
        )?;
    }
    Ok(())
}

fn tar(before: &[&str], dir: &Path, after: &[&str]) -> std::io::Result<Vec<u8>> {
    let mut command = std::process::Command::new("tar");
    Ok(command.args(before).arg(dir).args(after).output()?.stdout)
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
