//! What the network reports: refusals and failures with their reasons. Text comes from the guest's
//! packets only as parsed names and addresses, never as raw bytes.

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError};

use msb_name::HostName;
use msb_policy::{Cause, Direction, Protocol};
use smoltcp::time::{Duration, Instant};

use crate::rate::{Bucket, Rate};
use crate::stream::Clock;

/// Takes events. It is called from the network's tasks and must not block.
pub type EventSink = Arc<dyn Fn(Event) + Send + Sync>;

/// Something a user may want to know about.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A connection was established to the host's side and handed on, or the first datagram or echo request to a
    /// destination was sent on.
    Connected {
        /// What is carried.
        protocol: Protocol,
        /// What the guest dialled. Port 0 for ICMP.
        destination: SocketAddr,
        /// Names the guest was told resolve to it.
        names: Vec<HostName>,
        /// Whether it is the host itself.
        to_host: bool,
        /// What the policy allowed it by; `None` where the server name is still to decide.
        cause: Option<Cause>,
    },
    /// The policy refused a flow, or no longer allows it; the guest got RST or an ICMP error. Once a second at most for
    /// datagrams to one destination.
    Denied {
        /// What it would have carried.
        protocol: Protocol,
        /// What the guest dialled.
        destination: SocketAddr,
        /// Names the guest was told resolve to it.
        names: Vec<HostName>,
        /// What the policy denied it by.
        cause: Cause,
        /// The policy's reason.
        reason: String,
    },
    /// The host could not connect, or have a socket for datagrams; the guest got RST or an ICMP error.
    ConnectFailed {
        /// What it would have carried.
        protocol: Protocol,
        /// What the guest dialled.
        destination: SocketAddr,
        /// Names the guest was told resolve to it.
        names: Vec<HostName>,
        /// The operating system's error.
        reason: String,
    },
    /// Datagrams that are refused whatever the policy says: to services that would pass by what the host watches over.
    /// The guest got an ICMP port unreachable. Once a second at most for one destination.
    DatagramRefused {
        /// Where it was sent.
        destination: SocketAddr,
        /// What the service is.
        reason: &'static str,
    },
    /// The guest has taken a connection that a client made to a published port.
    ClientConnected {
        /// What is carried.
        protocol: Protocol,
        /// Who has connected.
        client: SocketAddr,
        /// The guest's port.
        guest_port: u16,
    },
    /// The guest has refused a connection that a client made to a published port; the client was reset.
    ClientRefused {
        /// Who had connected.
        client: SocketAddr,
        /// The guest's port.
        guest_port: u16,
    },
    /// The policy does not let a client in, who was reset, or whose datagram was dropped.
    ClientDenied {
        /// What it would have carried.
        protocol: Protocol,
        /// Who it is.
        client: SocketAddr,
        /// The guest's port.
        guest_port: u16,
        /// What the policy denied it by.
        cause: Cause,
        /// The policy's reason.
        reason: String,
    },
    /// As many flows are open as may be; new connections are reset, and datagrams of new flows refused with an ICMP error,
    /// or dropped if they are of clients. Once per burst.
    FlowLimit {
        /// What has reached its limit: connections, or datagrams and echo requests together.
        protocol: Protocol,
        /// Whose: the guest's own, or those of clients of published ports.
        direction: Direction,
        /// The limit.
        max_flows: usize,
    },
    /// A name was answered with NXDOMAIN because the policy forbids every address it resolved to, or has nothing
    /// that a name could lead to.
    NameDenied {
        /// The name asked for, in presentation format.
        name: String,
        /// What the policy denied it by.
        cause: Cause,
        /// What was refused.
        reason: String,
    },
    /// A name could not be resolved; the guest got SERVFAIL.
    NameFailed {
        /// The name asked for, in presentation format.
        name: String,
        /// The resolver's error.
        reason: String,
    },
    /// There were so many refusals and failures that not all were told: a guest, or an outsider, can make as many as it
    /// likes. Told with the next event of another kind, or once a second.
    Omitted {
        /// How many were left out.
        count: u64,
    },
    /// The link to the guest ended, and the network with it.
    LinkClosed {
        /// End of file, or the operating system's error.
        reason: String,
    },
}

/// Refusals and failures that are told: a hundred a second, and a thousand at once.
const REFUSALS: Rate = Rate {
    per_second: NonZeroU64::new(100).expect("not 0"),
    burst: NonZeroU64::new(1_000).expect("not 0"),
};

impl Event {
    /// Whether it costs whoever provokes it nothing but a packet or two, so that there may be any number.
    fn is_refusal(&self) -> bool {
        match self {
            Self::Denied { .. }
            | Self::ConnectFailed { .. }
            | Self::DatagramRefused { .. }
            | Self::ClientRefused { .. }
            | Self::ClientDenied { .. }
            | Self::FlowLimit { .. }
            | Self::NameDenied { .. }
            | Self::NameFailed { .. } => true,
            Self::Connected { .. }
            | Self::ClientConnected { .. }
            | Self::Omitted { .. }
            | Self::LinkClosed { .. } => false,
        }
    }
}

/// How often it is told during a flood of refusals how many were left out.
const PAUSE: Duration = Duration::from_secs(1);

/// A sink that hands on all events but refusals beyond [`REFUSALS`], which it counts: neither disks nor whoever reads of
/// them can be filled up, and nothing that matters is lost among them.
pub(crate) fn bounded(sink: EventSink, clock: Clock) -> EventSink {
    let start = clock.now();
    let state = Mutex::new((Bucket::new(Some(REFUSALS), start), Omitted(0, start)));
    Arc::new(move |event: Event| {
        let now = clock.now();
        let omitted = {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            let (bucket, omitted) = &mut *state;
            let is_refusal = event.is_refusal();
            if is_refusal {
                if bucket.ready_at(now).is_some() {
                    omitted.0 += 1;
                    return;
                }
                bucket.take(1);
            }
            omitted.take(now, is_refusal)
        };
        if omitted > 0 {
            sink(Event::Omitted { count: omitted });
        }
        sink(event);
    })
}

/// How many events were left out and not told of, and when that was told the last time.
struct Omitted(u64, Instant);

impl Omitted {
    /// How many are to be told of now.
    fn take(&mut self, now: Instant, may_wait: bool) -> u64 {
        if may_wait && self.1 + PAUSE > now {
            return 0;
        }
        self.1 = now;
        std::mem::take(&mut self.0)
    }
}
