//! A name server that says what the test wants, over UDP and TCP.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
use postern_sidecar::network::resolver::NameServers;
use postern_sidecar::network::resolver::setup::Setup;
use postern_sidecar::proxy::listener::{self, Families};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

/// What is answered to every question.
#[derive(Debug, Clone)]
pub enum Says {
    /// With a time to live in seconds.
    Addresses(Vec<IpAddr>, u32),
    NoSuchName,
    NoAddress,
    ServerFailure,
    /// To questions about IPv4, and a failure to those about IPv6.
    OnlyV4(Vec<IpAddr>, u32),
    /// To questions about IPv4, and nothing to those about IPv6.
    SilentAboutV6(Vec<IpAddr>, u32),
    /// Another name under which the addresses are, with the time to live of that.
    Alias(Vec<IpAddr>, u32),
    Garbage,
    Nothing,
}

#[derive(Debug)]
struct State {
    says: Says,
    questions: usize,
}

/// A name server that is gone when dropped.
pub struct NameServer {
    pub at: SocketAddr,
    state: Arc<Mutex<State>>,
    _tasks: JoinSet<()>,
}

/// More than this goes over TCP.
const UDP_BYTES_MAX: usize = 512;

impl NameServer {
    pub async fn new(says: Says) -> Self {
        loop {
            let tcp = listener::open(SocketAddr::from(([127, 0, 0, 1], 0)), Families::Own).unwrap();
            // Somebody else may have the same port for UDP.
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
                return Self::serve(udp, tcp, says);
            }
        }
    }

    pub async fn at(at: SocketAddr, says: Says) -> Self {
        Self::serve(UdpSocket::bind(at).await.unwrap(), listener::open(at, Families::Own).unwrap(), says)
    }

    fn serve(udp: UdpSocket, tcp: TcpListener, says: Says) -> Self {
        let at = udp.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State { says, questions: 0 }));
        let mut tasks = JoinSet::new();
        let asked = state.clone();
        tasks.spawn(async move {
            let mut buffer = [0; 4096];
            loop {
                let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
                if let Some(answer) = answer(&buffer[..length], &asked, UDP_BYTES_MAX) {
                    udp.send_to(&answer, from).await.unwrap();
                }
            }
        });
        let asked = state.clone();
        tasks.spawn(async move {
            loop {
                let mut stream = tcp.accept().await.unwrap().0;
                let mut question = vec![0; stream.read_u16().await.unwrap().into()];
                stream.read_exact(&mut question).await.unwrap();
                if let Some(answer) = answer(&question, &asked, usize::MAX) {
                    stream.write_u16(answer.len().try_into().unwrap()).await.unwrap();
                    stream.write_all(&answer).await.unwrap();
                }
            }
        });
        Self { at, state, _tasks: tasks }
    }

    pub fn say(&self, says: Says) {
        self.state.lock().unwrap().says = says;
    }

    pub fn questions(&self) -> usize {
        self.state.lock().unwrap().questions
    }

    /// Asks this one, and does not wait long.
    pub fn asked(&self) -> NameServers {
        self.asked_for(Duration::from_millis(200))
    }

    /// Asks this one, and waits so long for each answer.
    pub fn asked_for(&self, patience: Duration) -> NameServers {
        Self::all_asked_for(&[self], patience)
    }

    /// Asks these in order, and waits so long for each answer.
    pub fn all_asked_for(all: &[&Self], patience: Duration) -> NameServers {
        let server = |server: &&Self| {
            let (mut udp, mut tcp) = (ConnectionConfig::udp(), ConnectionConfig::tcp());
            (udp.port, tcp.port) = (server.at.port(), server.at.port());
            NameServerConfig::new(server.at.ip(), true, vec![udp, tcp])
        };
        let config = ResolverConfig::from_parts(None, Vec::new(), all.iter().map(server).collect());
        let mut options = ResolverOpts::default();
        (options.timeout, options.attempts) = (patience, 1);
        NameServers::Given(Arc::new(Setup { config, options, ..Setup::default() }))
    }
}

/// RFC 1035 §4.1.
fn answer(question: &[u8], asked: &Mutex<State>, bytes_max: usize) -> Option<Vec<u8>> {
    let mut state = asked.lock().unwrap();
    state.questions += 1;
    let says = state.says.clone();
    drop(state);
    // The question ends after its name, type and class; whatever follows are extensions.
    let end = question[12..].iter().position(|&byte| byte == 0).unwrap() + 12 + 5;
    let is_v4 = question[end - 3] == 1;
    let (code, records) = match says {
        Says::Nothing => return None,
        Says::Garbage => return Some([&question[..2], &[0xff; 40]].concat()),
        Says::NoSuchName => (3, Vec::new()),
        Says::NoAddress => (0, Vec::new()),
        Says::ServerFailure => (2, Vec::new()),
        Says::OnlyV4(..) if !is_v4 => (2, Vec::new()),
        Says::SilentAboutV6(..) if !is_v4 => return None,
        Says::Addresses(all, ttl) | Says::OnlyV4(all, ttl) | Says::SilentAboutV6(all, ttl) => {
            (0, records(&QUESTION, &all, ttl, is_v4))
        }
        Says::Alias(all, ttl) => {
            let alias = [&QUESTION[..], &5_u16.to_be_bytes(), &[0, 1], &ttl.to_be_bytes(), &[0, 7], ALIAS];
            (0, [vec![alias.concat()], records(ALIAS, &all, 300, is_v4)].concat())
        }
    };
    let whole = message(question, end, code, &records);
    if whole.len() <= bytes_max {
        return Some(whole);
    }
    let mut truncated = message(question, end, code, &[]);
    truncated[2] |= 2;
    Some(truncated)
}

/// A pointer to the name in the question.
const QUESTION: [u8; 2] = [0xc0, 12];
const ALIAS: &[u8] = b"\x05alias\0";

fn records(name: &[u8], all: &[IpAddr], ttl: u32, is_v4: bool) -> Vec<Vec<u8>> {
    let of_family = all.iter().filter(|address| address.is_ipv4() == is_v4);
    let record = |address: &IpAddr| {
        let (kind, bytes): (u16, Vec<u8>) = match address {
            IpAddr::V4(address) => (1, address.octets().to_vec()),
            IpAddr::V6(address) => (28, address.octets().to_vec()),
        };
        let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
        [name, &kind.to_be_bytes(), &[0, 1], &ttl.to_be_bytes(), &length, &bytes].concat()
    };
    of_family.map(record).collect()
}

fn message(question: &[u8], end: usize, code: u8, records: &[Vec<u8>]) -> Vec<u8> {
    let count = u16::try_from(records.len()).unwrap().to_be_bytes();
    let header = [&question[..2], &[0x81, 0x80 | code, 0, 1], &count, &[0; 4]].concat();
    [header, question[12..end].to_vec(), records.concat()].concat()
}
