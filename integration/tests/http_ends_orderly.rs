//! SIGTERM over HTTP: requests under way finish, no further ones are taken, and while another instance is there no
//! request fails.

use postern_integration::live::EchoStream;
use postern_integration::load::{Load, Style};
use postern_integration::shop::Shop;
use postern_integration::{CaOptions, SidecarSpec, eventually, grpc, web};

const SHUTDOWN: &str = "[shutdown]\ndrain_delay = \"500ms\"\ndrain_deadline = \"20s\"\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_steady_load_no_request_fails_while_one_of_two_instances_ends() {
    let app = web::app().await;
    let at = app.address;
    let mut shop = Shop::start_http(CaOptions::default(), app, SHUTDOWN).await;
    let spec = |name| SidecarSpec::new(name).second().policy(&shop.policy).http().extra(SHUTDOWN);
    // Another instance of payments, and another caller that knows both.
    let other = shop.mesh.sidecar(&shop.ca, &spec("payments").inbound("api", at));
    other.ready().await;
    let both = [shop.payments_inbound(), other.inbounds[0]];
    let caller = shop.mesh.sidecar(&shop.ca, &spec("orders").outbound_to_all("payments", &both));
    caller.ready().await;
    let styles = [Style::FreshHttp1, Style::KeptHttp1, Style::KeptHttp2];
    let loads: Vec<_> = styles.map(|style| Load::start(caller.outbounds[0], style, 3)).into();
    let served = || loads.iter().map(Load::served).min().unwrap();
    eventually("load", async || (served() > 50).then_some(())).await;
    let first_serves = shop.payments.status().await["connections"]["live"].as_u64().unwrap();
    assert!(first_serves >= 1, "the load is on the one that ends");
    shop.payments.program.signal("TERM");
    assert_eq!(shop.payments.program.exit().await.code(), Some(0));
    let then = served();
    eventually("more load", async || (served() > then + 50).then_some(())).await;
    for load in loads {
        let outcome = load.stop().await;
        assert_eq!(outcome.failures, Vec::<String>::new(), "of {} requests", outcome.served);
    }
}

#[tokio::test]
async fn streams_under_way_finish_before_the_called_sidecar_ends() {
    let mut shop = Shop::start_http(CaOptions::default(), grpc::app().await, SHUTDOWN).await;
    let mut client = grpc::Client::new(shop.orders_to_payments());
    let mut chat = client.chat().await.unwrap();
    chat.echo("before").await.unwrap();
    shop.payments.program.signal("TERM");
    shop.payments.program.line_with(&["draining"]).await;
    chat.echo("while it drains").await.unwrap();
    assert!(chat.end().await.is_none(), "it ends cleanly");
    assert_eq!(shop.payments.program.exit().await.code(), Some(0));
}

#[tokio::test]
async fn streams_under_way_finish_before_the_calling_sidecar_ends() {
    let mut shop = Shop::start_http(CaOptions::default(), web::app().await, SHUTDOWN).await;
    let mut stream = EchoStream::open(shop.orders_to_payments()).await;
    stream.echo().await.unwrap();
    shop.orders.program.signal("TERM");
    shop.orders.program.line_with(&["draining"]).await;
    stream.echo().await.unwrap();
    stream.end().await;
    assert_eq!(shop.orders.program.exit().await.code(), Some(0));
}
