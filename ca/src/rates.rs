//! How often one identity or one address may ask: token buckets, in a table of bounded size.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::config::Rate;

/// A table holds at most so many callers; those that have not asked for a while leave first.
pub const CALLERS_MAX: usize = 65_536;

/// One bucket for each caller.
#[derive(Debug)]
pub struct Rates<K> {
    rate: Rate,
    buckets: Mutex<HashMap<K, Bucket>>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl<K: Hash + Eq> Rates<K> {
    pub fn new(rate: Rate) -> Self {
        Self { rate, buckets: Mutex::default() }
    }

    /// Takes a token; without one, how long until there is one.
    pub fn take(&self, caller: K, now: Instant) -> Result<(), Duration> {
        let (per_second, burst) = (f64::from(self.rate.per_second), f64::from(self.rate.burst));
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let filled = |bucket: &Bucket| {
            let since = now.saturating_duration_since(bucket.at).as_secs_f64();
            (bucket.tokens + since * per_second).min(burst)
        };
        if buckets.len() >= CALLERS_MAX && !buckets.contains_key(&caller) {
            // A full bucket is as good as none.
            buckets.retain(|_, bucket| filled(bucket) < burst);
            if buckets.len() >= CALLERS_MAX {
                return Err(Duration::from_secs_f64(burst / per_second));
            }
        }
        let bucket = buckets.entry(caller).or_insert(Bucket { tokens: burst, at: now });
        (bucket.tokens, bucket.at) = (filled(bucket), now);
        if bucket.tokens >= 1.0 {
            bucket.tokens -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - bucket.tokens) / per_second))
    }
}

/// Who an address is counted as: one host or household may use any address of its IPv6 /64 (RFC 6177 §2).
pub fn rated_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_ipv6_network_count_as_one_and_mapped_ones_as_ipv4() {
        let rated = |text: &str| rated_as(text.parse().unwrap());
        assert_eq!(rated("2001:db8::1"), rated("2001:db8:0:0:ffff::2"));
        assert_ne!(rated("2001:db8::1"), rated("2001:db8:0:1::1"));
        assert_eq!(rated("::ffff:10.0.0.1"), rated("10.0.0.1"));
    }

    #[test]
    fn a_burst_then_the_average_and_nobody_pays_for_another() {
        let rates = Rates::new(Rate { per_second: 2, burst: 3 });
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        for _ in 0..3 {
            rates.take("orders", at(0)).unwrap();
        }
        assert_eq!(rates.take("orders", at(0)), Err(Duration::from_millis(500)));
        rates.take("payments", at(0)).unwrap();
        rates.take("orders", at(500)).unwrap();
        rates.take("orders", at(500)).unwrap_err();
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_idle() {
        let rates = Rates::new(Rate { per_second: 1, burst: 1 });
        let start = Instant::now();
        for caller in 0..CALLERS_MAX {
            rates.take(caller, start).unwrap();
        }
        rates.take(CALLERS_MAX, start).unwrap_err();
        rates.take(CALLERS_MAX, start + Duration::from_secs(1)).unwrap();
        assert_eq!(rates.buckets.lock().unwrap().len(), 1);
    }
}
