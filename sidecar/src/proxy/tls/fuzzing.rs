//! What the fuzz target of `integration/fuzz` sees of the record protocol, which nothing else outside needs.

use postern_proto::crypto::provider;
use postern_proto::mtls::TrafficSecret;
use rustls::Side;

use super::records::Records;
use super::scratch::Outgoing;

/// Both ends of a connection. The client says what it is told to, well sealed or not; the server reads it.
#[derive(Debug)]
pub struct Ends {
    client: Records,
    server: Records,
}

impl Ends {
    /// Right after the handshake, with secrets that everybody knows.
    #[expect(clippy::new_without_default, clippy::expect_used, reason = "a fuzz target ends by a panic")]
    pub fn new() -> Self {
        let suites = provider().cipher_suites.clone();
        let suite = *suites.first().expect("a provider has a suite");
        let secret = |byte| {
            let lengths = [32, 48].into_iter();
            lengths
                .filter_map(|length| TrafficSecret::new(suite, &vec![byte; length]))
                .next()
                .expect("a secret")
        };
        let end = |side| Records::new(side, secret(1), secret(2)).expect("keys");
        Self { client: end(Side::Client), server: end(Side::Server) }
    }

    /// A record of any kind and content reaches the server.
    pub fn say(&mut self, kind: u8, plain: &[u8]) {
        let mut sealed = Outgoing::default();
        if self.client.push(kind, plain, &mut sealed).is_ok() {
            self.say_unsealed(&sealed.filled().to_vec());
        }
    }

    /// Bytes reach the server as they are; its answers reach the client.
    pub fn say_unsealed(&mut self, bytes: &[u8]) {
        let (mut answers, mut taken) = (Outgoing::default(), 0);
        let mut incoming = bytes.to_vec();
        let opened =
            self.server.open(&mut incoming, usize::MAX, &mut answers, &mut |plain| taken += plain.len());
        assert!(opened.used <= bytes.len() && opened.taken == taken && taken <= bytes.len());
        let mut back = answers.filled().to_vec();
        let answered = self.client.open(&mut back, usize::MAX, &mut Outgoing::default(), &mut |_| {});
        assert!(answered.used <= back.len());
    }
}
