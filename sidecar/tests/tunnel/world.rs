//! Two sidecars as they are, and peers of other kinds behind the same outbound, with apps at both ends.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postern_sidecar::proxy::tunnel::Role;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::app::{App, NUMBER_BYTES, Source};
use crate::apps;
use crate::authority::{Authority, id};
use crate::sidecar::{POLICY, Sidecar, Spec};
use crate::stranger::svid;
use crate::ways::{Way, direct, retiring};

/// Nobody may call.
const DENIES: &str = "trust_domain = \"shop.example\"\n[service.payments]\n[service.orders]\n";

/// What is behind the outbound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peers {
    Postern,
    Direct,
    /// Both, and one that retires instead of every answer.
    All,
}

/// The called apps, in the order in which they were reached.
#[derive(Debug, Default)]
pub struct Seen {
    pub called: Vec<App>,
    pub wrong: Vec<String>,
}

pub struct World {
    pub orders: Sidecar,
    pub payments: Sidecar,
    pub ways: Vec<Way>,
    pub seen: Arc<Mutex<Seen>>,
    pub callers: Vec<App>,
    /// Something has happened over which connections may break.
    pub disturbed: bool,
    authority: Arc<Authority>,
    running: JoinSet<()>,
    _servers: Vec<apps::App>,
}

impl World {
    pub async fn new(peers: Peers) -> Self {
        let (authority, seen) = (Arc::new(Authority::new()), Arc::<Mutex<Seen>>::default());
        let called = called_apps(seen.clone()).await;
        let payments = Spec::new(&authority, "payments").app(called.address).start(&authority);
        let foreign = direct(authority.clone(), called.address).await;
        let retires = retiring(authority.clone()).await;
        let targets = match peers {
            Peers::Postern => vec![payments.inbound.unwrap()],
            Peers::Direct => vec![foreign.address],
            Peers::All => vec![payments.inbound.unwrap(), foreign.address, retires.address],
        };
        let mut ways = Vec::new();
        for target in targets {
            ways.push(Way::to(target).await);
        }
        let to: Vec<_> = ways.iter().map(|way| way.address).collect();
        let orders = Spec::new(&authority, "orders").to(&to).start(&authority);
        let (callers, running, disturbed) = (Vec::new(), JoinSet::new(), false);
        let servers = vec![called, foreign, retires];
        Self { orders, payments, ways, seen, callers, disturbed, authority, running, _servers: servers }
    }

    pub async fn connect(&mut self) -> App {
        let app = App::new(Source { connection: self.callers.len() as u32, attempt: 0 });
        let stream = TcpStream::connect(self.orders.outbound.unwrap()).await.unwrap();
        self.running.spawn(app.clone().run(stream));
        self.callers.push(app.clone());
        app
    }

    pub fn rotate(&self, role: Role) {
        let (sidecar, name) = match role {
            Role::Caller => (&self.orders, "orders"),
            Role::Called => (&self.payments, "payments"),
        };
        let bundles = Arc::new(self.authority.bundles());
        sidecar.proxy.control.credentials.replace(svid(&self.authority, name), bundles).unwrap();
    }

    pub fn deny(&mut self) {
        self.disturbed = true;
        self.payments.apply(DENIES);
    }

    /// At one side, the other's identity is revoked.
    pub fn revoke_at(&mut self, role: Role) {
        self.disturbed = true;
        let (sidecar, name) = match role {
            Role::Caller => (&self.orders, "payments"),
            Role::Called => (&self.payments, "orders"),
        };
        sidecar.proxy.control.revoked.replace(HashSet::from([id(name)]));
    }

    /// Everything is allowed again, and nothing is held up.
    pub fn restore(&self) {
        self.payments.apply(POLICY);
        for sidecar in [&self.orders, &self.payments] {
            sidecar.proxy.control.revoked.replace(HashSet::new());
        }
        for way in &self.ways {
            way.events.held.send_replace(false);
        }
    }

    /// Everybody takes everything and has said everything, until all is over.
    pub async fn end(&mut self) {
        self.restore();
        self.callers.iter().for_each(App::release);
        let is_open = |app: &App| !app.told().closed;
        loop {
            let called = self.seen.lock().unwrap().called.clone();
            called.iter().for_each(App::release);
            if self.callers.iter().chain(&called).all(|app| !is_open(app)) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        while let Some(run) = self.running.join_next().await {
            run.unwrap();
        }
    }

    /// Begins anew with the apps, not with the sidecars.
    pub fn forget_apps(&mut self) {
        self.callers.clear();
        *self.seen.lock().unwrap() = Seen::default();
    }

    pub fn attempts(&self, caller: &App) -> Vec<App> {
        let seen = self.seen.lock().unwrap();
        let is_its = |app: &&App| app.source.connection == caller.source.connection;
        seen.called.iter().filter(is_its).cloned().collect()
    }

    /// The one that was reached, once there is one and it lives.
    pub async fn called(&self, caller: &App) -> Option<App> {
        loop {
            if let Some(called) = self.attempts(caller).pop() {
                return Some(called);
            }
            if caller.told().closed {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Tells what is wrong: whatever has happened, no app got a byte that is not its own, and no end was made a clean one.
    pub fn judge(&self) -> Result<(), String> {
        let wrong = self.seen.lock().unwrap().wrong.clone();
        if !wrong.is_empty() {
            return Err(format!("{wrong:?}"));
        }
        for sidecar in [&self.orders, &self.payments] {
            let told = sidecar.proxy.refusals.newest();
            let broken = |told: &&serde_json::Value| {
                matches!(told["reason"].as_str(), Some("tunnel_violation" | "reauthentication_failed"))
            };
            if let Some(told) = told.as_array().unwrap().iter().find(broken) {
                return Err(format!("among peers that keep the rules: {told}"));
            }
        }
        for caller in &self.callers {
            let attempts = self.attempts(caller);
            self.judge_one(caller, &attempts).map_err(|wrong| {
                format!("{wrong}: {:?}, reached {}: {caller:?} {attempts:?}", caller.source, attempts.len())
            })?;
        }
        Ok(())
    }

    fn judge_one(&self, caller: &App, attempts: &[App]) -> Result<(), String> {
        if attempts.len() > 1 {
            return Err("two apps got what one has said".to_owned());
        }
        for called in attempts {
            if !called.heard(caller) {
                return Err("the called app got other bytes".to_owned());
            }
            if called.told().got_end && !called.heard_all(caller) {
                return Err("the called app was told of a clean end that was none".to_owned());
            }
        }
        if !caller.told().got.is_empty() && !attempts.iter().any(|called| caller.heard(called)) {
            return Err("the calling app got other bytes".to_owned());
        }
        if caller.told().got_end && !attempts.iter().any(|called| caller.heard_all(called)) {
            return Err("the calling app was told of a clean end that was none".to_owned());
        }
        let broken = caller.told().broken || attempts.iter().any(|called| called.told().broken);
        if broken || self.disturbed || self.gave_up() {
            return Ok(());
        }
        if !caller.told().got_end {
            return Err("the calling app was reset for nothing".to_owned());
        }
        if !attempts.iter().any(|called| called.told().got_end) {
            return Err("the called app was reset for nothing".to_owned());
        }
        Ok(())
    }

    /// The peer that always retires was tried too often in a row.
    fn gave_up(&self) -> bool {
        let told = self.orders.proxy.refusals.newest();
        told.as_array().unwrap().iter().any(|told| told["reason"] == "unreachable")
    }
}

/// Runs an app for each connection, once it has said whose it is.
async fn called_apps(seen: Arc<Mutex<Seen>>) -> apps::App {
    apps::App::serve(move |mut stream: TcpStream| {
        let seen = seen.clone();
        async move {
            let mut number = [0; NUMBER_BYTES];
            if let Err(error) = stream.read_exact(&mut number).await {
                // Everybody says a number before its end, so a clean end is none.
                if error.kind() == std::io::ErrorKind::UnexpectedEof {
                    seen.lock().unwrap().wrong.push("a clean end before the first bytes".to_owned());
                }
                return Ok(());
            }
            let app = {
                let mut seen = seen.lock().unwrap();
                let connection = u32::from_be_bytes(number);
                let before = seen.called.iter().filter(|app| app.source.connection == connection).count();
                let app = App::new(Source { connection, attempt: before as u32 + 1 });
                app.told().got = number.to_vec();
                seen.called.push(app.clone());
                app
            };
            app.run(stream).await;
            Ok(())
        }
    })
    .await
}
