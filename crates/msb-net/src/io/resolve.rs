//! Asking upstream name servers, through hickory-resolver: its cache, fail-over, EDNS and TCP fallback.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};

use crate::config::Config;
use crate::dns::{Answer, Question, Responder, Upstream};
use crate::event::Event;

/// How long one server may take at most before the next is asked; less if there is less time in all.
const SERVER_LIMIT: Duration = Duration::from_secs(2);

/// Answers questions by asking upstream.
#[derive(Clone)]
pub(super) struct Upstreams {
    responder: Responder,
    config: Arc<Config>,
    /// The resolver, or why there is none: each question then fails with that reason.
    resolver: Result<TokioResolver, Arc<str>>,
}

impl Upstreams {
    pub(super) fn new(responder: Responder, config: Arc<Config>) -> Self {
        let resolver = build(config.nameservers.as_deref(), config.query_timeout);
        let resolver = resolver.map_err(|error| error.to_string().into());
        Self {
            responder,
            config,
            resolver,
        }
    }

    pub(super) fn responder(&self) -> &Responder {
        &self.responder
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// The answer to `question`, within [`Config::query_timeout`]. Failing is an answer, too (SERVFAIL), and an event.
    pub(super) async fn ask(&self, question: &Question) -> Answer {
        let reason = match &self.resolver {
            Err(reason) => reason.to_string(),
            Ok(resolver) => {
                let lookup =
                    resolver.lookup(question.query.name().clone(), question.query.query_type());
                let limit = self.config.query_timeout;
                match tokio::time::timeout(limit, lookup).await {
                    Err(_) => format!("no answer within {limit:?}"),
                    Ok(Ok(lookup)) => {
                        return self.responder.answer(
                            question,
                            Upstream {
                                code: ResponseCode::NoError,
                                answers: lookup.answers().to_vec(),
                                soa: None,
                            },
                        );
                    }
                    Ok(Err(error)) => match negative(error) {
                        Ok(upstream) => return self.responder.answer(question, upstream),
                        Err(error) => error.to_string(),
                    },
                }
            }
        };
        (self.config.events)(Event::NameFailed {
            name: question.query.name().to_ascii(),
            reason,
        });
        Responder::failure(question)
    }
}

/// "No such name" and "refused" are answers to pass on; the rest are failures.
fn negative(error: NetError) -> Result<Upstream, NetError> {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(found)) => Ok(Upstream {
            code: found.response_code,
            answers: Vec::new(),
            soa: found.soa.map(|soa| soa.into_record_of_rdata()),
        }),
        NetError::Dns(DnsError::ResponseCode(code)) if code != ResponseCode::ServFail => {
            Ok(Upstream {
                code,
                answers: Vec::new(),
                soa: None,
            })
        }
        other => Err(other),
    }
}

fn build(nameservers: Option<&[SocketAddr]>, limit: Duration) -> Result<TokioResolver, NetError> {
    let provider = TokioRuntimeProvider::default();
    let mut builder = match nameservers {
        None => TokioResolver::builder(provider)?,
        Some(servers) => {
            let servers = servers.iter().map(|server| name_server(*server)).collect();
            TokioResolver::builder_with_config(
                ResolverConfig::from_parts(None, Vec::new(), servers),
                provider,
            )
        }
    };
    let options = builder.options_mut();
    // So that a second server is asked before the time is up.
    options.timeout = SERVER_LIMIT.min(limit * 2 / 5);
    options.attempts = 2;
    // The host's own table is not the guest's business; `Config::hosts` is.
    options.use_hosts_file = ResolveHosts::Never;
    options.case_randomization = false;
    builder.build()
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.into())
}
