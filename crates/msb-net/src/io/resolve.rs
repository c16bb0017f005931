//! Asking upstream name servers, through hickory-resolver: its fail-over, EDNS and TCP fallback. The cache is ours: the resolver's
//! counts answers, however long they are.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::Record;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use tokio::sync::Semaphore;

use crate::config::Config;
use crate::dns::{Answer, Cache, Question, Responder, Upstream};
use crate::event::Event;

/// How long one server may take at most before the next is asked; less if there is less time in all.
const SERVER_LIMIT: Duration = Duration::from_secs(2);

/// Lookups under way at once; others wait, as part of their time. Each takes up to eight sockets: two servers are asked, each
/// up to four times.
const MAX_LOOKUPS: usize = 64;

/// Answers questions by asking upstream.
#[derive(Clone)]
pub(super) struct Upstreams {
    responder: Responder,
    config: Arc<Config>,
    /// The resolver, or why there is none: each question then fails with that reason.
    resolver: Result<TokioResolver, Arc<str>>,
    cache: Arc<Mutex<Cache>>,
    places: Arc<Semaphore>,
}

/// What came of a lookup.
struct Found {
    upstream: Upstream,
    /// How long it holds.
    ttl: Duration,
}

impl Upstreams {
    pub(super) fn new(responder: Responder, config: Arc<Config>) -> Self {
        let resolver = build(config.nameservers.as_deref(), config.query_timeout);
        let resolver = resolver.map_err(|error| error.to_string().into());
        Self {
            responder,
            config,
            resolver,
            cache: Arc::default(),
            places: Arc::new(Semaphore::new(MAX_LOOKUPS)),
        }
    }

    pub(super) fn responder(&self) -> &Responder {
        &self.responder
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// The answer to `question`, if it is known already.
    pub(super) fn known(&self, question: &Question) -> Option<Answer> {
        let upstream = self.cache().get(&question.query, Instant::now())?;
        Some(self.responder.answer(question, upstream))
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer to `question`, within [`Config::query_timeout`]. Failing is an answer, too (SERVFAIL), and an event.
    pub(super) async fn ask(&self, question: &Question) -> Answer {
        if let Some(answer) = self.known(question) {
            return answer;
        }
        let limit = self.config.query_timeout;
        let found = tokio::time::timeout(limit, self.look_up(question)).await;
        match found.unwrap_or_else(|_| Err(format!("no answer within {limit:?}"))) {
            Ok(Found { upstream, ttl }) => {
                let now = Instant::now();
                self.cache().insert(&question.query, &upstream, ttl, now);
                self.responder.answer(question, upstream)
            }
            Err(reason) => {
                let name = question.query.name().to_ascii();
                (self.config.events)(Event::NameFailed { name, reason });
                Responder::failure(question)
            }
        }
    }

    async fn look_up(&self, question: &Question) -> Result<Found, String> {
        let resolver = self.resolver.as_ref().map_err(ToString::to_string)?;
        let _place = self.places.acquire().await.map_err(|e| e.to_string())?;
        let query = &question.query;
        let lookup = resolver.lookup(query.name().clone(), query.query_type());
        match lookup.await {
            Ok(lookup) => {
                let answers = lookup.answers().to_vec();
                let ttl = answers.iter().map(|record| record.ttl).min();
                Ok(Found::new(ResponseCode::NoError, answers, None, ttl))
            }
            Err(error) => negative(error).map_err(|error| error.to_string()),
        }
    }
}

impl Found {
    /// `ttl` is in seconds; `None`: it is not to be kept.
    fn new(
        code: ResponseCode,
        answers: Vec<Record>,
        soa: Option<Record>,
        ttl: Option<u32>,
    ) -> Self {
        Self {
            upstream: Upstream { code, answers, soa },
            ttl: Duration::from_secs(ttl.unwrap_or(0).into()),
        }
    }
}

/// "No such name" and "refused" are answers to pass on; the rest are failures.
fn negative(error: NetError) -> Result<Found, NetError> {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(found)) => {
            let soa = found.soa.map(|soa| soa.into_record_of_rdata());
            let (code, ttl) = (found.response_code, found.negative_ttl);
            Ok(Found::new(code, Vec::new(), soa, ttl))
        }
        NetError::Dns(DnsError::ResponseCode(code)) if code != ResponseCode::ServFail => {
            Ok(Found::new(code, Vec::new(), None, None))
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
    options.timeout = SERVER_LIMIT.min(limit / 5 * 2);
    options.attempts = 2;
    options.cache_size = 0;
    // Long answers all come over one connection.
    options.max_active_requests = MAX_LOOKUPS;
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
