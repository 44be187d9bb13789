//! WebSockets through the pair: they switch, carry frames both ways, and end cleanly from either side.

use postern_integration::CaOptions;
use postern_integration::apps::App;
use postern_integration::shop::Shop;
use postern_integration::websocket::{self, BYE, Socket};
use tokio_tungstenite::tungstenite::{Error, Message};

async fn shop() -> Shop {
    Shop::start_http(CaOptions::default(), websocket::app().await, "").await
}

#[tokio::test]
async fn text_and_binary_frames_of_every_size_come_back() {
    let shop = shop().await;
    let mut socket = Socket::greeted(shop.orders_to_payments()).await;
    for size in [0, 1, 125, 126, 65_535, 65_536, 1024 * 1024] {
        socket.echo(Message::text("x".repeat(size))).await.unwrap();
        socket.echo(Message::binary(vec![0; size])).await.unwrap();
    }
    socket.send(Message::Ping(vec![7].into())).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::Pong(vec![7].into()));
}

#[tokio::test]
async fn a_client_closes_cleanly() {
    let shop = shop().await;
    let mut socket = Socket::greeted(shop.orders_to_payments()).await;
    socket.close().await.unwrap();
    assert!(matches!(socket.next().await, Some(Ok(Message::Close(_)))));
    assert!(socket.next().await.is_none(), "nothing after the closing handshake");
}

#[tokio::test]
async fn a_server_closes_cleanly() {
    let shop = shop().await;
    let mut socket = Socket::greeted(shop.orders_to_payments()).await;
    socket.send(Message::text(BYE)).await.unwrap();
    assert!(matches!(socket.next().await, Some(Ok(Message::Close(_)))));
    assert!(socket.next().await.is_none(), "nothing after the closing handshake");
}

#[tokio::test]
async fn many_sockets_are_open_at_once_beside_each_other() {
    let shop = shop().await;
    let mut sockets = Vec::new();
    for _ in 0..50 {
        sockets.push(Socket::greeted(shop.orders_to_payments()).await);
    }
    for (at, socket) in sockets.iter_mut().enumerate() {
        socket.echo(Message::text(at.to_string())).await.unwrap();
    }
}

#[tokio::test]
async fn a_refused_one_gets_the_403_instead() {
    let shop = shop().await;
    let Err(Error::Http(response)) = Socket::open(shop.reports_to_payments()).await else {
        panic!("it is refused");
    };
    assert_eq!(response.status(), 403);
    let told = String::from_utf8(response.body().clone().unwrap_or_default()).unwrap();
    assert!(told.contains("urn:postern:denied") && told.contains("GET /socket"), "{told}");
}

#[tokio::test]
async fn a_server_that_does_not_switch_answers_as_it_does() {
    let shop = Shop::start_http(CaOptions::default(), App::http("no socket here").await, "").await;
    let Err(Error::Http(response)) = Socket::open(shop.orders_to_payments()).await else {
        panic!("it does not switch");
    };
    assert_eq!(response.status(), 200);
}
