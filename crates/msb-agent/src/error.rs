//! What can stop the agent. Written to the console for the person who runs the sandbox.

use std::io;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("this is the init of an msb guest and does nothing as an ordinary process")]
    NotInit,
    #[error("cannot mount {what} on {target}")]
    Mount {
        what: &'static str,
        target: &'static str,
        source: io::Error,
    },
    #[error("cannot load the kernel module {name}; do kernel and initramfs belong together?")]
    Module { name: String, source: io::Error },
    #[error("cannot read {path} in the initramfs")]
    Initramfs {
        path: &'static str,
        source: io::Error,
    },
    #[error("the disk {serial} did not appear; does the initramfs carry virtio_blk?")]
    NoDisk { serial: &'static str },
    #[error("cannot mount the scratch disk; does the initramfs carry ext4?")]
    ScratchDisk { source: io::Error },
    #[error(
        "cannot mount the root disk as {fstype}; is it an image of that kind, and does the initramfs carry the module?"
    )]
    RootDisk { fstype: String, source: io::Error },
    #[error("cannot enter the root file system")]
    EnterRoot(#[source] io::Error),
    #[error("no virtio-serial port named {name}; does the initramfs carry virtio_console?")]
    NoAgentPort { name: &'static str },
    #[error("cannot open the agent's port")]
    AgentPort(#[source] io::Error),
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
    #[error("the host's connection failed")]
    Serve(#[source] hyper::Error),
    #[error("cannot watch for ended processes")]
    Reaper(#[source] io::Error),
}
