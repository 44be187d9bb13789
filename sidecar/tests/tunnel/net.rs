//! Two sidecars' identities, and TLS between them over loopback, each end a tunnel's.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use postern_proto::identity::SpiffeId;
use postern_proto::mtls::{Anyone, HandshakeSecrets, Judge, client_config_yielding, server_config_yielding};
use postern_sidecar::clock::SystemClock;
use postern_sidecar::config::Config;
use postern_sidecar::live::Traffic;
use postern_sidecar::plane::Plane;
use postern_sidecar::tls::{Secured, client_hello, connect};
use postern_sidecar::tunnel::{ALPN, Role, Vouching, Wire};
use time::{Duration, OffsetDateTime};
use tokio::net::{TcpListener, TcpStream};

use crate::authority::{Authority, Validity, id};

/// One side of all tunnels.
#[derive(Debug)]
pub struct Side {
    pub role: Role,
    pub plane: Arc<Plane>,
    peer: SpiffeId,
}

impl Side {
    fn new(role: Role, peer: &str) -> Self {
        let text = "[identity]\nsvid_file = \"a\"\nkey_file = \"b\"\nbundle_file = \"c\"\n";
        let config = Config::parse(Path::new("sidecar.toml"), text).unwrap();
        Self { role, plane: Arc::new(Plane::new(config, Arc::new(SystemClock))), peer: id(peer) }
    }
}

/// Both sides and the way between them.
pub struct Net {
    authority: Authority,
    pub caller: Side,
    pub called: Side,
    pub listener: TcpListener,
    to: SocketAddr,
}

impl Net {
    pub async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        let caller = Side::new(Role::Caller, "payments");
        let called = Side::new(Role::Called, "orders");
        let net = Self { authority: Authority::new(), caller, called, listener, to };
        net.rotate(Role::Caller);
        net.rotate(Role::Called);
        net
    }

    /// A new key and certificate.
    pub fn rotate(&self, role: Role) {
        let validity = Validity::of(Duration::hours(1), OffsetDateTime::now_utc());
        let (side, name) = match role {
            Role::Caller => (&self.caller, "orders"),
            Role::Called => (&self.called, "payments"),
        };
        let bundles = Arc::new(self.authority.bundles());
        side.plane.credentials.replace(self.authority.svid(&id(name), validity), bundles).unwrap();
    }

    /// A new tunnel at the calling side.
    pub async fn dial(&self, traffic: Arc<Traffic>) -> io::Result<Wire> {
        let tcp = TcpStream::connect(self.to).await?;
        tcp.set_nodelay(true)?;
        let own = self.caller.plane.credentials.current().unwrap();
        let judge = Arc::new(Judge::new(own.bundles.clone(), Arc::new(Anyone)));
        let secrets = Arc::<HandshakeSecrets>::default();
        let config = client_config_yielding(Some(&own.tls), judge, &[ALPN], secrets.clone()).unwrap();
        let secured = connect(tcp, config, &secrets).await.map_err(|broken| broken.error)?;
        Ok(wire(&self.caller, secured, own.generation, traffic))
    }

    /// And at the called side.
    pub async fn answer(&self, tcp: TcpStream, traffic: Arc<Traffic>) -> io::Result<Wire> {
        tcp.set_nodelay(true)?;
        let hello = client_hello(tcp).await.map_err(|broken| broken.error)?;
        let own = self.called.plane.credentials.current().unwrap();
        let judge = Arc::new(Judge::new(own.bundles.clone(), Arc::new(Anyone)));
        let secrets = Arc::<HandshakeSecrets>::default();
        let config = server_config_yielding(&own.tls, judge, &[ALPN], secrets.clone()).unwrap();
        let secured = hello.accept(config, &secrets).await.map_err(|broken| broken.error)?;
        Ok(wire(&self.called, secured, own.generation, traffic))
    }
}

fn wire(side: &Side, secured: Secured, generation: u64, traffic: Arc<Traffic>) -> Wire {
    let (who, to) = ((side.peer.clone(), generation), (Arc::new(Anyone) as Arc<_>, traffic));
    let mut wire = Wire::new(secured.stream, side.role);
    wire.vouch(Vouching::new(side.role, secured.exporter, side.plane.clone(), who, to));
    wire
}
