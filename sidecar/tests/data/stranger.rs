//! Peers that are no sidecars: they hold an identity of the mesh and speak plain mTLS.

use std::net::SocketAddr;
use std::sync::Arc;

use postern_proto::mtls::{AuthorizeAny, PeerVerifier, TlsIdentity, client_config, server_name};
use time::{Duration, OffsetDateTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::authority::{Authority, Validity, id};

/// A connection of `name` whose handshake is done as far as the client can know.
pub async fn connect(
    authority: &Authority,
    name: &str,
    lifetime: Duration,
    to: SocketAddr,
) -> TlsStream<TcpStream> {
    let validity = Validity::of(lifetime, OffsetDateTime::now_utc());
    let identity = TlsIdentity::new(&authority.svid(&id(name), validity)).unwrap();
    let judge = Arc::new(PeerVerifier::new(Arc::new(authority.bundles()), Arc::new(AuthorizeAny)));
    let connector = TlsConnector::from(client_config(Some(&identity), judge, &[]).unwrap());
    connector.connect(server_name(), TcpStream::connect(to).await.unwrap()).await.unwrap()
}
