//! How a CA ends: in order when asked, and by its deadline whatever clients do.

use std::time::{Duration, Instant};

use crate::fixture::Home;

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_and_sigint_end_it_with_exit_code_0_and_the_socket_is_gone() {
    for signal in ["-TERM", "-INT"] {
        let home = Home::new();
        let mut ca = home.start("");
        let client = ca.client();
        let _idle = client.connect(None).await.unwrap();
        ca.signal(signal);
        assert_eq!(ca.wait().code(), Some(0), "{}", home.log());
        assert!(!ca.data_dir.join("admin.sock").exists());
    }
}

#[tokio::test]
async fn a_client_that_never_finishes_its_request_does_not_hold_up_the_end() {
    let home = Home::new();
    let mut ca = home.start("drain_deadline = \"200ms\"\n");
    let _stalled = ca.client().stall().await;
    let told = Instant::now();
    ca.signal("-TERM");
    let exit = tokio::task::spawn_blocking(move || (ca.wait(), told.elapsed()));
    let (exit, took) = tokio::time::timeout(Duration::from_secs(20), exit).await.expect("it ends").unwrap();
    assert_eq!(exit.code(), Some(0), "{}", home.log());
    assert!(took >= Duration::from_millis(200), "the request was waited for");
}
