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

/// One handshake's state. It sees no record behind the one that completes the handshake, so that the records of both
/// directions are numbered from 0 when it is done.
pub(super) struct Machine {
    end: End,
    /// Of what comes, so much has been shown to rustls and is to be shown again: a message that is not whole.
    shown: usize,
}

/// Either end of TLS.
enum End {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// What became of bytes that came.
#[derive(Debug)]
pub(super) struct Fed {
    /// So many were used up.
    pub(super) used: usize,
    /// The peer has said close_notify.
    pub(super) ended: bool,
    pub(super) result: Result<(), TlsError>,
}

impl Machine {
    pub(super) fn client(client: UnbufferedClientConnection) -> Self {
        Self { end: End::Client(client), shown: 0 }
    }

    pub(super) fn server(server: UnbufferedServerConnection) -> Self {
        Self { end: End::Server(server), shown: 0 }
    }

    pub(super) fn side(&self) -> Side {
        match self.end {
            End::Client(_) => Side::Client,
            End::Server(_) => Side::Server,
        }
    }

    pub(super) fn session(&self) -> &CommonState {
        match &self.end {
            End::Client(client) => client,
            End::Server(server) => server,
        }
    }

    /// Takes what came, one record after the other until the handshake is complete, and appends to `answers` what is
    /// to be sent. After an error it must not be asked again.
    pub(super) fn feed(&mut self, incoming: &mut [u8], answers: &mut Outgoing) -> Fed {
        let mut turn = Turn { used: 0, ended: false, out: answers };
        loop {
            let end = turn.used + self.shown;
            let shown = incoming.get_mut(turn.used..end).unwrap_or_default();
            let result = match &mut self.end {
                End::Client(client) => turn.run(client, client_records, shown),
                End::Server(server) => turn.run(server, server_records, shown),
            };
            self.shown = end.saturating_sub(turn.used);
            let goes_on = result.is_ok() && !turn.ended && self.session().is_handshaking();
            match next_record(incoming.get(end..).unwrap_or_default()).filter(|_| goes_on) {
                Some(bytes) => self.shown += bytes,
                None => return Fed { used: turn.used, ended: turn.ended, result },
            }
        }
    }
}

/// rustls has this function once for each end.
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

/// One exchange with rustls.
struct Turn<'a> {
    used: usize,
    ended: bool,
    out: &'a mut Outgoing,
}

impl Turn<'_> {
    /// Shows `incoming` until rustls goes no further by itself.
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
                    // rustls has the alert ready that names the error, behind what it had to say before, as a
                    // ServerHello; it is not asked for more.
                    while connection.wants_write()
                        && matches!(self.step(connection, records, &mut []), Ok(true))
                    {}
                    return Err(error);
                }
            }
        }
    }

    /// Does what rustls wants done; says whether it may want more.
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
            // Early data is never offered nor taken, and data behind the handshake is not shown.
            _ => Err(TlsError::General("an unexpected state of TLS".to_owned())),
        }
    }
}

fn encode<D>(mut data: EncodeTlsData<'_, D>, out: &mut Outgoing) {
    if let Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) = data.encode(&mut [])
        // It said itself how much it needs.
        && let Ok(written) = data.encode(out.room(required_size))
    {
        out.advance(written);
    }
}
