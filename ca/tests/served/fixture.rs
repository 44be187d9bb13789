//! A real `postern-ca` in a directory of its own, and a client that speaks to it as a sidecar does.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use postern_proto::identity::{PrivateKey, SpiffeId, Svid, TrustBundles, TrustDomain};
use postern_proto::mtls::{AuthorizeId, PeerVerifier, TlsIdentity, client_config, server_name};
use postern_proto::wire::v1::certificate_authority_client::CertificateAuthorityClient;
use postern_proto::wire::v1::{IssueRequest, IssueResponse, RenewRequest, issue_request::Attestation};
use rcgen::KeyPair;
use rustls_pki_types::CertificateDer;
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

pub(crate) const TRUST_DOMAIN: &str = "shop.example";

/// The program, not yet started.
pub(crate) fn postern_ca() -> Command {
    Command::new(env!("CARGO_BIN_EXE_postern-ca"))
}

/// A CA's directory with its configuration.
pub(crate) struct Home {
    dir: TempDir,
}

/// A running CA; killed when dropped.
pub(crate) struct Ca {
    pub(crate) address: SocketAddr,
    pub(crate) data_dir: PathBuf,
    child: Child,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A command that would serve, with further lines in `ca.toml`.
    pub(crate) fn serve(&self, extra: &str) -> Command {
        let config = self.path().join("ca.toml");
        let text =
            format!("trust_domain = \"{TRUST_DOMAIN}\"\ndata_dir = \"data\"\nlisten = \"127.0.0.1:0\"\n");
        std::fs::write(&config, text + extra).unwrap();
        let mut serve = postern_ca();
        serve.args(["serve", "--config"]).arg(config).stdin(Stdio::null());
        serve
    }

    /// Starts the CA and waits until it says where it listens.
    pub(crate) fn start(&self, extra: &str) -> Ca {
        let log = std::fs::File::create(self.path().join("log")).unwrap();
        let mut child = self.serve(extra).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines.map_while(Result::ok).find_map(|line| {
            let address = line.strip_prefix("listening on ")?;
            Some(address.parse().unwrap())
        });
        let address = address.unwrap_or_else(|| panic!("the CA does not start: {}", self.log()));
        Ca { address, data_dir: self.path().join("data"), child }
    }

    /// Waits until the CA's log has `text`: a thread of its own writes it.
    pub(crate) async fn logged(&self, text: &str) {
        self.logged_times(text, 1).await;
    }

    /// Waits until it has it so many times.
    pub(crate) async fn logged_times(&self, text: &str, times: usize) {
        let there = async {
            while self.log().matches(text).count() < times {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(8), there).await;
        assert!(waited.is_ok(), "{text:?} is missing in {}", self.log());
    }

    /// What the CA wrote to standard error so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path().join("log")).unwrap()
    }
}

impl Ca {
    /// An admin command against this CA.
    pub(crate) fn ask(&self, args: &[&str]) -> Output {
        postern_ca().args(args).arg("--data-dir").arg(&self.data_dir).output().unwrap()
    }

    /// What an admin command printed; it must succeed.
    pub(crate) fn told(&self, args: &[&str]) -> String {
        let output = self.ask(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn token(&self, id: &str, uses: usize) -> String {
        self.told(&["token", "create", "--id", id, "--uses", &uses.to_string()]).trim().to_owned()
    }

    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// What the CA has used of the processors so far (proc(5): utime and stime, in hundredths of a second).
    pub(crate) fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let after_name = stat.rsplit_once(')').unwrap().1;
        let ticks = after_name.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap());
        Duration::from_millis(ticks.sum::<u64>() * 10)
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// What workloads need to know of this CA.
    pub(crate) fn client(&self) -> Client {
        let domain = TrustDomain::new(TRUST_DOMAIN).unwrap();
        let pem = self.told(&["bundle", "show"]);
        let bundles = Arc::new(TrustBundles::from_pem(&domain, pem.as_bytes()).unwrap());
        Client { address: self.address, bundles }
    }
}

impl Drop for Ca {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// A workload's side of the gRPC API.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) address: SocketAddr,
    pub(crate) bundles: Arc<TrustBundles>,
}

impl Client {
    /// A TLS connection that shows `identity`, or nothing.
    pub(crate) async fn tls(&self, identity: Option<&Svid>) -> std::io::Result<TlsStream<TcpStream>> {
        let identity = identity.map(|svid| TlsIdentity::new(svid).unwrap());
        let ca = SpiffeId::of_ca(&TrustDomain::new(TRUST_DOMAIN).unwrap());
        let judge = Arc::new(PeerVerifier::new(self.bundles.clone(), Arc::new(AuthorizeId(ca))));
        let config = client_config(identity.as_ref(), judge, &[b"h2"]).unwrap();
        let tcp = TcpStream::connect(self.address).await?;
        tcp.set_nodelay(true)?;
        TlsConnector::from(config).connect(server_name(), tcp).await
    }

    /// A gRPC connection of its own.
    pub(crate) async fn connect(
        &self,
        identity: Option<&Svid>,
    ) -> Result<CertificateAuthorityClient<Channel>, tonic::transport::Error> {
        let (client, identity) = (self.clone(), identity.cloned());
        let connector = tower::service_fn(move |_: http::Uri| {
            let (client, identity) = (client.clone(), identity.clone());
            async move { client.tls(identity.as_ref()).await.map(hyper_util::rt::TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://ca.postern.invalid");
        Ok(CertificateAuthorityClient::new(endpoint.connect_with_connector(connector).await?))
    }

    /// A connection with a request under way whose body never comes.
    pub(crate) async fn stall(&self) -> TlsStream<TcpStream> {
        let mut stream = self.tls(None).await.unwrap();
        // Preface and settings (RFC 9113 §3.4, §6.5).
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        stream.write_all(&headers_of_a_request_without_end()).await.unwrap();
        // And a ping: its answer shows that what came before was read.
        stream.write_all(b"\0\0\x08\x06\0\0\0\0\0are read").await.unwrap();
        stream.flush().await.unwrap();
        let mut heard = Vec::new();
        while !heard.windows(8).any(|bytes| bytes == b"are read") {
            assert_ne!(stream.read_buf(&mut heard).await.unwrap(), 0);
        }
        stream
    }

    pub(crate) async fn redeem(&self, token: &str) -> Result<Svid, Status> {
        let key = KeyPair::generate().unwrap();
        let mut connection = self.connect(None).await.unwrap();
        let answer = connection.issue(issue_request(token, csr(&key))).await?;
        Ok(self.svid(answer.into_inner(), &key))
    }

    pub(crate) async fn renew(&self, current: &Svid) -> Result<Svid, Status> {
        let key = KeyPair::generate().unwrap();
        let mut connection = self.connect(Some(current)).await.unwrap();
        let answer = connection.renew(RenewRequest { csr: csr(&key) }).await?;
        Ok(self.svid(answer.into_inner(), &key))
    }

    pub(crate) fn svid(&self, answer: IssueResponse, key: &KeyPair) -> Svid {
        let chain = answer.chain.into_iter().map(CertificateDer::from).collect();
        let key = PrivateKey::from_pkcs8(key.serialize_der());
        Svid::new(chain, key, &self.bundles, OffsetDateTime::now_utc()).unwrap()
    }
}

pub(crate) fn csr(key: &KeyPair) -> Vec<u8> {
    rcgen::CertificateParams::default().serialize_request(key).unwrap().der().to_vec()
}

pub(crate) fn issue_request(token: &str, csr: Vec<u8>) -> IssueRequest {
    IssueRequest { csr, attestation: Some(Attestation::JoinToken(token.to_owned())) }
}

/// A HEADERS frame of stream 1 with END_HEADERS and without END_STREAM, its block in literals (RFC 7541 §6.2.2).
fn headers_of_a_request_without_end() -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    for (name, value) in [
        (&b":path"[..], &b"/postern.v1.CertificateAuthority/Issue"[..]),
        (b":authority", b"ca"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    ] {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text);
        }
    }
    let mut frame = vec![0, 0, u8::try_from(block.len()).unwrap(), 1, 4, 0, 0, 0, 1];
    frame.extend(block);
    frame
}
