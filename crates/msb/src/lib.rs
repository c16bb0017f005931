//! Run untrusted code in a microVM that can call real APIs without ever holding a credential.
//!
//! The guest's environment holds a placeholder (`$MSB_API_KEY`). TLS it opens on the intercepted ports ends on the
//! host, with an authority made for this sandbox alone; the host opens its own verified connection to the real
//! server and writes the real value into a request only if the request goes where the value may go.
//!
//! ```no_run
//! # async fn run() -> Result<(), msb::Error> {
//! use msb::Sandbox;
//!
//! let sandbox = Sandbox::builder("worker")
//!     .image("base")
//!     .secret(|s| s.env("API_KEY").value("sk-real").allow_host("api.example.com"))
//!     .network(|n| n.tls(|t| t.bypass("pinned.example.com")))
//!     .create()
//!     .await?;
//! let out = sandbox
//!     .exec("/bin/sh", ["-c", "curl -sS https://api.example.com/v1 -H \"Authorization: Bearer $API_KEY\""])
//!     .await?;
//! println!("{} {}", out.status(), out.stdout()?);
//! sandbox.stop().await?;
//! # Ok(())
//! # }
//! ```
//!
//! The same engine works without a machine, for containers and CI: [`Proxy`].
//!
//! # Pieces
//! The sub-crates are useful alone and are re-exported here under short names: [`secrets`], [`policy`], [`name`],
//! [`ca`], [`net`], [`tls_proxy`], [`tree`], [`vmm`], [`image`].
//!
//! # What holds
//! - A sandbox whose interception cannot be set up does not start; a connection that cannot be intercepted ends.
//! - Values of secrets are in this process only: not in the guest, not in QEMU, not in an event or an error.
//! - QEMU ends with this process, whatever ends it, and leaves no file or socket. A sandbox that is to outlive it is held by
//!   another, its supervisor: [`Sandboxes`].
#![forbid(unsafe_code)]

mod agent;
mod builder;
mod detached;
mod dns;
mod error;
mod event;
mod exec;
mod fs;
mod gate;
mod host_roots;
mod lifetime;
mod limits;
mod link;
mod metrics;
mod network;
mod outcome;
mod plan;
mod ports;
mod proxy;
mod record;
mod route;
mod sandbox;
mod socket;
mod start;
mod storage;
mod ulimit;
mod words;

pub use msb_ca as ca;
pub use msb_image as image;
pub use msb_name as name;
pub use msb_net as net;
pub use msb_policy as policy;
pub use msb_secrets as secrets;
pub use msb_tls_proxy as tls_proxy;
pub use msb_tree as tree;
pub use msb_vmm as vmm;

pub use msb_secrets::{SecretBuilder, ViolationAction};
pub use msb_tls_proxy::{DeniedRequests, InterceptScope, NonHttp};
pub use msb_vmm::{Accelerator, AcceleratorChoice};

pub use builder::SandboxBuilder;
pub use detached::{
    Detach, Ended, EventFile, EventWriter, Facts, Input, LogEntry, LogStream, Logs, SandboxHandle,
    SandboxInfo, SandboxState, Sandboxes, SecretValues, Supervisor, SupervisorLog, supervise,
};
pub use error::Error;
pub use event::Event;
pub use exec::{Command, Piece, Process, Stdin};
pub use fs::{Copied, DirEntry, FileKind, Fs, Metadata};
pub use metrics::Metrics;
pub use network::{HostAddress, NetworkBuilder, TlsBuilder};
pub use outcome::{ExitStatus, Output};
pub use ports::PortMapping;
pub use proxy::{CutOff, Proxy, ProxyBuilder, ProxyEvent, ProxyMode};
pub use sandbox::Sandbox;
pub use storage::BindMount;
pub use ulimit::{Ulimit, UlimitError};
