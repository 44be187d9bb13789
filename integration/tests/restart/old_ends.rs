//! The old process ends while a new one is about to take over: its sockets live on there.

use postern_integration::{eventually, refused};

use crate::fixture::{
    give_policy, goes_on, load, none_failed, other_config, shop, start, start_without_policy,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_told_to_end_may_still_be_succeeded() {
    let mut shop = shop().await;
    let load = load(&shop).await;
    let new = start_without_policy(&shop.payments).await;
    shop.payments.program.signal("TERM");
    shop.payments.program.line_with(&["not ready"]).await;
    give_policy(&shop);
    new.line_with(&["listening"]).await;
    assert_eq!(shop.payments.program.exit().await.code(), Some(0));
    shop.payments.program = new;
    goes_on(&load).await;
    none_failed(load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_drains_before_the_new_one_is_ready_leaves_it_the_listeners() {
    let mut shop = shop().await;
    let load = load(&shop).await;
    let new = start_without_policy(&shop.payments).await;
    shop.payments.program.signal("TERM");
    new.line_with(&["the old process is gone"]).await;
    assert_eq!(shop.payments.program.exit().await.code(), Some(0));
    // Who connects waits until there is a policy.
    give_policy(&shop);
    shop.payments.program = new;
    goes_on(&load).await;
    none_failed(load).await;
    let mut old = shop.payments.succeed().await;
    assert_eq!(old.exit().await.code(), Some(0), "and it can be succeeded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_killed_leaves_the_new_one_the_listeners() {
    let mut shop = shop().await;
    let new = start_without_policy(&shop.payments).await;
    shop.payments.program.kill().await;
    new.line_with(&["the old process is gone"]).await;
    give_policy(&shop);
    new.line_with(&["listening"]).await;
    shop.payments.program = new;
    none_failed(load(&shop).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_killed_is_followed_by_one_that_refuses_when_it_gets_no_policy_in_time() {
    let mut shop = shop().await;
    let late =
        std::fs::read_to_string(other_config(&shop.payments, "/policy.toml\"", "/late.toml\"")).unwrap();
    let config = shop.payments.config.with_extension("hasty.toml");
    std::fs::write(&config, late.replacen("[restart]\n", "[restart]\nready_within = \"2s\"\n", 1)).unwrap();
    let new = start(&config);
    new.line_with(&["waiting until ready"]).await;
    shop.payments.program.kill().await;
    new.line_with(&["not ready, but nobody else is left", "policy"]).await;
    refused::is_reset(shop.orders_to_payments(), b"word").await;
    give_policy(&shop);
    shop.payments.program = new;
    shop.payments.ready().await;
    none_failed(load(&shop).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_was_killed_before_leaves_a_file_that_the_next_start_replaces() {
    let mut shop = shop().await;
    shop.payments.program.kill().await;
    assert!(shop.payments.restart_socket().exists());
    shop.payments.restart();
    shop.payments.ready().await;
    let mut old = shop.payments.succeed().await;
    assert_eq!(old.exit().await.code(), Some(0));
    shop.payments.program.signal("TERM");
    assert_eq!(shop.payments.program.exit().await.code(), Some(0));
    assert!(!shop.payments.restart_socket().exists(), "an orderly end leaves nothing");
    shop.payments.restart();
    shop.payments.ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_hangs_is_not_waited_for_for_ever() {
    let shop = shop().await;
    shop.payments.program.signal("STOP");
    let mut new = shop.payments.another();
    new.line_with(&["said nothing for 10s"]).await;
    assert_eq!(new.exit().await.code(), Some(1));
    shop.payments.program.signal("CONT");
    let load = load(&shop).await;
    none_failed(load).await;
    eventually("ready again", async || (shop.payments.get("/ready").await.ok()?.0 == 200).then_some(()))
        .await;
}
