//! Events of the guest's network as JSON.

use msb_policy::{Direction, Protocol};

use super::{Record, protocol_name};

pub(super) fn record(event: &msb_net::Event) -> Record {
    use msb_net::Event as Network;
    match event {
        Network::Connected {
            protocol,
            destination,
            names,
            cause,
            ..
        } => {
            let record = Record::new("connected").flow(*protocol, destination);
            let record = record.names(names);
            match cause {
                Some(cause) => record.rule(cause),
                None => record,
            }
        }
        Network::Denied {
            protocol,
            destination,
            names,
            cause,
            reason,
        } => Record::new("denied")
            .flow(*protocol, destination)
            .names(names)
            .rule(cause)
            .reason(reason),
        Network::ConnectFailed {
            protocol,
            destination,
            names,
            reason,
        } => Record::new("connect_failed")
            .flow(*protocol, destination)
            .names(names)
            .reason(reason),
        Network::DatagramRefused {
            destination,
            reason,
        } => Record::new("datagram_refused")
            .flow(Protocol::Udp, destination)
            .reason(reason),
        Network::ClientConnected {
            protocol,
            client,
            guest_port,
        } => Record::new("client_connected").client(*protocol, client, *guest_port),
        Network::ClientRefused { client, guest_port } => Record::new("client_refused")
            .client(Protocol::Tcp, client, *guest_port)
            .reason("the guest takes no connection on this port"),
        Network::ClientDenied {
            protocol,
            client,
            guest_port,
            cause,
            reason,
        } => Record::new("client_denied")
            .client(*protocol, client, *guest_port)
            .rule(cause)
            .reason(reason),
        Network::FlowLimit {
            protocol,
            direction,
            max_flows,
        } => {
            let whose = match direction {
                Direction::Egress => "of the guest",
                Direction::Ingress => "of clients",
            };
            let reason = format_args!("{max_flows} connections {whose} are open");
            Record {
                protocol: Some(protocol_name(*protocol)),
                ..Record::new("connection_limit").reason(reason)
            }
        }
        Network::NameDenied {
            name,
            cause,
            reason,
        } => Record::new("name_denied")
            .host(name)
            .rule(cause)
            .reason(reason),
        Network::NameFailed { name, reason } => {
            Record::new("name_failed").host(name).reason(reason)
        }
        Network::Omitted { count } => Record::new("omitted")
            .reason(format_args!("{count} refusals and failures were not told")),
        Network::LinkClosed { reason } => Record::new("link_closed").reason(reason),
        // A kind that is newer than this: better told without its fields than not at all.
        _ => Record::new("network"),
    }
}
