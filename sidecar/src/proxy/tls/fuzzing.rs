//! The record protocol, exported for the fuzz targets of `integration/fuzz` only.

use postern_proto::crypto::provider;
use postern_proto::mtls::TrafficSecret;
use rustls::Side;

use super::records::Records;
use super::scratch::Outgoing;

/// Both sides of a connection. The client sends records as instructed, correctly sealed or not; the server reads
/// them.
#[derive(Debug)]
pub struct Ends {
    client: Records,
    server: Records,
}

impl Ends {
    /// After a handshake with publicly known secrets.
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

    /// Sends a record of any type and content to the server.
    pub fn say(&mut self, kind: u8, plain: &[u8]) {
        let mut sealed = Outgoing::default();
        if self.client.push(kind, plain, &mut sealed).is_ok() {
            self.send_raw(&sealed.filled().to_vec());
        }
    }

    /// Sends raw bytes to the server; the server's responses reach the client.
    pub fn send_raw(&mut self, bytes: &[u8]) {
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
