//! Asking for the addresses of a name as the machine is set up for it: `/etc/hosts` first, then the name servers and the
//! search list of `/etc/resolv.conf`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::proto::ProtoError;
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Hosts, Resolver, TokioResolver};
use thiserror::Error;
use tokio::time::timeout;

use super::name::{Absence, Answer, TTL_MIN};
use super::setup::{Setup, SystemFiles};

/// A question may take so long, all tries and search domains together.
pub const LOOKUP_TIME_MAX: Duration = Duration::from_secs(30);
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
    #[error("the files that say whom to ask could not be read")]
    Reading(#[source] tokio::task::JoinError),
}

impl NameServers {
    /// The addresses of a host name, of both families.
    pub async fn look_up(&self, host: &str) -> Result<Answer, LookupError> {
        let asked = async {
            let name = Name::from_ascii(host).map_err(LookupError::Name)?;
            let setup = match self {
                Self::Given(setup) => setup.clone(),
                Self::System(files) => {
                    let files = files.clone();
                    let reading = tokio::task::spawn_blocking(move || files.setup());
                    reading.await.map_err(LookupError::Reading)?
                }
            };
            look_up(&name, &setup).await
        };
        timeout(LOOKUP_TIME_MAX, asked).await.unwrap_or(Err(LookupError::TooLate(LOOKUP_TIME_MAX)))
    }
}

async fn look_up(name: &Name, setup: &Setup) -> Result<Answer, LookupError> {
    if let Some(addresses) = in_hosts_file(name, &setup.hosts) {
        return Ok(Answer::Addresses { addresses, ttl: HOSTS_FILE_TTL });
    }
    let mut resolver = TokioResolver::builder_with_config(setup.config.clone(), TokioRuntimeProvider::new())
        .with_options(setup.options.clone());
    // What is known is kept by those who asked.
    resolver.options_mut().cache_size = 0;
    let resolver = resolver.build().map_err(LookupError::Setup)?;
    let mut so_far = None;
    for candidate in candidates(name, setup) {
        let (v4, v6) = futures_util::future::join(
            ask(&resolver, &candidate, RecordType::A),
            ask(&resolver, &candidate, RecordType::AAAA),
        )
        .await;
        match both_families(v4, v6) {
            found @ Ok(Answer::Addresses { .. }) => return found,
            other => so_far = Some(first_doubt(so_far, other)),
        }
    }
    so_far.unwrap_or(Ok(Answer::Absent { absence: Absence::NoSuchName, ttl: TTL_MIN }))
}

fn in_hosts_file(name: &Name, hosts: &Hosts) -> Option<Vec<IpAddr>> {
    let found = [RecordType::A, RecordType::AAAA].into_iter();
    let found = found.filter_map(|kind| hosts.lookup_static_host(&Query::query(name.clone(), kind)));
    let addresses: Vec<_> =
        found.flat_map(|found| found.answers().to_vec()).filter_map(|record| record.data.ip_addr()).collect();
    (!addresses.is_empty()).then_some(addresses)
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

/// One family is enough. That there is none is believed only of both.
fn both_families(v4: Found, v6: Found) -> Found {
    match (v4, v6) {
        (
            Ok(Answer::Addresses { mut addresses, ttl }),
            Ok(Answer::Addresses { addresses: others, ttl: other }),
        ) => {
            addresses.extend(others);
            Ok(Answer::Addresses { addresses, ttl: ttl.min(other) })
        }
        (found @ Ok(Answer::Addresses { .. }), _) | (_, found @ Ok(Answer::Addresses { .. })) => found,
        (v4, v6) => first_doubt(Some(v4), v6),
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

    #[test]
    fn both_families_count_and_the_sooner_end_is_theirs() {
        let Ok(Answer::Addresses { addresses: both, ttl }) = both_families(addresses(1, 30), addresses(2, 5))
        else {
            panic!("both have addresses");
        };
        assert_eq!((both.len(), ttl), (2, Duration::from_secs(5)));
        for other in [absent(Absence::NoAddress, 1), late()] {
            assert_eq!(both_families(addresses(1, 30), other).unwrap(), addresses(1, 30).unwrap());
        }
        assert_eq!(both_families(late(), addresses(1, 30)).unwrap(), addresses(1, 30).unwrap());
    }

    #[test]
    fn that_there_is_no_address_is_believed_only_when_both_families_and_all_domains_were_answered() {
        both_families(absent(Absence::NoSuchName, 5), late()).unwrap_err();
        both_families(late(), absent(Absence::NoSuchName, 5)).unwrap_err();
        let none = both_families(absent(Absence::NoSuchName, 5), absent(Absence::NoAddress, 3));
        assert_eq!(none.unwrap(), absent(Absence::NoAddress, 3).unwrap());
        first_doubt(Some(late()), absent(Absence::NoSuchName, 5)).unwrap_err();
        first_doubt(Some(absent(Absence::NoSuchName, 5)), late()).unwrap_err();
    }

    fn under(name: &str, ndots: usize) -> Vec<String> {
        let domains = ["shop.svc.example.", "svc.example."].map(|domain| domain.parse().unwrap());
        let config = ResolverConfig::from_parts(None, domains.to_vec(), Vec::new());
        let mut options = ResolverOpts::default();
        options.ndots = ndots;
        let setup = Setup { hosts: Hosts::default(), config, options };
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
