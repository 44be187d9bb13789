//! Encoding of the listener and peer series in the exposition format.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::histogram::DurationHistogram;
use super::pool::DialResult;
use super::requests::STATUS_CLASSES;
use super::series::{ListenerSeries, PeerSeries, SeriesRegister};
use crate::observability::EndedBy;

/// The type of exemplar labels, which are not used.
type NoExemplar = [(&'static str, &'static str); 0];

/// An encoder of metric families.
struct Families<'a>(DescriptorEncoder<'a>);

impl Collector for SeriesRegister {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let (listeners, peers) = (self.listeners(), self.peers());
        let mut families = Families(encoder);
        families.connections(self, &listeners, &peers)?;
        families.pools(&listeners)?;
        families.requests(&listeners, &peers)
    }
}

impl Families<'_> {
    fn connections(
        &mut self,
        all: &SeriesRegister,
        listeners: &[Arc<ListenerSeries>],
        peers: &[Arc<PeerSeries>],
    ) -> std::fmt::Result {
        self.gauges(
            "active_connections",
            "Connections that carry something now, or are in their handshake.",
            listeners.iter().map(|one| (one.labels(), one.connections_active.load(Ordering::Relaxed))),
        )?;
        self.counters(
            "connections",
            "Connections opened: of the own app, or of a peer that has shown an identity.",
            peers.iter().map(|one| (one.labels(), load(&one.connections))),
        )?;
        self.counters(
            "unidentified_connections",
            "Connections to inbounds that ended before their peer had shown an identity.",
            listeners.iter().map(|one| (one.labels(), load(&one.unidentified))).filter(inbound_only),
        )?;
        self.counters(
            "bytes",
            "Bytes carried, also by connections that are still open.",
            peers.iter().flat_map(bytes_of),
        )?;
        self.histograms(
            "connection_duration",
            "From the begin of a tcp connection to its end.",
            listeners.iter().map(|one| (one.labels(), &one.connection_duration)),
        )?;
        self.histograms(
            "connection_sidecar_duration",
            "What the sidecar took of the time until a tcp connection carried bytes.",
            listeners.iter().map(|one| (one.labels(), &one.connection_share)),
        )?;
        let help = "Connections whose peer was counted as other, for want of room.";
        let mut family =
            self.0.encode_descriptor("peer_series_overflowed", help, None, MetricType::Counter)?;
        family.encode_counter::<NoExemplar, _, u64>(&all.overflowed(), None)
    }

    fn pools(&mut self, listeners: &[Arc<ListenerSeries>]) -> std::fmt::Result {
        let with_pool = || listeners.iter().filter(|one| one.pool.has_pool());
        let connections = with_pool().flat_map(|one| {
            let ([direction, listener], connections) = (one.labels(), one.pool.connections());
            [("active", connections.active), ("idle", connections.idle)]
                .map(|(state, count)| ([direction, listener, ("state", state)], count))
        });
        self.gauges("pool_connections", "Connections that outlast what they carry.", connections)?;
        let dials = with_pool().flat_map(|one| {
            let [direction, listener] = one.labels();
            DialResult::ALL
                .map(|result| ([direction, listener, ("result", result.as_str())], one.pool.dials(result)))
        });
        self.counters("pool_dials", "Dials of new connections for the pool, by how they ended.", dials)
    }

    fn requests(&mut self, listeners: &[Arc<ListenerSeries>], peers: &[Arc<PeerSeries>]) -> std::fmt::Result {
        self.gauges(
            "http_active_requests",
            "Requests under way.",
            listeners.iter().map(|one| (one.labels(), one.requests_active.load(Ordering::Relaxed))),
        )?;
        let counts = |one: &'_ Arc<PeerSeries>| one.requests.counts().collect::<Vec<_>>();
        let counted: Vec<_> = peers.iter().map(|one| (one.labels(), counts(one))).collect();
        let each = counted.iter().flat_map(|([direction, listener, peer, service], counts)| {
            counts.iter().map(move |([method, status, grpc], count)| {
                ([*direction, *listener, *peer, *service, *method, *status, *grpc], *count)
            })
        });
        self.counters("http_requests", "Requests that have ended.", each)?;
        self.counters(
            "http_retries",
            "Requests sent once more, on another connection.",
            peers.iter().map(|one| (one.labels(), load(&one.retries))),
        )?;
        let aborted = listeners.iter().filter(|one| one.has_had_requests()).flat_map(|one| {
            let [direction, listener] = one.labels();
            let labels = move |by: EndedBy| [direction, listener, ("ended_by", by.as_str(one.direction))];
            one.requests_aborted.counts().map(move |(by, count)| (labels(by), count))
        });
        self.counters(
            "http_requests_aborted",
            "Requests that ended before their answer was whole.",
            aborted,
        )?;
        let durations = listeners.iter().flat_map(|one| {
            let [direction, listener] = one.labels();
            STATUS_CLASSES
                .iter()
                .zip(&one.request_duration)
                .filter(|(_, histogram)| histogram.count() > 0)
                .map(move |(class, histogram)| {
                    ([direction, listener, ("http_response_status_class", *class)], histogram)
                })
        });
        self.histograms(
            "http_request_duration",
            "From a request's head to the end of its answer.",
            durations,
        )?;
        self.histograms(
            "http_request_sidecar_duration",
            "What the sidecar took of the time until a request's answer began.",
            listeners.iter().map(|one| (one.labels(), &one.request_share)).filter(|(_, one)| one.count() > 0),
        )
    }

    fn counters<S: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        all: impl Iterator<Item = (S, u64)>,
    ) -> std::fmt::Result {
        let mut all = all.peekable();
        if all.peek().is_none() {
            return Ok(());
        }
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, count) in all {
            family.encode_family(&labels)?.encode_counter::<NoExemplar, _, u64>(&count, None)?;
        }
        Ok(())
    }

    fn gauges<S: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        all: impl Iterator<Item = (S, i64)>,
    ) -> std::fmt::Result {
        let mut all = all.peekable();
        if all.peek().is_none() {
            return Ok(());
        }
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, level) in all {
            family.encode_family(&labels)?.encode_gauge(&level)?;
        }
        Ok(())
    }

    /// Encodes histograms of durations in seconds.
    fn histograms<'s, S: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        all: impl Iterator<Item = (S, &'s DurationHistogram)>,
    ) -> std::fmt::Result {
        let mut all = all.peekable();
        if all.peek().is_none() {
            return Ok(());
        }
        let unit = Unit::Seconds;
        let mut family = self.0.encode_descriptor(name, help, Some(&unit), MetricType::Histogram)?;
        for (labels, histogram) in all {
            histogram.encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

type FlowLabels<'a> = [(&'static str, &'a str); 5];

fn bytes_of(one: &Arc<PeerSeries>) -> impl Iterator<Item = (FlowLabels<'_>, u64)> {
    let [direction, listener, peer, service] = one.labels();
    [("to_app", &one.bytes_to_app), ("to_peer", &one.bytes_to_peer)]
        .map(|(flow, count)| ([direction, listener, peer, service, ("flow", flow)], load(count)))
        .into_iter()
}

fn inbound_only(series: &([(&'static str, &str); 2], u64)) -> bool {
    series.0.contains(&("direction", "inbound"))
}

fn load(count: &AtomicU64) -> u64 {
    count.load(Ordering::Relaxed)
}
