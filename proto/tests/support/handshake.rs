//! Two rustls connections that shake hands in memory.

use std::sync::Arc;

use postern_proto::mtls::server_name;
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use rustls::{ClientConfig, ClientConnection, Error, ServerConfig, ServerConnection};

/// Passes bytes to and fro until both are silent; the first error of either side ends it.
pub fn shake_hands(
    client: &mut ClientConnection,
    server: &mut ServerConnection,
) -> Result<(), (&'static str, Error)> {
    for _ in 0..10 {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut unread = bytes.as_slice();
        while !unread.is_empty() {
            server.read_tls(&mut unread).unwrap();
            if let Err(error) = server.process_new_packets() {
                // The server's last word is its alert; the client's error shows which.
                let mut alert = Vec::new();
                server.write_tls(&mut alert).unwrap();
                client.read_tls(&mut alert.as_slice()).unwrap();
                return Err(match client.process_new_packets() {
                    Err(told) => ("server", told),
                    Ok(_) => ("server", error),
                });
            }
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut unread = bytes.as_slice();
        while !unread.is_empty() {
            client.read_tls(&mut unread).unwrap();
            client.process_new_packets().map_err(|error| ("client", error))?;
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok(())
}

/// The same over rustls's unbuffered API; a handshake that fails is a panic.
pub fn shake_hands_unbuffered(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
) -> (UnbufferedClientConnection, UnbufferedServerConnection) {
    let mut client = UnbufferedClientConnection::new(client, server_name()).unwrap();
    let mut server = UnbufferedServerConnection::new(server).unwrap();
    let (mut to_client, mut to_server) = (Vec::new(), Vec::new());
    for _ in 0..10 {
        let client_done =
            step(|bytes, out| turn(client.process_tls_records(bytes), out), &mut to_client, &mut to_server);
        let server_done =
            step(|bytes, out| turn(server.process_tls_records(bytes), out), &mut to_server, &mut to_client);
        if client_done && server_done {
            return (client, server);
        }
    }
    panic!("the handshake does not end");
}

enum Turn {
    Again,
    Blocked,
    Done,
}

/// Turns until the connection waits for the other, or is done.
fn step(
    mut turn: impl FnMut(&mut [u8], &mut Vec<u8>) -> (usize, Turn),
    incoming: &mut Vec<u8>,
    outgoing: &mut Vec<u8>,
) -> bool {
    loop {
        let (discard, turn) = turn(incoming, outgoing);
        incoming.drain(..discard);
        match turn {
            Turn::Again => {}
            Turn::Blocked => return false,
            Turn::Done => return true,
        }
    }
}

fn turn<Data>(status: UnbufferedStatus<'_, '_, Data>, outgoing: &mut Vec<u8>) -> (usize, Turn) {
    let turn = match status.state.unwrap() {
        ConnectionState::EncodeTlsData(mut data) => {
            let mut record = vec![0; 16 * 1024];
            let bytes = data.encode(&mut record).unwrap();
            outgoing.extend_from_slice(&record[..bytes]);
            Turn::Again
        }
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Turn::Again
        }
        ConnectionState::BlockedHandshake => Turn::Blocked,
        ConnectionState::WriteTraffic(_) => Turn::Done,
        other => panic!("{other:?}"),
    };
    (status.discard, turn)
}
