//! The DNS resolver. It uses the machine's configuration: `/etc/hosts` first, then the name servers and the search list
//! of `/etc/resolv.conf`.

pub mod hosts;
pub mod ignored_line;
pub mod name;
pub mod resolv_conf;
pub mod setup;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select;
use futures_util::stream;
use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::proto::ProtoError;
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Resolver, TokioResolver};
use thiserror::Error;
use tokio::time::timeout;

use super::ConnectError;
use crate::config::HostPort;
use crate::error_text::one_line;
use crate::network::dial::{Progress, race};
use name::{Absence, Answer, ResolvedName, TTL_MIN};
use setup::{Setup, SystemFiles};

/// Timeout of one lookup, including all retries and search domains.
pub const LOOKUP_TIME_MAX: Duration = Duration::from_secs(30);
/// After one family has answered, a lookup for a waiting connection waits this long for the other family (RFC 8305 §3,
/// Resolution Delay).
pub const OTHER_FAMILY_DELAY: Duration = Duration::from_millis(50);
/// The same delay for a background lookup, for which no connection waits.
pub const OTHER_FAMILY_DELAY_UNHURRIED: Duration = Duration::from_secs(2);
/// TTL of addresses from the hosts file, which has no TTLs.
pub const HOSTS_FILE_TTL: Duration = Duration::from_secs(5);

/// The name servers to query.
#[derive(Debug, Clone)]
pub enum NameServers {
    /// Those of the machine's configuration files.
    System(Arc<SystemFiles>),
    /// Those of the given setup.
    Given(Arc<Setup>),
}

impl Default for NameServers {
    fn default() -> Self {
        Self::System(Arc::default())
    }
}

/// Why a lookup failed.
#[derive(Debug, Error)]
pub enum LookupError {
    #[error("it is no valid name")]
    Name(#[source] ProtoError),
    #[error("the name servers cannot be used")]
    Setup(#[source] NetError),
    #[error("no name server answers")]
    NoResponse(#[source] NetError),
    #[error("no name server answers within {0:?}")]
    Timeout(Duration),
    #[error("no name server is configured")]
    NoServer,
    #[error("the files that say whom to ask could not be read")]
    ReadFiles(#[source] tokio::task::JoinError),
}

impl NameServers {
    /// Resolves a host once.
    pub async fn resolve(&self, at: &HostPort) -> Result<Vec<SocketAddr>, ConnectError> {
        let mut known = ResolvedName::unresolved();
        let addresses = match at.host.parse::<IpAddr>() {
            Ok(address) => vec![address.to_canonical()],
            Err(_) if is_localhost(&at.host) => LOOPBACK.to_vec(),
            Err(_) => {
                match self.look_up(&at.host, OTHER_FAMILY_DELAY).await {
                    Ok(answer) => known.apply(answer),
                    Err(error) => known.record_failure(one_line(&error)),
                };
                known.addresses
            }
        };
        if addresses.is_empty() {
            return Err(ConnectError::Resolve { at: at.clone(), state: known.state });
        }
        Ok(addresses.into_iter().map(|address| SocketAddr::new(address, at.port)).collect())
    }

    /// Looks up the addresses of a host name in both families. After one family has answered, waits at most `delay` for
    /// the other.
    pub async fn look_up(&self, host: &str, delay: Duration) -> Result<Answer, LookupError> {
        let lookup = async {
            let name = Name::from_ascii(host).map_err(LookupError::Name)?;
            let setup = match self {
                Self::Given(setup) => setup.clone(),
                Self::System(files) => files.setup().await.map_err(LookupError::ReadFiles)?,
            };
            if let Some(addresses) = setup.hosts.addresses(host) {
                return Ok(Answer::Addresses { addresses: addresses.to_vec(), ttl: HOSTS_FILE_TTL });
            }
            look_up(&name, &setup, delay).await
        };
        timeout(LOOKUP_TIME_MAX, lookup).await.unwrap_or(Err(LookupError::Timeout(LOOKUP_TIME_MAX)))
    }
}

async fn look_up(name: &Name, setup: &Setup, delay: Duration) -> LookupResult {
    let servers: Vec<_> =
        setup.config.name_servers().iter().map(|server| single_server_resolver(server, setup)).collect();
    let servers: Vec<_> = servers.into_iter().collect::<Result<_, _>>()?;
    let mut merged = None;
    for candidate in candidates(name, setup) {
        let v4 = race_servers(&servers, &candidate, RecordType::A);
        let v6 = race_servers(&servers, &candidate, RecordType::AAAA);
        match query_both_families(v4, v6, delay).await {
            found @ Ok(Answer::Addresses { .. } | Answer::OneFamily { .. }) => return found,
            other => merged = Some(merge_negative(merged, other)),
        }
    }
    merged.unwrap_or(Ok(Answer::Absent { absence: Absence::NoSuchName, ttl: TTL_MIN }))
}

/// A resolver for one name server. Each server has its own resolver, so that queries are raced like connections.
fn single_server_resolver(server: &NameServerConfig, setup: &Setup) -> Result<TokioResolver, LookupError> {
    let config = ResolverConfig::from_parts(None, Vec::new(), vec![server.clone()]);
    let mut resolver = TokioResolver::builder_with_config(config, TokioRuntimeProvider::new())
        .with_options(setup.options.clone());
    // Callers cache the answers.
    resolver.options_mut().cache_size = 0;
    resolver.build().map_err(LookupError::Setup)
}

/// The fully qualified names to query, in order (resolv.conf(5), `search` and `ndots`).
fn candidates(name: &Name, setup: &Setup) -> Vec<Name> {
    let mut absolute = name.clone();
    absolute.set_fqdn(true);
    if name.is_fqdn() {
        return vec![absolute];
    }
    // A name that becomes too long is skipped (RFC 1035 §2.3.4).
    let search = setup.config.search().iter();
    let mut all: Vec<_> = search.filter_map(|domain| name.clone().append_domain(domain).ok()).collect();
    let dots = usize::from(name.num_labels()).saturating_sub(1);
    let at = if dots >= setup.options.ndots { 0 } else { all.len() };
    all.insert(at, absolute);
    all
}

/// Queries the name servers with staggered starts. The first answer is used, positive or negative.
async fn race_servers(servers: &[TokioResolver], name: &Name, kind: RecordType) -> LookupResult {
    let attempts = servers.iter().map(|server| Box::pin(query(server, name, kind)));
    match race(stream::iter(attempts), &Progress::default()).await {
        Ok(winner) => Ok(winner.value),
        Err(errors) => Err(errors.into_iter().next().unwrap_or(LookupError::NoServer)),
    }
}

async fn query<P>(resolver: &Resolver<P>, name: &Name, kind: RecordType) -> Result<Answer, LookupError>
where
    P: hickory_resolver::ConnectionProvider,
{
    let (absence, seconds) = match resolver.lookup(name.clone(), kind).await {
        Ok(found) => {
            // The TTLs of CNAME records count too.
            let seconds = found.answers().iter().map(|record| record.ttl).min().unwrap_or_default();
            let addresses: Vec<_> =
                found.answers().iter().filter_map(|record| record.data.ip_addr()).collect();
            if !addresses.is_empty() {
                return Ok(Answer::Addresses { addresses, ttl: Duration::from_secs(seconds.into()) });
            }
            (Absence::NoAddress, None)
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(NoRecords { response_code, negative_ttl, .. }))) => {
            match response_code {
                ResponseCode::NXDomain => (Absence::NoSuchName, negative_ttl),
                _ => (Absence::NoAddress, negative_ttl),
            }
        }
        Err(error) => return Err(LookupError::NoResponse(error)),
    };
    let ttl = Duration::from_secs(seconds.unwrap_or_default().into());
    Ok(Answer::Absent { absence, ttl })
}

type LookupResult = Result<Answer, LookupError>;

/// Queries both families concurrently. One family is enough: once it has addresses, or the name does not exist, waits
/// at most `delay` for the other (RFC 8305 §3). The absence of addresses is accepted only from both families.
async fn query_both_families(
    v4: impl Future<Output = LookupResult>,
    v6: impl Future<Output = LookupResult>,
    delay: Duration,
) -> LookupResult {
    let (v4, v6) = (pin!(v4), pin!(v6));
    let (first, other) = select(v4, v6).await.factor_first();
    match first {
        Ok(Answer::Addresses { addresses, ttl }) => match timeout(delay, other).await {
            Ok(Ok(Answer::Addresses { addresses: others, ttl: other })) => {
                let addresses = addresses.into_iter().chain(others).collect();
                Ok(Answer::Addresses { addresses, ttl: ttl.min(other) })
            }
            Ok(Ok(_)) => Ok(Answer::Addresses { addresses, ttl }),
            Ok(Err(_)) | Err(_) => Ok(Answer::OneFamily { addresses, ttl }),
        },
        // NXDOMAIN holds for both families (RFC 8020 §2).
        Ok(Answer::Absent { absence: Absence::NoSuchName, .. }) => match timeout(delay, other).await {
            Ok(other) => merge_families(first, other),
            Err(_) => first,
        },
        first => merge_families(first, other.await),
    }
}

/// Combines the answers of two families, of which the first has no addresses.
fn merge_families(first: LookupResult, other: LookupResult) -> LookupResult {
    match other {
        Ok(Answer::Addresses { addresses, ttl }) if first.is_err() => {
            Ok(Answer::OneFamily { addresses, ttl })
        }
        found @ Ok(Answer::Addresses { .. }) => found,
        other => merge_negative(Some(first), other),
    }
}

/// Combines answers without addresses. An error takes precedence: a name whose query failed may have addresses.
fn merge_negative(merged: Option<LookupResult>, next: LookupResult) -> LookupResult {
    match (merged, next) {
        (
            Some(Ok(Answer::Absent { absence, ttl })),
            Ok(Answer::Absent { absence: other, ttl: other_ttl }),
        ) => Ok(Answer::Absent { absence: absence.max(other), ttl: ttl.min(other_ttl) }),
        (Some(Ok(_)) | None, next) => next,
        (Some(Err(error)), _) => Err(error),
    }
}

/// The loopback addresses.
pub(crate) const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// Whether the name is `localhost` or below it: never queried, always loopback (RFC 6761 §6.3).
pub(crate) fn is_localhost(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use hickory_resolver::config::{ResolverConfig, ResolverOpts};

    use super::*;

    fn addresses(last: u8, seconds: u64) -> LookupResult {
        Ok(Answer::Addresses { addresses: vec![[10, 0, 0, last].into()], ttl: Duration::from_secs(seconds) })
    }

    fn absent(absence: Absence, seconds: u64) -> LookupResult {
        Ok(Answer::Absent { absence, ttl: Duration::from_secs(seconds) })
    }

    fn late() -> LookupResult {
        Err(LookupError::Timeout(LOOKUP_TIME_MAX))
    }

    async fn both(v4: LookupResult, v6: LookupResult) -> LookupResult {
        query_both_families(async { v4 }, async { v6 }, OTHER_FAMILY_DELAY).await
    }

    #[tokio::test]
    async fn both_families_count_and_the_sooner_end_is_theirs() {
        let Ok(Answer::Addresses { addresses: all, ttl }) = both(addresses(1, 30), addresses(2, 5)).await
        else {
            panic!("both have addresses");
        };
        assert_eq!((all.len(), ttl), (2, Duration::from_secs(5)));
        let none = || absent(Absence::NoAddress, 1);
        assert_eq!(both(addresses(1, 30), none()).await.unwrap(), addresses(1, 30).unwrap());
        assert_eq!(both(none(), addresses(1, 30)).await.unwrap(), addresses(1, 30).unwrap());
        for one in [both(addresses(1, 30), late()).await, both(late(), addresses(1, 30)).await] {
            assert!(matches!(one, Ok(Answer::OneFamily { .. })), "{one:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_family_about_which_nobody_answers_delays_the_other_by_fractions_of_a_second() {
        let since = tokio::time::Instant::now();
        let silent = std::future::pending;
        let found = query_both_families(silent(), async { addresses(1, 30) }, OTHER_FAMILY_DELAY).await;
        assert!(matches!(found, Ok(Answer::OneFamily { .. })), "{found:?}");
        let found =
            query_both_families(async { absent(Absence::NoSuchName, 3) }, silent(), OTHER_FAMILY_DELAY).await;
        assert_eq!(found.unwrap(), absent(Absence::NoSuchName, 3).unwrap());
        assert_eq!(since.elapsed(), OTHER_FAMILY_DELAY * 2);
    }

    #[tokio::test]
    async fn that_there_is_no_address_is_believed_only_when_both_families_and_all_domains_were_answered() {
        both(absent(Absence::NoSuchName, 5), late()).await.unwrap_err();
        both(late(), absent(Absence::NoSuchName, 5)).await.unwrap_err();
        let none = both(absent(Absence::NoSuchName, 5), absent(Absence::NoAddress, 3)).await;
        assert_eq!(none.unwrap(), absent(Absence::NoAddress, 3).unwrap());
        merge_negative(Some(late()), absent(Absence::NoSuchName, 5)).unwrap_err();
        merge_negative(Some(absent(Absence::NoSuchName, 5)), late()).unwrap_err();
    }

    fn under(name: &str, ndots: usize) -> Vec<String> {
        let domains = ["shop.svc.example.", "svc.example."].map(|domain| domain.parse().unwrap());
        let config = ResolverConfig::from_parts(None, domains.to_vec(), Vec::new());
        let mut options = ResolverOpts::default();
        options.ndots = ndots;
        let setup = Setup { config, options, ..Setup::default() };
        let name = Name::from_ascii(name).unwrap();
        candidates(&name, &setup).iter().map(Name::to_string).collect()
    }

    #[test]
    fn a_short_name_is_looked_up_in_the_search_domains_first_a_long_one_last_and_a_whole_one_never() {
        let searched = ["payments.shop.svc.example.", "payments.svc.example.", "payments."];
        assert_eq!(under("payments", 1), searched);
        assert_eq!(under("payments.shop", 1)[0], "payments.shop.");
        assert_eq!(under("payments.shop", 5)[2], "payments.shop.");
        assert_eq!(under("payments.", 5), ["payments."]);
    }
}
