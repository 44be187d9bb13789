//! A shop whose sidecars can be succeeded, other configurations for the successor, and a client that tells what it sees.

use std::path::{Path, PathBuf};

use postern_integration::Program;
use postern_integration::apps::App;
use postern_integration::load::{Load, Style};
use postern_integration::shop::{POLICY, Shop};
use postern_integration::{CaOptions, Sidecar, SidecarSpec, eventually, sidecar_binary};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// With an echo server behind `payments`, and short drains.
pub(crate) async fn shop() -> Shop {
    shop_with("[shutdown]\ndrain_delay = \"300ms\"\ndrain_deadline = \"10s\"\n").await
}

pub(crate) async fn shop_with(extra: &str) -> Shop {
    let change = |spec: SidecarSpec| spec.restartable().extra(extra);
    Shop::start_as(CaOptions::default(), App::echo().await, POLICY, change).await
}

/// A configuration beside that of a running sidecar, different in one place.
pub(crate) fn other_config(of: &Sidecar, from: &str, to: &str) -> PathBuf {
    let text = std::fs::read_to_string(&of.config).unwrap();
    assert!(text.contains(from), "{from:?} is not in {text}");
    let path = of.config.with_extension("other.toml");
    std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
    path
}

pub(crate) fn start(config: &Path) -> Program {
    Program::start("the new process", &sidecar_binary(), ["run".as_ref(), "--config".as_ref(), config])
}

/// A successor that lacks its policy until [`give_policy`].
pub(crate) async fn start_without_policy(of: &Sidecar) -> Program {
    let new = start(&other_config(of, "/policy.toml\"", "/late.toml\""));
    new.line_with(&["waiting until ready"]).await;
    new
}

pub(crate) fn give_policy(shop: &Shop) {
    shop.mesh.write("late.toml", POLICY);
}

/// New connections all the time, until they are counted.
pub(crate) async fn load(shop: &Shop) -> Load {
    let load = Load::start(shop.orders_to_payments(), Style::FreshConnections, 4);
    goes_on(&load).await;
    load
}

/// Some more were served.
pub(crate) async fn goes_on(load: &Load) {
    let before = load.served();
    eventually("more load", async || (load.served() > before + 10).then_some(())).await;
}

pub(crate) async fn none_failed(load: Load) {
    let outcome = load.stop().await;
    assert_eq!(outcome.failures, Vec::<String>::new(), "of {}", outcome.served);
}

pub(crate) async fn echo(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
    let mut answer = vec![0; bytes.len()];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, bytes);
}
