//! What the engine asks of the I/O side, and what it is told in return.

use std::net::{IpAddr, SocketAddr};

use msb_name::HostName;
use msb_policy::{Cause, Denial};

use crate::dns::Question;
use crate::stream::FlowStream;
use crate::table::{Ends, FlowId};

/// Something only the I/O side can do.
#[derive(Debug)]
pub(crate) enum Action {
    /// Connect to `ends.destination`, then call `Engine::handle_connected` or `handle_refused`.
    Connect {
        id: FlowId,
        ends: Ends,
        to_host: bool,
        /// The policy's answer should the destination turn out to be an address of the host's own.
        if_own: Result<(), Denial>,
    },
    /// Open a socket for the datagrams of flow `id`; if that fails, call `Engine::handle_relay_failed`.
    OpenRelay {
        id: FlowId,
        carries: Carries,
        /// An address of ours stands for the host.
        ends: Ends,
        to_host: bool,
        /// As for `Connect`.
        if_own: Result<(), Denial>,
    },
    /// Send a datagram, or an echo request as its ICMP message.
    Relay { id: FlowId, payload: Vec<u8> },
    /// The socket of flow `id` is not needed any more.
    CloseRelay(FlowId),
    /// If `address` is one of the host's own, call `Engine::handle_own` with the denial.
    CheckOwn {
        flowing: Flowing,
        address: IpAddr,
        denial: Denial,
    },
    /// The guest finished its handshake.
    Announce(Announced),
    /// The guest has taken the connection of a client, who waits as flow `id`.
    Welcome { id: FlowId, stream: FlowStream },
    /// The guest gave up, or does not take a client's connection: what was connected for `id` is not needed.
    Cancel(FlowId),
    /// The guest opened a connection to a name server.
    ServeNames(FlowStream),
    /// The same over TLS, which is for somebody else to end.
    ServeSecureNames {
        destination: SocketAddr,
        stream: FlowStream,
    },
    /// Ask upstream, then call `Engine::handle_resolved`.
    Resolve { question: Question, asker: Asker },
}

/// A flow of either kind; each kind counts its own.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Flowing {
    Connection(FlowId),
    Relay(FlowId),
}

/// What a flow of datagrams carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carries {
    Datagrams,
    /// Echo requests of one identifier, to one host. The port of the source is the identifier, that of the destination 0.
    Echoes,
}

/// What is known of a destination's names.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    /// All that the guest was told, in order.
    pub(crate) told: Vec<HostName>,
    /// Those of them that the configuration leads there.
    pub(crate) configured: Vec<HostName>,
    /// What the policy allowed the flow by; `None` where the server name is still to decide.
    pub(crate) cause: Option<Cause>,
}

/// An established flow.
#[derive(Debug)]
pub(crate) struct Announced {
    pub(crate) id: FlowId,
    pub(crate) ends: Ends,
    pub(crate) to_host: bool,
    pub(crate) names: Names,
    pub(crate) stream: FlowStream,
}

/// Who gets the answer to a query.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker {
    /// The guest's end, and the name server's it asked.
    pub(crate) ends: Ends,
}

/// How a connection that could not be made is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The other side refused, or the fault is ours.
    Reset,
    /// The other side could not be reached.
    Unreachable,
    /// The destination turned out to be one the policy denies.
    Denied(Cause),
}
