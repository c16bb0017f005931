//! One QEMU `microvm` guest: described, started, watched and ended.
//!
//! [`Machine`] says what the guest is made of, and turns into QEMU's arguments by a pure function;
//! [`Vm::start`] runs QEMU with them as a child that cannot outlive this process. The guest's network and its agent
//! port are the other ends of socket pairs ([`Channels`]): nothing has a name in the file system.
//! What travels over them is not this crate's business.
//!
//! ```no_run
//! # async fn run() -> Result<(), msb_vmm::Error> {
//! use msb_vmm::{Accelerator, Attachments, Machine, Vm};
//!
//! let machine = Machine::new("vmlinux", "initramfs.cpio", Accelerator::Tcg);
//! let (vm, channels) = Vm::start(&machine, Attachments::default()).await?;
//! drop(channels.agent); // a byte stream to the virtio-serial port `dev.msb.agent`
//! let end = vm.wait().await;
//! println!("{} {}", end.status, vm.console().tail(20));
//! # Ok(())
//! # }
//! ```
//!
//! # Limits
//!
//! Linux on x86-64, QEMU 7.2 or newer. Only [`Machine`] depends on the architecture.

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!("msb-vmm runs guests on Linux x86-64 hosts only");

mod accelerator;
mod confine;
mod console;
mod descriptors;
mod error;
mod machine;
mod process;
mod qmp;
mod share;
mod tsc;
mod vm;

pub use accelerator::{Accelerator, AcceleratorChoice, UnknownAccelerator, choose_accelerator};
pub use confine::Gap;
pub use console::Console;
pub use descriptors::keep_descriptors;
pub use error::Error;
pub use machine::{Disk, Fds, Machine, NetworkDevice, ROOT_SERIAL, SCRATCH_SERIAL};
pub use qmp::{Qmp, QmpError};
pub use share::Share;
pub use tsc::tsc_khz;
pub use vm::{Attachments, Channels, End, Vm};
