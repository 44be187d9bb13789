//! Names are resolved in the background, and what the name servers said last is what counts.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use postern_sidecar::config::{HostPort, Limits};
use postern_sidecar::network::resolver::name::Answer;
use postern_sidecar::network::resolver::setup::SystemFiles;
use postern_sidecar::network::resolver::{
    HOSTS_FILE_TTL, LOOKUP_TIME_MAX, LookupError, NameServers, OTHER_FAMILY_DELAY,
};
use postern_sidecar::observability::Direction;
use postern_sidecar::observability::metrics::Metrics;
use postern_sidecar::proxy::upstream::{UpstreamRegister, Upstreams};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::apps::{App, echoed, expect_refused};
use crate::authority::Authority;
use crate::name_server::{NameServer, Says};
use crate::sidecar::{PATIENCE, Spec, eventually};

/// Where `payments.example` leads, kept fresh.
struct Named {
    upstreams: Arc<Upstreams>,
    register: UpstreamRegister,
    over: CancellationToken,
    tasks: JoinSet<()>,
}

impl Named {
    fn new(server: &NameServer, port: u16) -> Self {
        let to = HostPort { host: "payments.example".to_owned(), port };
        let limits = Limits { connect_timeout: Duration::from_secs(2), ..Limits::default() };
        let metrics = Arc::<Metrics>::default();
        let series = metrics.series.listener(Direction::Outbound, "payments");
        let upstreams = Upstreams::new(&[to], series, limits, server.asked(), metrics);
        let register = UpstreamRegister::default();
        register.enter(0, &upstreams);
        let (over, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let (tended, until) = (upstreams.clone(), over.clone());
        tasks.spawn(async move { tended.run_background(until).await });
        Self { upstreams, register, over, tasks }
    }

    fn shown(&self) -> Value {
        self.register.shown(Direction::Outbound, 0)
    }

    async fn stands(&self, standing: &str) -> Value {
        let stands = || Some(self.shown()).filter(|shown| shown["names"][0]["standing"] == standing);
        eventually(standing, stands).await
    }

    async fn leads_to(&self, wanted: &[IpAddr]) {
        let leads = || {
            let shown = self.shown();
            let shown = shown["addresses"].as_array().unwrap();
            let is_shown =
                |address: &IpAddr| shown.iter().any(|one| host(one["address"].as_str().unwrap()) == *address);
            (shown.len() == wanted.len() && wanted.iter().all(is_shown)).then_some(())
        };
        eventually(&format!("{wanted:?}"), leads).await;
    }

    /// The addresses that a connection would try.
    async fn offered(&self) -> Vec<IpAddr> {
        let (mut attempt, mut offered) = (self.upstreams.attempt(), Vec::new());
        while let Some(leased) = attempt.next().await {
            offered.push(leased.address().ip());
        }
        offered.sort();
        offered
    }

    async fn end(mut self) {
        self.over.cancel();
        self.tasks.join_next().await.unwrap().unwrap();
    }
}

fn host(address: &str) -> IpAddr {
    address.parse::<SocketAddr>().unwrap().ip()
}

fn v4(last: u8) -> IpAddr {
    IpAddr::from([127, 0, 0, last])
}

fn v6() -> IpAddr {
    "::1".parse().unwrap()
}

#[tokio::test]
async fn the_first_connection_waits_for_the_first_answer_and_no_other_asks_anybody() {
    let server = NameServer::new(Says::Addresses(vec![v4(2), v6(), v4(3)], 300)).await;
    let named = Named::new(&server, 80);
    assert!(!named.offered().await.is_empty(), "of either family");
    named.leads_to(&[v4(2), v4(3), v6()]).await;
    let questions = server.questions();
    for _ in 0..1_000 {
        assert_eq!(named.offered().await, [v4(2), v4(3), v6()], "of both families");
    }
    assert_eq!(questions, server.questions());
    named.end().await;
}

#[tokio::test]
async fn a_changed_answer_is_taken_over_when_the_last_ones_time_is_over_and_not_before() {
    let server = NameServer::new(Says::Addresses(vec![v4(2), v4(3)], 2)).await;
    let named = Named::new(&server, 80);
    named.leads_to(&[v4(2), v4(3)]).await;
    let since = Instant::now();
    server.say(Says::Addresses(vec![v4(3), v4(4)], 2));
    named.leads_to(&[v4(3), v4(4)]).await;
    let after = since.elapsed();
    assert!((Duration::from_millis(1_500)..Duration::from_secs(4)).contains(&after), "{after:?}");
    named.end().await;
}

#[tokio::test]
async fn an_alias_that_ends_sooner_than_its_addresses_decides_when_to_ask_again() {
    let server = NameServer::new(Says::Alias(vec![v4(2)], 1)).await;
    let named = Named::new(&server, 80);
    named.leads_to(&[v4(2)]).await;
    server.say(Says::Alias(vec![v4(3)], 1));
    named.leads_to(&[v4(3)]).await;
    named.end().await;
}

#[tokio::test]
async fn a_name_server_that_fails_leaves_the_last_answer_in_force_until_it_is_back() {
    let server = NameServer::new(Says::Addresses(vec![v4(2)], 1)).await;
    let named = Named::new(&server, 80);
    named.leads_to(&[v4(2)]).await;
    for failing in [Says::Nothing, Says::ServerFailure, Says::Garbage] {
        server.say(failing.clone());
        let shown = named.stands("failed").await;
        assert_eq!(shown["names"][0]["addresses"], 1, "{failing:?}: {shown}");
        assert!(shown["names"][0]["reason"].as_str().unwrap().contains("no name server answers"), "{shown}");
        assert_eq!(named.offered().await, [v4(2)]);
        server.say(Says::Addresses(vec![v4(2)], 1));
        named.stands("answered").await;
    }
    named.end().await;
}

#[tokio::test]
async fn a_name_server_that_is_gone_and_comes_back_is_heard_again() {
    let server = NameServer::new(Says::Addresses(vec![v4(2)], 1)).await;
    let (named, at) = (Named::new(&server, 80), server.at);
    named.leads_to(&[v4(2)]).await;
    drop(server);
    named.stands("failed").await;
    assert_eq!(named.offered().await, [v4(2)]);
    let _back = NameServer::at(at, Says::Addresses(vec![v4(3)], 1)).await;
    named.leads_to(&[v4(3)]).await;
    named.end().await;
}

#[tokio::test]
async fn a_name_that_is_gone_leads_nowhere_and_is_found_when_it_is_back() {
    let server = NameServer::new(Says::Addresses(vec![v4(2)], 1)).await;
    let named = Named::new(&server, 80);
    named.leads_to(&[v4(2)]).await;
    for (says, why) in
        [(Says::NoSuchName, "there is no such name"), (Says::NoAddress, "the name has no address")]
    {
        server.say(says);
        let is_told = || (named.shown()["names"][0]["reason"] == why).then_some(());
        eventually(why, is_told).await;
        named.leads_to(&[]).await;
        let error = named.upstreams.connect().await.unwrap_err().to_string();
        assert_eq!(error, format!("payments.example:80 cannot be resolved: {why}"));
        server.say(Says::Addresses(vec![v4(3)], 1));
        named.leads_to(&[v4(3)]).await;
    }
    named.end().await;
}

#[tokio::test]
async fn one_family_is_enough_when_nobody_answers_about_the_other() {
    let server = NameServer::new(Says::OnlyV4(vec![v4(2)], 1)).await;
    let named = Named::new(&server, 80);
    named.leads_to(&[v4(2)]).await;
    named.stands("answered").await;
    named.end().await;
}

#[tokio::test]
async fn a_hundred_addresses_are_all_used_and_of_a_thousand_a_bounded_number() {
    let hundred: Vec<_> = (1..=100).map(|last| IpAddr::from([127, 0, 1, last])).collect();
    let server = NameServer::new(Says::Addresses(hundred, 1)).await;
    let named = Named::new(&server, 80);
    let is_known = |count: u64| named.shown()["names"][0]["addresses"] == count;
    eventually("a hundred", || is_known(100).then_some(())).await;
    let shown = named.shown();
    assert_eq!((shown["addresses"].as_array().unwrap().len(), &shown["more"]), (64, &36.into()));

    let thousand = (0..1_000_u16).map(|at| IpAddr::from([127, 1, (at >> 8) as u8, at as u8]));
    server.say(Says::Addresses(thousand.collect(), 1));
    let max = postern_sidecar::network::resolver::name::ADDRESSES_MAX as u64;
    eventually("as many as are taken", || is_known(max).then_some(())).await;
    named.end().await;
}

#[tokio::test]
async fn while_no_name_server_ever_answered_a_connection_waits_only_as_long_as_it_may() {
    let server = NameServer::new(Says::Nothing).await;
    let named = Named::new(&server, 80);
    let error = tokio::time::timeout(PATIENCE, named.upstreams.connect()).await.unwrap().unwrap_err();
    let error = error.to_string();
    assert!(error.starts_with("payments.example:80 cannot be resolved: no name server answers"), "{error}");
    named.end().await;
}

#[tokio::test]
async fn an_outbound_reaches_its_service_by_name_and_says_which_name_leads_nowhere() {
    let (authority, app) = (Authority::new(), App::echo().await);
    let payments = Spec::new(&authority, "payments").app(app.address).start(&authority);
    let inbound = payments.inbound.unwrap();
    let server = NameServer::new(Says::Addresses(vec![v6(), inbound.ip()], 1)).await;
    let spec = Spec::new(&authority, "orders").calling("payments.example", inbound.port(), server.asked());
    let orders = spec.start(&authority);
    for _ in 0..20 {
        let mut stream = TcpStream::connect(orders.outbound.unwrap()).await.unwrap();
        echoed(&mut stream).await.unwrap();
    }
    server.say(Says::NoSuchName);
    let is_absent =
        || orders.proxy.upstreams.shown(Direction::Outbound, 0).to_string().contains("no such name");
    eventually("absent", || is_absent().then_some(())).await;
    expect_refused(orders.outbound.unwrap()).await;
    let told = orders.refusal("unreachable").await;
    assert!(told["detail"].as_str().unwrap().contains("payments.example"), "{told}");

    server.say(Says::Addresses(vec![inbound.ip()], 1));
    let is_back = || orders.proxy.upstreams.shown(Direction::Outbound, 0).to_string().contains("answered");
    eventually("back", || is_back().then_some(())).await;
    let mut stream = TcpStream::connect(orders.outbound.unwrap()).await.unwrap();
    echoed(&mut stream).await.unwrap();
    drop(stream);
    let text = orders.proxy.control.metrics.text().unwrap();
    assert!(text.contains("postern_name_lookups_total{result=\"absent\"}"), "{text}");
    orders.all_ended().await;
}

#[tokio::test]
async fn a_name_in_the_hosts_file_is_no_question_for_name_servers_and_may_change() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("hosts");
    let servers =
        NameServers::System(Arc::new(SystemFiles::new(file.clone(), "/nowhere/resolv.conf".into())));
    for lines in ["127.0.0.2 payments.example\n", "127.0.0.3 payments.example\n::1 payments.example other\n"]
    {
        std::fs::write(&file, lines).unwrap();
        let wanted = lines.lines().map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect();
        let answer = servers.look_up("payments.example", OTHER_FAMILY_DELAY).await.unwrap();
        assert_eq!(answer, Answer::Addresses { addresses: wanted, ttl: HOSTS_FILE_TTL });
    }
}

#[tokio::test]
async fn what_is_no_name_is_asked_of_nobody() {
    let server = NameServer::new(Says::Addresses(vec![v4(2)], 1)).await;
    for name in [&*"x".repeat(64), &*"x.".repeat(128)] {
        let error = server.asked().look_up(name, OTHER_FAMILY_DELAY).await.unwrap_err();
        assert_eq!(error.to_string(), "it is no valid name", "{name}");
    }
    assert_eq!(server.questions(), 0);
}

#[tokio::test]
async fn silent_and_failing_name_servers_are_passed_over_without_a_timeout() {
    let [silent, failing, good] = [Says::Nothing, Says::ServerFailure, Says::Addresses(vec![v4(2)], 300)];
    let (silent, failing, good) =
        (NameServer::new(silent).await, NameServer::new(failing).await, NameServer::new(good).await);
    let asked = NameServer::all_asked_for(&[&silent, &failing, &good], LOOKUP_TIME_MAX * 10);
    let found = tokio::time::timeout(PATIENCE, asked.look_up("payments.example", OTHER_FAMILY_DELAY));
    match found.await.expect("no timeout is waited for").unwrap() {
        Answer::Addresses { addresses, .. } | Answer::OneFamily { addresses, .. } => {
            assert_eq!(addresses, [v4(2)]);
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_family_about_which_the_name_server_is_silent_does_not_keep_back_the_other() {
    let server = NameServer::new(Says::SilentAboutV6(vec![v4(2)], 300)).await;
    let asked = server.asked_for(LOOKUP_TIME_MAX * 10);
    let found = tokio::time::timeout(PATIENCE, asked.look_up("payments.example", OTHER_FAMILY_DELAY));
    let found = found.await.expect("no timeout is waited for").unwrap();
    assert!(matches!(&found, Answer::OneFamily { addresses, .. } if *addresses == [v4(2)]), "{found:?}");
}

#[tokio::test(start_paused = true)]
async fn a_question_is_given_up_in_the_end_however_patient_the_machines_settings_are() {
    let server = NameServer::new(Says::Nothing).await;
    let asked = server.asked_for(LOOKUP_TIME_MAX * 10);
    let error = asked.look_up("payments.example", OTHER_FAMILY_DELAY).await.unwrap_err();
    assert!(matches!(error, LookupError::Timeout(LOOKUP_TIME_MAX)), "{error:?}");
}
