//! `[[inbound]]`, `[[outbound]]` and `[admin]`: listeners and their targets.

use std::net::SocketAddr;
use std::ops::Range;

use postern_proto::identity::SpiffeId;
use postern_proto::policy::Protocol;
use toml::Spanned;

use super::raw::{RawAdmin, RawInbound, RawOutbound, Text};
use super::rules::Rules;
use super::values::{clash, is_loopback};
use super::{
    ADMIN_DEFAULT, AppHttp, HostPort, Inbound, LISTENERS_MAX, Outbound, ProxyProtocol, Target, TellCallers,
    UPSTREAMS_MAX,
};

impl Rules<'_> {
    pub(super) fn listeners(
        &mut self,
        inbound: Vec<Spanned<RawInbound>>,
        outbound: Vec<Spanned<RawOutbound>>,
        admin: RawAdmin,
    ) -> Option<(Vec<Inbound>, Vec<Outbound>, SocketAddr)> {
        self.bounded("inbound", &inbound);
        self.bounded("outbound", &outbound);
        let mut listeners = Vec::new();
        let inbounds: Vec<_> =
            inbound.into_iter().filter_map(|one| self.inbound(one, &mut listeners)).collect();
        let outbounds = outbound.into_iter().filter_map(|one| self.outbound(one, &mut listeners)).collect();
        let admin = self.admin(admin, &mut listeners);
        self.unique(&listeners);
        self.unique_names(&inbounds);
        Some((inbounds.into_iter().map(|(inbound, _)| inbound).collect(), outbounds, admin?))
    }

    fn inbound(
        &mut self,
        raw: Spanned<RawInbound>,
        listeners: &mut Listeners,
    ) -> Option<(Inbound, Range<usize>)> {
        let (section, raw) = (raw.span(), raw.into_inner());
        let name = self.demand(&section, "inbound.name", raw.name).and_then(|name| {
            let span = name.span();
            self.name("inbound.name", name).map(|name| (name, span))
        });
        let listen = self.listen(&section, "inbound.listen", raw.listen, listeners);
        let app =
            self.demand(&section, "inbound.app", raw.app).and_then(|app| self.host_port("inbound.app", &app));
        let protocol = self.protocol(&section, "inbound.protocol", raw.protocol);
        let app_http = raw.app_http.as_ref().map(Spanned::span);
        let of_http = protocol.is_none_or(|protocol| protocol == Protocol::Http);
        if let Some(span) = app_http.filter(|_| !of_http) {
            self.refuse::<()>(span, "inbound.app_http", "goes with protocol = \"http\" only");
        }
        let app_http = self
            .one_of(
                "inbound.app_http",
                raw.app_http,
                &[("auto", AppHttp::Auto), ("1.1", AppHttp::Http1), ("2", AppHttp::Http2)],
            )
            .unwrap_or_default();
        let tell_callers = self
            .one_of(
                "inbound.tell_callers",
                raw.tell_callers,
                &[("everything", TellCallers::Everything), ("nothing", TellCallers::Nothing)],
            )
            .unwrap_or_default();
        let proxy_protocol = self.proxy_protocol(raw.proxy_protocol, protocol);
        let (name, span) = name?;
        Some((
            Inbound {
                name,
                listen: listen?,
                app: app?,
                protocol: protocol?,
                app_http,
                tell_callers,
                proxy_protocol,
            },
            span,
        ))
    }

    fn proxy_protocol(&mut self, value: Text, protocol: Option<Protocol>) -> Option<ProxyProtocol> {
        let key = "inbound.proxy_protocol";
        if let Some(value) = &value
            && protocol == Some(Protocol::Http)
        {
            let rule =
                "goes with protocol = \"tcp\"; an app of \"http\" reads who calls in x-forwarded-client-cert";
            return self.refuse_value(key, value, rule);
        }
        self.one_of(key, value, &[("v2", ProxyProtocol::V2)])
    }

    fn outbound(&mut self, raw: Spanned<RawOutbound>, listeners: &mut Listeners) -> Option<Outbound> {
        let (section, raw) = (raw.span(), raw.into_inner());
        let span = raw.listen.as_ref().map(Spanned::span);
        let listen = self.listen(&section, "outbound.listen", raw.listen, listeners);
        self.loopback("outbound.listen", span.zip(listen), raw.allow_non_loopback);
        let target = self.target(section.clone(), raw.service, raw.id);
        let to = self.upstreams(&section, raw.to);
        let protocol = self.protocol(&section, "outbound.protocol", raw.protocol);
        let port = raw.port.map(|port| self.name("outbound.port", port));
        let port = match port {
            Some(None) => return None,
            port => port.flatten(),
        };
        Some(Outbound { listen: listen?, target: target?, to: to?, protocol: protocol?, port })
    }

    fn target(&mut self, section: Range<usize>, service: Text, id: Text) -> Option<Target> {
        match (service, id) {
            (Some(service), None) => self.name("outbound.service", service).map(Target::Service),
            (None, Some(id)) => match SpiffeId::parse_canonical(id.as_ref()) {
                Ok(parsed) if parsed.path().is_empty() => self.refuse_value(
                    "outbound.id",
                    &id,
                    "must have a path: a trust domain alone names no service",
                ),
                Ok(parsed) => Some(Target::Id(parsed)),
                Err(error) => self.refuse_value("outbound.id", &id, &error.to_string()),
            },
            (Some(_), Some(id)) => {
                self.refuse_value("outbound.id", &id, "does not go together with service: give one of them")
            }
            (None, None) => self.refuse(
                section,
                "outbound.service",
                "is missing: give service or id, whose identity must answer",
            ),
        }
    }

    fn upstreams(
        &mut self,
        section: &Range<usize>,
        to: Option<Spanned<Vec<Spanned<String>>>>,
    ) -> Option<Vec<HostPort>> {
        let to = self.demand(section, "outbound.to", to)?;
        let (span, to) = (to.span(), to.into_inner());
        if to.is_empty() || to.len() > UPSTREAMS_MAX {
            return self.refuse(
                span,
                "outbound.to",
                &format!("must have from 1 to {UPSTREAMS_MAX} addresses"),
            );
        }
        let read: Vec<_> = to.iter().map(|one| self.host_port("outbound.to", one)).collect();
        read.into_iter().collect()
    }

    fn admin(&mut self, raw: RawAdmin, listeners: &mut Listeners) -> Option<SocketAddr> {
        let Some(listen) = raw.listen else {
            listeners.push(Listener { key: "admin.listen", span: 0..0, address: ADMIN_DEFAULT });
            return Some(ADMIN_DEFAULT);
        };
        let span = listen.span();
        let address = self.listen(&span, "admin.listen", Some(listen), listeners);
        self.loopback("admin.listen", Some(span).zip(address), raw.allow_non_loopback);
        address
    }

    fn listen(
        &mut self,
        section: &Range<usize>,
        key: &'static str,
        value: Text,
        listeners: &mut Listeners,
    ) -> Option<SocketAddr> {
        let value = self.demand(section, key, value)?;
        let Ok(address) = value.as_ref().parse() else {
            return self.refuse_value(
                key,
                &value,
                "must be ADDRESS:PORT, the address numeric (IPv6 in brackets)",
            );
        };
        listeners.push(Listener { key, span: value.span(), address });
        Some(address)
    }

    /// Requires a loopback address: every client of such a listener acts with this workload's identity.
    fn loopback(&mut self, key: &str, listen: Option<(Range<usize>, SocketAddr)>, allowed: bool) {
        if let Some((span, address)) = listen
            && !allowed
            && !is_loopback(address)
        {
            let rule = "must be a loopback address: others on the network could use it; \
                        if that is wanted, write allow_non_loopback = true beside it";
            self.refuse::<()>(span, key, rule);
        }
    }

    fn unique(&mut self, listeners: &[Listener]) {
        for (at, later) in listeners.iter().enumerate() {
            let clash = listeners.iter().take(at).find(|earlier| clash(earlier.address, later.address));
            if let Some(earlier) = clash {
                let (one, other) = if later.span.is_empty() { (earlier, later) } else { (later, earlier) };
                let rule = format!("is taken already by {} = {}", other.key, other.address);
                self.refuse::<()>(one.span.clone(), one.key, &rule);
            }
        }
    }

    fn unique_names(&mut self, inbounds: &[(Inbound, Range<usize>)]) {
        for (at, (later, span)) in inbounds.iter().enumerate() {
            if inbounds.iter().take(at).any(|(earlier, _)| earlier.name == later.name) {
                self.refuse::<()>(span.clone(), "inbound.name", "is the name of another inbound already");
            }
        }
    }

    fn bounded<T>(&mut self, key: &str, sections: &[Spanned<T>]) {
        if let Some(first_too_many) = sections.get(LISTENERS_MAX) {
            self.refuse::<()>(first_too_many.span(), key, &format!("at most {LISTENERS_MAX} are allowed"));
        }
    }
}

struct Listener {
    key: &'static str,
    span: Range<usize>,
    address: SocketAddr,
}

type Listeners = Vec<Listener>;
