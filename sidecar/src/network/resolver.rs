//! Asking for the addresses of a name as the machine is set up for it: `/etc/hosts` first, then the name servers and the
//! search list of `/etc/resolv.conf`.

pub mod bad_line;
pub mod hosts;
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

/// A question may take so long, all tries and search domains together.
pub const LOOKUP_TIME_MAX: Duration = Duration::from_secs(30);
/// When one family has addresses, a connection that waits for them waits so long for the other (RFC 8305 §3, Resolution
/// Delay);
pub const OTHER_FAMILY_DELAY: Duration = Duration::from_millis(50);
/// and where nobody waits, so long.
pub const OTHER_FAMILY_DELAY_UNHURRIED: Duration = Duration::from_secs(2);
/// The hosts file has no times to live: what it says is good for so long.
pub const HOSTS_FILE_TTL: Duration = Duration::from_secs(5);

/// Who is asked.
#[derive(Debug, Clone)]
pub enum NameServers {
    /// Those of the machine.
    System(Arc<SystemFiles>),
    /// Those of somebody who says which.
    Given(Arc<Setup>),
}

impl Default for NameServers {
    fn default() -> Self {
        Self::System(Arc::default())
    }
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum LookupError {
    #[error("it is no valid name")]
    Name(#[source] ProtoError),
    #[error("the name servers cannot be used")]
    Setup(#[source] NetError),
    #[error("no name server answers")]
    Unanswered(#[source] NetError),
    #[error("no name server answers within {0:?}")]
    TooLate(Duration),
    #[error("no name server is configured")]
    NoServer,
    #[error("the files that say whom to ask could not be read")]
    Reading(#[source] tokio::task::JoinError),
}

impl NameServers {
    /// Where a host is now, for who asks once.
    pub async fn resolve(&self, at: &HostPort) -> Result<Vec<SocketAddr>, ConnectError> {
        let mut known = ResolvedName::nothing();
        let addresses = match at.host.parse::<IpAddr>() {
            Ok(address) => vec![address.to_canonical()],
            Err(_) if is_localhost(&at.host) => LOOPBACK.to_vec(),
            Err(_) => {
                match self.look_up(&at.host, OTHER_FAMILY_DELAY).await {
                    Ok(answer) => known.learn(answer),
                    Err(error) => known.miss(one_line(&error)),
                };
                known.addresses
            }
        };
        if addresses.is_empty() {
            return Err(ConnectError::Resolve { at: at.clone(), standing: known.standing });
        }
        Ok(addresses.into_iter().map(|address| SocketAddr::new(address, at.port)).collect())
    }

    /// The addresses of a host name, of both families. When one family has some, the other has this `delay` left.
    pub async fn look_up(&self, host: &str, delay: Duration) -> Result<Answer, LookupError> {
        let asked = async {
            let name = Name::from_ascii(host).map_err(LookupError::Name)?;
            let setup = match self {
                Self::Given(setup) => setup.clone(),
                Self::System(files) => files.setup().await.map_err(LookupError::Reading)?,
            };
            if let Some(addresses) = setup.hosts.addresses(host) {
                return Ok(Answer::Addresses { addresses: addresses.to_vec(), ttl: HOSTS_FILE_TTL });
            }
            look_up(&name, &setup, delay).await
        };
        timeout(LOOKUP_TIME_MAX, asked).await.unwrap_or(Err(LookupError::TooLate(LOOKUP_TIME_MAX)))
    }
}

async fn look_up(name: &Name, setup: &Setup, delay: Duration) -> Found {
    let servers: Vec<_> = setup.config.name_servers().iter().map(|server| asking(server, setup)).collect();
    let servers: Vec<_> = servers.into_iter().collect::<Result<_, _>>()?;
    let mut so_far = None;
    for candidate in candidates(name, setup) {
        let v4 = ask_all(&servers, &candidate, RecordType::A);
        let v6 = ask_all(&servers, &candidate, RecordType::AAAA);
        match both_families(v4, v6, delay).await {
            found @ Ok(Answer::Addresses { .. } | Answer::OneFamily { .. }) => return found,
            other => so_far = Some(first_doubt(so_far, other)),
        }
    }
    so_far.unwrap_or(Ok(Answer::Absent { absence: Absence::NoSuchName, ttl: TTL_MIN }))
}

/// Asks one name server. Each has a resolver of its own, so that they are asked as connections are made.
fn asking(server: &NameServerConfig, setup: &Setup) -> Result<TokioResolver, LookupError> {
    let config = ResolverConfig::from_parts(None, Vec::new(), vec![server.clone()]);
    let mut resolver = TokioResolver::builder_with_config(config, TokioRuntimeProvider::new())
        .with_options(setup.options.clone());
    // What is known is kept by those who asked.
    resolver.options_mut().cache_size = 0;
    resolver.build().map_err(LookupError::Setup)
}

/// Under which full names to look (resolv.conf(5), `search` and `ndots`).
fn candidates(name: &Name, setup: &Setup) -> Vec<Name> {
    let mut as_it_is = name.clone();
    as_it_is.set_fqdn(true);
    if name.is_fqdn() {
        return vec![as_it_is];
    }
    // One that gets too long is none (RFC 1035 §2.3.4).
    let search = setup.config.search().iter();
    let mut all: Vec<_> = search.filter_map(|domain| name.clone().append_domain(domain).ok()).collect();
    let dots = usize::from(name.num_labels()).saturating_sub(1);
    let at = if dots >= setup.options.ndots { 0 } else { all.len() };
    all.insert(at, as_it_is);
    all
}

/// Asks one name server after the other, at short intervals. The first answer counts, be it yes or no.
async fn ask_all(servers: &[TokioResolver], name: &Name, kind: RecordType) -> Found {
    let attempts = servers.iter().map(|server| Box::pin(ask(server, name, kind)));
    match race(stream::iter(attempts), &Progress::default()).await {
        Ok(won) => Ok(won.value),
        Err(errors) => Err(errors.into_iter().next().unwrap_or(LookupError::NoServer)),
    }
}

async fn ask<P>(resolver: &Resolver<P>, name: &Name, kind: RecordType) -> Result<Answer, LookupError>
where
    P: hickory_resolver::ConnectionProvider,
{
    let (absence, seconds) = match resolver.lookup(name.clone(), kind).await {
        Ok(found) => {
            // The names on the way, too, may lead elsewhere sooner.
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
        Err(error) => return Err(LookupError::Unanswered(error)),
    };
    let ttl = Duration::from_secs(seconds.unwrap_or_default().into());
    Ok(Answer::Absent { absence, ttl })
}

type Found = Result<Answer, LookupError>;

/// Asks about both families at once. One is enough, and when it is there, or the name is not, the other has this `delay`
/// left (RFC 8305 §3). That there is no address is believed only of both.
async fn both_families(
    v4: impl Future<Output = Found>,
    v6: impl Future<Output = Found>,
    delay: Duration,
) -> Found {
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
        // There is no name for either family (RFC 8020 §2).
        Ok(Answer::Absent { absence: Absence::NoSuchName, .. }) => match timeout(delay, other).await {
            Ok(other) => combined(first, other),
            Err(_) => first,
        },
        first => combined(first, other.await),
    }
}

/// Two answers, of which the first has no addresses.
fn combined(first: Found, other: Found) -> Found {
    match other {
        Ok(Answer::Addresses { addresses, ttl }) if first.is_err() => {
            Ok(Answer::OneFamily { addresses, ttl })
        }
        found @ Ok(Answer::Addresses { .. }) => found,
        other => first_doubt(Some(first), other),
    }
}

/// Of answers without addresses what to believe: a name under which nobody answered may have had some.
fn first_doubt(so_far: Option<Found>, next: Found) -> Found {
    match (so_far, next) {
        (
            Some(Ok(Answer::Absent { absence, ttl })),
            Ok(Answer::Absent { absence: other, ttl: other_ttl }),
        ) => Ok(Answer::Absent { absence: absence.max(other), ttl: ttl.min(other_ttl) }),
        (Some(Ok(_)) | None, next) => next,
        (Some(Err(error)), _) => Err(error),
    }
}

/// The addresses of this machine for its own programs.
pub(crate) const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// RFC 6761 §6.3: never asked about, and always this machine.
pub(crate) fn is_localhost(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use hickory_resolver::config::{ResolverConfig, ResolverOpts};

    use super::*;

    fn addresses(last: u8, seconds: u64) -> Found {
        Ok(Answer::Addresses { addresses: vec![[10, 0, 0, last].into()], ttl: Duration::from_secs(seconds) })
    }

    fn absent(absence: Absence, seconds: u64) -> Found {
        Ok(Answer::Absent { absence, ttl: Duration::from_secs(seconds) })
    }

    fn late() -> Found {
        Err(LookupError::TooLate(LOOKUP_TIME_MAX))
    }

    async fn both(v4: Found, v6: Found) -> Found {
        both_families(async { v4 }, async { v6 }, OTHER_FAMILY_DELAY).await
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
        let found = both_families(silent(), async { addresses(1, 30) }, OTHER_FAMILY_DELAY).await;
        assert!(matches!(found, Ok(Answer::OneFamily { .. })), "{found:?}");
        let found =
            both_families(async { absent(Absence::NoSuchName, 3) }, silent(), OTHER_FAMILY_DELAY).await;
        assert_eq!(found.unwrap(), absent(Absence::NoSuchName, 3).unwrap());
        assert_eq!(since.elapsed(), OTHER_FAMILY_DELAY * 2);
    }

    #[tokio::test]
    async fn that_there_is_no_address_is_believed_only_when_both_families_and_all_domains_were_answered() {
        both(absent(Absence::NoSuchName, 5), late()).await.unwrap_err();
        both(late(), absent(Absence::NoSuchName, 5)).await.unwrap_err();
        let none = both(absent(Absence::NoSuchName, 5), absent(Absence::NoAddress, 3)).await;
        assert_eq!(none.unwrap(), absent(Absence::NoAddress, 3).unwrap());
        first_doubt(Some(late()), absent(Absence::NoSuchName, 5)).unwrap_err();
        first_doubt(Some(absent(Absence::NoSuchName, 5)), late()).unwrap_err();
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
