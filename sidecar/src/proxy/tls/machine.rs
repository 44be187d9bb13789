//! rustls's unbuffered connection, for the handshake alone: bytes in, bytes out.

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, InsufficientSizeError, UnbufferedConnectionCommon,
    UnbufferedStatus,
};
use rustls::{CommonState, Error as TlsError, Side};

use super::records::next_record;
use super::scratch::Outgoing;

/// The state of one handshake. It does not process the records after the one that completes the handshake, so that
/// the records of both directions are numbered from 0 afterwards.
pub(super) struct HandshakeMachine {
    end: RustlsConnection,
    /// Bytes of an incomplete message that were passed to rustls and must be passed again.
    resubmit_bytes: usize,
}

/// The client or server connection.
enum RustlsConnection {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// The result of processing received bytes.
#[derive(Debug)]
pub(super) struct FeedResult {
    /// Bytes consumed.
    pub(super) used: usize,
    /// The peer has sent close_notify.
    pub(super) ended: bool,
    pub(super) result: Result<(), TlsError>,
}

impl HandshakeMachine {
    pub(super) fn client(client: UnbufferedClientConnection) -> Self {
        Self { end: RustlsConnection::Client(client), resubmit_bytes: 0 }
    }

    pub(super) fn server(server: UnbufferedServerConnection) -> Self {
        Self { end: RustlsConnection::Server(server), resubmit_bytes: 0 }
    }

    pub(super) fn side(&self) -> Side {
        match self.end {
            RustlsConnection::Client(_) => Side::Client,
            RustlsConnection::Server(_) => Side::Server,
        }
    }

    pub(super) fn session(&self) -> &CommonState {
        match &self.end {
            RustlsConnection::Client(client) => client,
            RustlsConnection::Server(server) => server,
        }
    }

    /// Processes received records one by one until the handshake is complete, and appends responses to `answers`.
    /// Must not be called after an error.
    pub(super) fn feed(&mut self, incoming: &mut [u8], answers: &mut Outgoing) -> FeedResult {
        let mut turn = RecordPass { used: 0, ended: false, out: answers };
        loop {
            let end = turn.used + self.resubmit_bytes;
            let resubmit_bytes = incoming.get_mut(turn.used..end).unwrap_or_default();
            let result = match &mut self.end {
                RustlsConnection::Client(client) => turn.run(client, client_records, resubmit_bytes),
                RustlsConnection::Server(server) => turn.run(server, server_records, resubmit_bytes),
            };
            self.resubmit_bytes = end.saturating_sub(turn.used);
            let goes_on = result.is_ok() && !turn.ended && self.session().is_handshaking();
            match next_record(incoming.get(end..).unwrap_or_default()).filter(|_| goes_on) {
                Some(bytes) => self.resubmit_bytes += bytes,
                None => return FeedResult { used: turn.used, ended: turn.ended, result },
            }
        }
    }
}

/// rustls has this function for each side.
type Records<D> =
    for<'c, 'i> fn(&'c mut UnbufferedConnectionCommon<D>, &'i mut [u8]) -> UnbufferedStatus<'c, 'i, D>;

fn client_records<'c, 'i>(
    client: &'c mut UnbufferedConnectionCommon<ClientConnectionData>,
    incoming: &'i mut [u8],
) -> UnbufferedStatus<'c, 'i, ClientConnectionData> {
    client.process_tls_records(incoming)
}

fn server_records<'c, 'i>(
    server: &'c mut UnbufferedConnectionCommon<ServerConnectionData>,
    incoming: &'i mut [u8],
) -> UnbufferedStatus<'c, 'i, ServerConnectionData> {
    server.process_tls_records(incoming)
}

/// One pass of received records through rustls.
struct RecordPass<'a> {
    used: usize,
    ended: bool,
    out: &'a mut Outgoing,
}

impl RecordPass<'_> {
    /// Passes `incoming` to rustls until it makes no further progress.
    fn run<D>(
        &mut self,
        connection: &mut UnbufferedConnectionCommon<D>,
        records: Records<D>,
        incoming: &mut [u8],
    ) -> Result<(), TlsError> {
        let begin = self.used;
        loop {
            let rest = incoming.get_mut(self.used - begin..).unwrap_or_default();
            match self.step(connection, records, rest) {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(error) => {
                    // rustls has queued the alert for this error after its earlier messages, such as a ServerHello;
                    // no more is read.
                    while connection.wants_write()
                        && matches!(self.step(connection, records, &mut []), Ok(true))
                    {}
                    return Err(error);
                }
            }
        }
    }

    /// Handles one rustls state. Returns whether rustls may make further progress.
    fn step<D>(
        &mut self,
        connection: &mut UnbufferedConnectionCommon<D>,
        records: Records<D>,
        incoming: &mut [u8],
    ) -> Result<bool, TlsError> {
        let UnbufferedStatus { discard, state } = records(connection, incoming);
        self.used += discard;
        match state? {
            ConnectionState::EncodeTlsData(data) => {
                encode(data, self.out);
                Ok(true)
            }
            ConnectionState::TransmitTlsData(data) => {
                data.done();
                Ok(true)
            }
            ConnectionState::PeerClosed => {
                self.ended = true;
                Ok(false)
            }
            ConnectionState::Closed
            | ConnectionState::BlockedHandshake
            | ConnectionState::WriteTraffic(_) => Ok(false),
            // Early data is never offered nor accepted, and data after the handshake is not passed to rustls.
            _ => Err(TlsError::General("an unexpected state of TLS".to_owned())),
        }
    }
}

fn encode<D>(mut data: EncodeTlsData<'_, D>, out: &mut Outgoing) {
    if let Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) = data.encode(&mut [])
        // `required_size` is the size that rustls asked for.
        && let Ok(written) = data.encode(out.room(required_size))
    {
        out.advance(written);
    }
}
