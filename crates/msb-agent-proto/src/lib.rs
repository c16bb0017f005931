//! The contract between the host and the guest agent.
