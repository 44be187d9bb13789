//! TLS 1.3 after the handshake (RFC 8446 §4.6, §5 and §6), without I/O. It keeps two keys and little else, where
//! rustls would keep the handshake's state: a third of the memory of an idle connection.

use std::io;

use postern_proto::crypto::RECORD_TAG_BYTES;
use postern_proto::mtls::{RECORD_HEADER_BYTES, RecordKey, RecordKeyError, TrafficSecret};
use rustls::{
    AlertDescription, ContentType, Error as TlsError, HandshakeType, InvalidMessage, PeerMisbehaved, Side,
};
use thiserror::Error;

use super::scratch::Outgoing;

/// RFC 8446 §5.1: a record's plaintext.
pub const PLAIN_BYTES_MAX: usize = 1 << 14;
/// RFC 8446 §5.2: a record's ciphertext.
const SEALED_BYTES_MAX: usize = PLAIN_BYTES_MAX + 256;
/// Most bytes of a post-handshake message: a session ticket, which is not used.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// RFC 8446 §4.6.1: a ticket's lifetime, age, nonce of no bytes, one byte of a ticket, and no extensions.
const TICKET_BYTES_MIN: usize = 4 + 4 + 1 + 2 + 1 + 2;
/// Consecutive KeyUpdates without data: each costs two key derivations.
const UPDATES_MAX: u8 = 32;
/// Consecutive tickets without data: tickets are not used.
const TICKETS_MAX: u8 = 32;
/// Consecutive alerts without effect (RFC 8446 §6.1, `user_canceled`).
const WARNINGS_MAX: u8 = 4;

const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
const HEARTBEAT: u8 = 24;
/// RFC 8446 §5.1: `legacy_record_version`.
const VERSION: [u8; 2] = [3, 3];

const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;
/// RFC 8446 §4.6.3: a complete KeyUpdate that requests none in return.
const UPDATE_NOT_REQUESTED: [u8; 5] = [KEY_UPDATE, 0, 0, 1, 0];

const WARNING: u8 = 1;
const FATAL: u8 = 2;

/// The length of the first record, if it is complete. Invalid bytes count as a complete record, so that they are
/// refused.
pub(super) fn next_record(bytes: &[u8]) -> Option<usize> {
    let [kind, _, _, high, low] = *bytes.first_chunk::<RECORD_HEADER_BYTES>()?;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if !matches!(kind, CHANGE_CIPHER_SPEC..=HEARTBEAT) || length > SEALED_BYTES_MAX {
        return Some(bytes.len());
    }
    let record = RECORD_HEADER_BYTES + length;
    (bytes.len() >= record).then_some(record)
}

/// Both directions of a connection after its handshake.
#[derive(Debug)]
pub(super) struct Records {
    reads: RecordKey,
    writes: RecordKey,
    side: Side,
    /// An incomplete handshake message.
    begun: Vec<u8>,
    /// The peer has requested a KeyUpdate, which is sent before the next data.
    owes_update: bool,
    quota: UselessRecordQuota,
    has_said_close: bool,
    /// The error after which nothing can be read or written.
    broken: Option<Box<TlsError>>,
}

/// Quotas of records that cost time and carry no data; exceeding one ends the connection.
#[derive(Debug)]
struct UselessRecordQuota {
    updates: u8,
    tickets: u8,
    warnings: u8,
}

impl Default for UselessRecordQuota {
    fn default() -> Self {
        Self { updates: UPDATES_MAX, tickets: TICKETS_MAX, warnings: WARNINGS_MAX }
    }
}

/// The result of processing received bytes.
#[derive(Debug)]
pub(super) struct Opened {
    /// Bytes consumed.
    pub(super) used: usize,
    /// Bytes decrypted.
    pub(super) taken: usize,
    /// The peer has sent close_notify.
    pub(super) ended: bool,
    pub(super) result: Result<(), TlsError>,
}

/// Why bytes cannot be sealed.
#[derive(Debug, Error)]
pub(super) enum SealError {
    #[error("the TLS connection does not take data now")]
    NotOpen,
    #[error(transparent)]
    Broken(#[from] TlsError),
    #[error(transparent)]
    Key(#[from] RecordKeyError),
}

impl From<SealError> for io::Error {
    fn from(error: SealError) -> Self {
        match error {
            SealError::Broken(error) => Self::new(io::ErrorKind::InvalidData, error),
            other => Self::other(other),
        }
    }
}

/// The content of a received record.
enum RecordContent {
    Data(usize),
    CloseNotify,
    Other,
}

/// A post-handshake message.
enum Message {
    /// Whether one is requested in return.
    KeyUpdate(u8),
    Ticket,
}

/// A protocol violation by the peer, and the alert for it.
struct PeerViolation {
    error: TlsError,
    alert: Option<AlertDescription>,
}

impl PeerViolation {
    fn new(error: impl Into<TlsError>, alert: AlertDescription) -> Self {
        Self { error: error.into(), alert: Some(alert) }
    }

    fn unexpected(error: impl Into<TlsError>) -> Self {
        Self::new(error, AlertDescription::UnexpectedMessage)
    }

    fn invalid(error: InvalidMessage) -> Self {
        Self::new(error, AlertDescription::DecodeError)
    }

    fn inappropriate(kind: u8) -> Self {
        let expect_types = vec![ContentType::ApplicationData, ContentType::Handshake, ContentType::Alert];
        Self::unexpected(TlsError::InappropriateMessage { expect_types, got_type: ContentType::from(kind) })
    }
}

impl Records {
    /// For a connection whose handshake is complete, and neither direction has sent a record since.
    pub(super) fn new(
        side: Side,
        client: TrafficSecret,
        server: TrafficSecret,
    ) -> Result<Self, RecordKeyError> {
        Ok(Self::with_keys(side, RecordKey::new(client, 0)?, RecordKey::new(server, 0)?))
    }

    fn with_keys(side: Side, client: RecordKey, server: RecordKey) -> Self {
        let (reads, writes) = match side {
            Side::Client => (server, client),
            Side::Server => (client, server),
        };
        Self {
            reads,
            writes,
            side,
            begun: Vec::new(),
            owes_update: false,
            quota: UselessRecordQuota::default(),
            has_said_close: false,
            broken: None,
        }
    }

    /// Processes the complete received records: passes decrypted bytes to `take` until about `room` bytes are taken.
    /// On a violation appends an alert to `answers`.
    pub(super) fn open(
        &mut self,
        incoming: &mut [u8],
        room: usize,
        answers: &mut Outgoing,
        take: &mut dyn FnMut(&[u8]),
    ) -> Opened {
        let mut opened = Opened { used: 0, taken: 0, ended: false, result: Ok(()) };
        if let Some(error) = &self.broken {
            opened.result = Err((**error).clone());
            return opened;
        }
        while opened.taken < room && !opened.ended {
            let rest = incoming.get_mut(opened.used..).unwrap_or_default();
            let Some(record) = next_record(rest).and_then(|bytes| rest.get_mut(..bytes)) else { break };
            opened.used += record.len();
            match self.record(record, take) {
                Ok(RecordContent::Data(bytes)) => opened.taken += bytes,
                Ok(RecordContent::CloseNotify) => opened.ended = true,
                Ok(RecordContent::Other) => {}
                Err(fault) => {
                    opened.result = Err(self.fail(fault, answers));
                    break;
                }
            }
        }
        opened
    }

    /// Seals bytes and appends them.
    pub(super) fn seal(&mut self, bytes: &[u8], sealed: &mut Outgoing) -> Result<(), SealError> {
        if let Some(error) = &self.broken {
            return Err(SealError::Broken((**error).clone()));
        }
        if self.has_said_close {
            return Err(SealError::NotOpen);
        }
        for plain in bytes.chunks(PLAIN_BYTES_MAX) {
            self.send(APPLICATION_DATA, plain, sealed)?;
        }
        Ok(())
    }

    /// Appends close_notify, once.
    pub(super) fn close(&mut self, sealed: &mut Outgoing) -> Result<(), SealError> {
        if self.broken.is_some() || std::mem::replace(&mut self.has_said_close, true) {
            return Ok(());
        }
        self.send(ALERT, &[WARNING, AlertDescription::CloseNotify.into()], sealed)
    }

    /// Appends one record, after a KeyUpdate if one is due.
    fn send(&mut self, kind: u8, plain: &[u8], sealed: &mut Outgoing) -> Result<(), SealError> {
        if self.owes_update || self.writes.is_worn_out_next() {
            self.push(HANDSHAKE, &UPDATE_NOT_REQUESTED, sealed)?;
            self.writes.update()?;
            self.owes_update = false;
        }
        self.push(kind, plain, sealed)
    }

    /// Appends one record.
    pub(super) fn push(&mut self, kind: u8, plain: &[u8], sealed: &mut Outgoing) -> Result<(), SealError> {
        let before = sealed.len();
        let [.., high, low] = (plain.len() + 1 + RECORD_TAG_BYTES).to_be_bytes();
        let header = [APPLICATION_DATA, VERSION[0], VERSION[1], high, low];
        sealed.push(&header);
        let text = sealed.len();
        sealed.push(plain);
        sealed.push(&[kind]);
        match self.writes.seal(&header, sealed.since(text)) {
            Ok(tag) => sealed.push(&tag),
            Err(error) => {
                // Bytes that could not be sealed are not sent.
                sealed.back_to(before);
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Ends the connection with an alert.
    fn fail(&mut self, fault: PeerViolation, answers: &mut Outgoing) -> TlsError {
        let told = fault.alert.map(|alert| self.send(ALERT, &[FATAL, alert.into()], answers));
        if let Some(Err(error)) = told {
            tracing::debug!(%error, "an alert could not be sealed");
        }
        self.broken = Some(Box::new(fault.error.clone()));
        fault.error
    }

    /// Decrypts one received record in place.
    fn record(
        &mut self,
        record: &mut [u8],
        take: &mut dyn FnMut(&[u8]),
    ) -> Result<RecordContent, PeerViolation> {
        let Some((header, sealed)) = record.split_first_chunk_mut::<RECORD_HEADER_BYTES>() else {
            return Ok(RecordContent::Other);
        };
        let [outer, ..] = *header;
        if outer != APPLICATION_DATA {
            return Err(PeerViolation::inappropriate(outer));
        }
        if sealed.len() > SEALED_BYTES_MAX {
            return Err(PeerViolation::new(
                TlsError::PeerSentOversizedRecord,
                AlertDescription::RecordOverflow,
            ));
        }
        let opened = self.reads.open(header, sealed);
        let opened =
            opened.map_err(|_| PeerViolation::new(TlsError::DecryptError, AlertDescription::BadRecordMac))?;
        // RFC 8446 §5.4: zeros after the content type are padding.
        let end = opened.iter().rposition(|byte| *byte != 0);
        let inner = end.and_then(|end| opened.get(..=end)).and_then(<[u8]>::split_last);
        let Some((kind, plain)) = inner else {
            return Err(PeerViolation::unexpected(InvalidMessage::InvalidContentType));
        };
        if plain.len() > PLAIN_BYTES_MAX {
            return Err(PeerViolation::new(
                TlsError::PeerSentOversizedRecord,
                AlertDescription::RecordOverflow,
            ));
        }
        if *kind != HANDSHAKE && !self.begun.is_empty() {
            return Err(PeerViolation::unexpected(PeerMisbehaved::MessageInterleavedWithHandshakeMessage));
        }
        match *kind {
            APPLICATION_DATA => {
                if !plain.is_empty() {
                    self.quota = UselessRecordQuota::default();
                }
                take(plain);
                Ok(RecordContent::Data(plain.len()))
            }
            ALERT => self.alerted(plain),
            HANDSHAKE => self.messages(plain).map(|()| RecordContent::Other),
            other => Err(PeerViolation::inappropriate(other)),
        }
    }

    /// RFC 8446 §6: an alert is alone in its record.
    fn alerted(&mut self, plain: &[u8]) -> Result<RecordContent, PeerViolation> {
        let [level, description] = *plain else {
            return Err(PeerViolation::invalid(InvalidMessage::MissingData("AlertMessagePayload")));
        };
        match AlertDescription::from(description) {
            AlertDescription::CloseNotify => Ok(RecordContent::CloseNotify),
            AlertDescription::UserCanceled if level == WARNING => {
                let left = self.quota.warnings.checked_sub(1);
                self.quota.warnings = left
                    .ok_or_else(|| PeerViolation::unexpected(PeerMisbehaved::TooManyWarningAlertsReceived))?;
                Ok(RecordContent::Other)
            }
            alert => Err(PeerViolation { error: TlsError::AlertReceived(alert), alert: None }),
        }
    }

    /// Handles handshake messages: a record contains fragments, one or several.
    fn messages(&mut self, plain: &[u8]) -> Result<(), PeerViolation> {
        if plain.is_empty() {
            return Err(PeerViolation::invalid(InvalidMessage::InvalidEmptyPayload));
        }
        let mut begun = std::mem::take(&mut self.begun);
        begun.extend_from_slice(plain);
        let mut rest = &*begun;
        while let Some((message, behind)) = self.next_message(rest)? {
            match message {
                Message::KeyUpdate(body) => {
                    self.key_update(body, behind.is_empty())?;
                }
                // Sessions are not resumed, so tickets are ignored.
                Message::Ticket => {
                    let left = self.quota.tickets.checked_sub(1);
                    let too_many = || TlsError::General("too many session tickets without data".to_owned());
                    self.quota.tickets = left.ok_or_else(|| PeerViolation::unexpected(too_many()))?;
                }
            }
            rest = behind;
        }
        let used = begun.len() - rest.len();
        begun.drain(..used);
        // An empty buffer releases its memory.
        self.begun = if begun.is_empty() { Vec::new() } else { begun };
        Ok(())
    }

    /// The first message, if it is complete. Type and length are checked before waiting for the rest.
    fn next_message<'m>(&self, bytes: &'m [u8]) -> Result<Option<(Message, &'m [u8])>, PeerViolation> {
        let Some(&kind) = bytes.first() else { return Ok(None) };
        if kind != KEY_UPDATE && (kind, self.side) != (NEW_SESSION_TICKET, Side::Client) {
            return Err(PeerViolation::unexpected(TlsError::InappropriateHandshakeMessage {
                expect_types: vec![HandshakeType::KeyUpdate],
                got_type: HandshakeType::from(kind),
            }));
        }
        let Some((&[_, a, b, c], rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        match kind {
            KEY_UPDATE if length != 1 => {
                return Err(PeerViolation::invalid(InvalidMessage::InvalidKeyUpdate));
            }
            _ if length > MESSAGE_BYTES_MAX => {
                return Err(PeerViolation::invalid(InvalidMessage::HandshakePayloadTooLarge));
            }
            NEW_SESSION_TICKET if length < TICKET_BYTES_MIN => {
                return Err(PeerViolation::invalid(InvalidMessage::MissingData("NewSessionTicket")));
            }
            _ => {}
        }
        let Some((body, behind)) = rest.split_at_checked(length) else { return Ok(None) };
        Ok(Some(match (kind, body) {
            (KEY_UPDATE, &[request]) => (Message::KeyUpdate(request), behind),
            _ => (Message::Ticket, behind),
        }))
    }

    /// RFC 8446 §4.6.3, §5.1: KeyUpdate must be the last message of its record, because what follows uses the new
    /// key.
    fn key_update(&mut self, request: u8, is_last: bool) -> Result<(), PeerViolation> {
        if !is_last {
            return Err(PeerViolation::unexpected(PeerMisbehaved::KeyEpochWithPendingFragment));
        }
        self.owes_update |= match request {
            0 => false,
            1 => true,
            _ => {
                return Err(PeerViolation::new(
                    InvalidMessage::InvalidKeyUpdate,
                    AlertDescription::IllegalParameter,
                ));
            }
        };
        let left = self.quota.updates.checked_sub(1);
        self.quota.updates =
            left.ok_or_else(|| PeerViolation::unexpected(PeerMisbehaved::TooManyKeyUpdateRequests))?;
        let failed = |error: RecordKeyError| {
            PeerViolation::new(TlsError::General(error.to_string()), AlertDescription::InternalError)
        };
        self.reads.update().map_err(failed)
    }
}

#[cfg(test)]
mod tests;
