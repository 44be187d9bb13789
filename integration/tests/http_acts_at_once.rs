//! A withdrawn permission cuts all five kinds of live connection, each with an error, and no other caller's.

use postern_integration::live::{Five, Wide, allowing};

#[tokio::test]
async fn what_is_withdrawn_from_one_caller_is_cut_and_the_other_goes_on() {
    let wide = Wide::start().await;
    let orders = Five::open(&wide, &wide.orders).await;
    let mut reports = Five::open(&wide, &wide.reports).await;
    wide.mesh.write("policy.toml", &allowing(&["reports"]));
    orders.cut().await;
    reports.all_alive().await;
    wide.payments.program.line_with(&["cut", "spiffe://shop.example/orders", "no rule matches"]).await;
    assert_eq!(wide.payments.program.lines_with(&["cut", "spiffe://shop.example/reports"]), 0);
    wide.mesh.write("policy.toml", &allowing(&["orders"]));
    reports.cut().await;
}
