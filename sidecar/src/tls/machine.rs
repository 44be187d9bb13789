//! rustls's unbuffered connection as bytes in, bytes out.

use std::io;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError,
    UnbufferedConnectionCommon, UnbufferedStatus, WriteTraffic,
};
use rustls::{CommonState, Error as TlsError};
use thiserror::Error;

use super::scratch::Outgoing;

/// One connection's state.
pub(super) struct Machine {
    side: Side,
    /// After an error rustls must not be asked again: it would find the same error, and panic over its second alert.
    broken: Option<TlsError>,
}

/// Either side of TLS.
enum Side {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// What became of bytes that came.
#[derive(Debug)]
pub(super) struct Fed<R> {
    /// So many were used up.
    pub(super) used: usize,
    /// So many were decrypted.
    pub(super) taken: usize,
    /// The peer has said close_notify.
    pub(super) ended: bool,
    pub(super) result: R,
}

/// Why nothing can be sealed.
#[derive(Debug, Error)]
pub(super) enum SealError {
    #[error("the TLS connection does not take data now")]
    NotOpen,
    #[error("the TLS connection's keys are used up")]
    Exhausted,
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl From<SealError> for io::Error {
    fn from(error: SealError) -> Self {
        match error {
            SealError::Tls(error) => Self::new(io::ErrorKind::InvalidData, error),
            other => Self::other(other),
        }
    }
}

impl Machine {
    pub(super) fn client(client: UnbufferedClientConnection) -> Self {
        Self { side: Side::Client(client), broken: None }
    }

    pub(super) fn server(server: UnbufferedServerConnection) -> Self {
        Self { side: Side::Server(server), broken: None }
    }

    pub(super) fn session(&self) -> &CommonState {
        match &self.side {
            Side::Client(client) => client,
            Side::Server(server) => server,
        }
    }

    /// Takes what came: hands what is decrypted to `take` until about `room` bytes are taken, and appends to
    /// `answers` what is to be sent.
    pub(super) fn feed(
        &mut self,
        incoming: &mut [u8],
        room: usize,
        answers: &mut Outgoing,
        take: &mut dyn FnMut(&[u8]),
    ) -> Fed<Result<(), TlsError>> {
        let mut turn = Turn { incoming, used: 0, taken: 0, ended: false, out: answers, take };
        let result = match (&self.broken, &mut self.side) {
            (Some(error), _) => Err(error.clone()),
            (None, Side::Client(client)) => turn.feed(client, client_records, room),
            (None, Side::Server(server)) => turn.feed(server, server_records, room),
        };
        self.broken = result.as_ref().err().cloned();
        turn.fed(result)
    }

    /// Appends bytes, sealed, or without bytes close_notify, once, to `sealed`. What had come but was not used up
    /// before has to be shown, for rustls looks at it each time.
    pub(super) fn seal(
        &mut self,
        incoming: &mut [u8],
        bytes: Option<&[u8]>,
        sealed: &mut Outgoing,
        take: &mut dyn FnMut(&[u8]),
    ) -> Fed<Result<(), SealError>> {
        let mut turn = Turn { incoming, used: 0, taken: 0, ended: false, out: sealed, take };
        let result = match (&self.broken, &mut self.side) {
            (Some(error), _) => Err(error.clone().into()),
            (None, Side::Client(client)) => turn.seal(client, client_records, bytes),
            (None, Side::Server(server)) => turn.seal(server, server_records, bytes),
        };
        if let Err(SealError::Tls(error)) = &result {
            self.broken = Some(error.clone());
        }
        turn.fed(result)
    }
}

/// rustls has this function once for each side.
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

/// Where rustls goes no further by itself.
enum Stop<'c, D> {
    /// Both have said close_notify.
    Closed,
    Blocked,
    Writable(WriteTraffic<'c, D>),
}

/// One exchange with rustls.
struct Turn<'a> {
    incoming: &'a mut [u8],
    used: usize,
    taken: usize,
    ended: bool,
    out: &'a mut Outgoing,
    take: &'a mut dyn FnMut(&[u8]),
}

impl Turn<'_> {
    fn fed<R>(self, result: R) -> Fed<R> {
        Fed { used: self.used, taken: self.taken, ended: self.ended, result }
    }

    fn feed<D>(
        &mut self,
        connection: &mut UnbufferedConnectionCommon<D>,
        records: Records<D>,
        room: usize,
    ) -> Result<(), TlsError> {
        loop {
            match self.step(connection, records).map(|stop| stop.is_some()) {
                Ok(true) => return Ok(()),
                Ok(false) if self.taken >= room => return Ok(()),
                Ok(false) => {}
                Err(error) => {
                    // rustls has the alert ready that names the error, behind what it had to say before, as a
                    // ServerHello; it is not asked for more.
                    while connection.wants_write() && matches!(self.step(connection, records), Ok(None)) {}
                    return Err(error);
                }
            }
        }
    }

    fn seal<D>(
        &mut self,
        connection: &mut UnbufferedConnectionCommon<D>,
        records: Records<D>,
        bytes: Option<&[u8]>,
    ) -> Result<(), SealError> {
        loop {
            match self.step(connection, records)? {
                None => {}
                Some(Stop::Writable(mut traffic)) => {
                    return match bytes {
                        Some(bytes) => append(self.out, bytes.len(), |out| traffic.encrypt(bytes, out)),
                        None => append(self.out, 0, |out| traffic.queue_close_notify(out)),
                    };
                }
                Some(Stop::Closed) if bytes.is_none() => return Ok(()),
                Some(Stop::Closed | Stop::Blocked) => return Err(SealError::NotOpen),
            }
        }
    }

    /// Does what rustls wants done; a state in which it wants nothing is given back.
    fn step<'c, D>(
        &mut self,
        connection: &'c mut UnbufferedConnectionCommon<D>,
        records: Records<D>,
    ) -> Result<Option<Stop<'c, D>>, TlsError> {
        let rest = self.incoming.get_mut(self.used..).unwrap_or_default();
        let UnbufferedStatus { discard, state } = records(connection, rest);
        self.used += discard;
        match state? {
            ConnectionState::ReadTraffic(mut traffic) => {
                while let Some(record) = traffic.next_record() {
                    let payload = record?.payload;
                    self.taken += payload.len();
                    (self.take)(payload);
                }
                Ok(None)
            }
            ConnectionState::EncodeTlsData(data) => {
                encode(data, self.out);
                Ok(None)
            }
            ConnectionState::TransmitTlsData(data) => {
                data.done();
                Ok(None)
            }
            ConnectionState::PeerClosed => {
                self.ended = true;
                Ok(None)
            }
            ConnectionState::Closed => Ok(Some(Stop::Closed)),
            ConnectionState::BlockedHandshake => Ok(Some(Stop::Blocked)),
            ConnectionState::WriteTraffic(traffic) => Ok(Some(Stop::Writable(traffic))),
            // Early data is never offered nor taken; whatever else there may be is not foreseen.
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

/// Of a record: header, tag and content type (RFC 8446 §5.2), with room to spare for a KeyUpdate before it.
const OVERHEAD_BYTES: usize = 128;
const RECORD_BYTES: usize = 16 * 1024;

fn append(
    out: &mut Outgoing,
    plain_bytes: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, EncryptError>,
) -> Result<(), SealError> {
    let mut room = plain_bytes + OVERHEAD_BYTES * (2 + plain_bytes / RECORD_BYTES);
    loop {
        match write(out.room(room)) {
            Ok(written) => {
                out.advance(written);
                return Ok(());
            }
            Err(EncryptError::InsufficientSize(InsufficientSizeError { required_size }))
                if required_size > room =>
            {
                room = required_size;
            }
            Err(_) => return Err(SealError::Exhausted),
        }
    }
}
