//! A new process with another configuration: it opens what is new, and what is gone closes with the old process.

use postern_integration::free_port;
use tokio::net::TcpStream;

use crate::fixture::{echo, load, none_failed, other_config, shop, start};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_further_listener_is_opened_and_one_that_is_gone_is_closed_after_the_drain() {
    let mut shop = shop().await;
    let (old_port, new_port) = (shop.orders_to_payments(), free_port());
    let mut open = TcpStream::connect(old_port).await.unwrap();
    echo(&mut open, b"before").await;
    let to = format!("127.0.0.1:{new_port}");
    let new = start(&other_config(&shop.orders, &old_port.to_string(), &to));
    new.line_with(&["took over"]).await;
    let mut fresh = TcpStream::connect(&to).await.unwrap();
    echo(&mut fresh, b"at the new address").await;
    shop.orders.program.line_with(&["draining", "live=1"]).await;
    postern_integration::eventually("nobody listens at the old address", async || {
        TcpStream::connect(old_port).await.is_err().then_some(())
    })
    .await;
    echo(&mut open, b"still open").await;
    drop(open);
    assert_eq!(shop.orders.program.exit().await.code(), Some(0));
    assert_eq!(shop.orders.get("/ready").await.unwrap().0, 200, "the admin endpoint is the new one's");
    shop.orders.program = new;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_has_another_name_only_keeps_its_socket() {
    let mut shop = shop().await;
    let load = load(&shop).await;
    let id = "id = \"spiffe://shop.example/payments\"";
    let new = start(&other_config(&shop.orders, "service = \"payments\"", id));
    new.line_with(&["took over"]).await;
    assert_eq!(shop.orders.program.exit().await.code(), Some(0));
    shop.orders.program = new;
    none_failed(load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_in_a_missing_directory_or_with_too_long_a_path_is_named_with_its_line() {
    let shop = shop().await;
    let text = std::fs::read_to_string(&shop.payments.config).unwrap();
    let line = 1 + text.lines().position(|line| line.starts_with("socket = ")).unwrap();
    for (path, rule) in
        [("missing/restart.sock", "directory that is there"), (&*"x".repeat(200), "at most 103 bytes")]
    {
        let mut new = start(&other_config(&shop.payments, "payments.state/restart.sock", path));
        new.line_with(&[&format!(".toml:{line}: restart.socket"), rule]).await;
        assert_eq!(new.exit().await.code(), Some(2));
    }
}
