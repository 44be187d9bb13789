//! A TLS 1.3 client whose handshake is honest and whose records are written by hand afterwards (RFC 8446 §5.2, §7).

use std::sync::{Arc, Mutex};

use postern_proto::mtls::server_name;
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Prk};
use rustls::{CipherSuite, ClientConnection, KeyLog};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::door::{Door, PATIENCE};
use crate::hello::{ALERT, HANDSHAKE, config};

const APPLICATION_DATA: u8 = 23;
const KEY_UPDATE: u8 = 24;
const CLIENT_SECRET: &str = "CLIENT_TRAFFIC_SECRET_0";
const SECRET_BYTES: usize = 32;
const KEY_BYTES: usize = 16;

/// Whether the other side shall take new keys, too (RFC 8446 §4.6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Answer {
    NotRequested = 0,
    Requested = 1,
}

/// The client's side of a connection, whose answers nobody needs to read.
#[derive(Debug)]
pub struct Raw {
    pub stream: TcpStream,
    pub seal: Seal,
}

/// Makes the client's records.
#[derive(Debug)]
pub struct Seal {
    secret: [u8; SECRET_BYTES],
    sequence: u64,
}

impl Raw {
    /// Shakes hands as the attacker.
    pub async fn connect(door: &Door) -> Self {
        let kept = Arc::new(Kept::default());
        let mut config = config(door, &[]);
        config.key_log = kept.clone();
        let mut tls = ClientConnection::new(Arc::new(config), server_name()).unwrap();
        let mut stream = TcpStream::connect(door.address()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut buffer = [0; 8192];
        loop {
            let mut out = Vec::new();
            while tls.wants_write() {
                tls.write_tls(&mut out).unwrap();
            }
            stream.write_all(&out).await.unwrap();
            if !tls.is_handshaking() {
                break;
            }
            let read = tokio::time::timeout(PATIENCE, stream.read(&mut buffer)).await.unwrap().unwrap();
            assert!(read > 0, "cut");
            tls.read_tls(&mut &buffer[..read]).unwrap();
            tls.process_new_packets().unwrap();
        }
        let suite = tls.negotiated_cipher_suite().unwrap().suite();
        assert_eq!(suite, CipherSuite::TLS13_AES_128_GCM_SHA256, "what is written by hand below");
        let secret = kept.0.lock().unwrap().take().unwrap();
        Self { stream, seal: Seal { secret, sequence: 0 } }
    }

    /// Sends a word, and waits until the app's answer begins to come.
    pub async fn word(&mut self) {
        let data = self.seal.data(b"word");
        self.stream.write_all(&data).await.unwrap();
        self.stream.readable().await.unwrap();
    }

    /// Sends these records, of which the sidecar may take as many as it likes, and waits until it has ended it all.
    pub async fn until_cut(mut self, records: &[u8]) {
        let mut answer = Vec::new();
        let ended = async {
            let (mut read, mut write) = self.stream.split();
            // However it ends.
            let _how = tokio::join!(read.read_to_end(&mut answer), write.write_all(records));
        };
        tokio::time::timeout(PATIENCE, ended).await.expect("the sidecar ends it");
    }
}

impl Seal {
    pub fn data(&mut self, content: &[u8]) -> Vec<u8> {
        self.record(APPLICATION_DATA, content)
    }

    pub fn alert(&mut self, level: u8, description: u8) -> Vec<u8> {
        self.record(ALERT, &[level, description])
    }

    pub fn handshake(&mut self, message: &[u8]) -> Vec<u8> {
        self.record(HANDSHAKE, message)
    }

    /// A KeyUpdate, and the new keys from then on (RFC 8446 §7.2).
    pub fn key_update(&mut self, answer: Answer) -> Vec<u8> {
        let record = self.handshake(&[KEY_UPDATE, 0, 0, 1, answer as u8]);
        self.secret = self.expand("traffic upd");
        self.sequence = 0;
        record
    }

    pub fn record(&mut self, kind: u8, content: &[u8]) -> Vec<u8> {
        let key = UnboundKey::new(&AES_128_GCM, &self.expand::<KEY_BYTES>("key")).unwrap();
        let key = LessSafeKey::new(key);
        let mut nonce = self.expand::<NONCE_LEN>("iv");
        for (byte, number) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= number;
        }
        self.sequence += 1;
        let mut sealed = [content, &[kind]].concat();
        let length = (sealed.len() + AES_128_GCM.tag_len()) as u16;
        let header = [&[APPLICATION_DATA, 3, 3][..], &length.to_be_bytes()].concat();
        let nonce = Nonce::assume_unique_for_key(nonce);
        key.seal_in_place_append_tag(nonce, Aad::from(&header), &mut sealed).unwrap();
        [header, sealed].concat()
    }

    /// HKDF-Expand-Label without a context (RFC 8446 §7.1).
    fn expand<const N: usize>(&self, label: &str) -> [u8; N] {
        let label = format!("tls13 {label}");
        let length = (N as u16).to_be_bytes();
        let info = [&length[..], &[label.len() as u8], label.as_bytes(), &[0]];
        let mut out = [0; N];
        let prk = Prk::new_less_safe(HKDF_SHA256, &self.secret);
        prk.expand(&info, Length(N)).unwrap().fill(&mut out).unwrap();
        out
    }
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// The secret of the client's first records.
#[derive(Debug, Default)]
struct Kept(Mutex<Option<[u8; SECRET_BYTES]>>);

impl KeyLog for Kept {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        if label == CLIENT_SECRET {
            *self.0.lock().unwrap() = Some(secret.try_into().unwrap());
        }
    }
}
