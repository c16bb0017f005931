//! What the engine asks of the I/O side, and what it is told in return.

use msb_name::HostName;

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
    },
    /// The guest finished its handshake.
    Announce(Announced),
    /// The guest gave up: what was connected for `id` is not needed.
    Cancel(FlowId),
    /// The guest opened a connection to a name server.
    ServeNames(FlowStream),
    /// Ask upstream, then call `Engine::handle_resolved`.
    Resolve { question: Question, asker: Asker },
}

/// An established flow.
#[derive(Debug)]
pub(crate) struct Announced {
    pub(crate) id: FlowId,
    pub(crate) ends: Ends,
    pub(crate) to_host: bool,
    pub(crate) names: Vec<HostName>,
    pub(crate) stream: FlowStream,
}

/// Who gets the answer to a query.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker {
    /// The guest's end, and the name server's it asked.
    pub(crate) ends: Ends,
}

/// How a connection that could not be made is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The other side refused, or the fault is ours.
    Reset,
    /// The other side could not be reached.
    Unreachable,
    /// The destination turned out to be one the policy denies.
    Denied,
}
