//! Two ends of one connection, of which either may do what it must not.

use super::*;

/// Client and server of one connection of this suite, whose next records have these numbers.
fn ends_of(suite: usize, sequence: u64) -> [Records; 2] {
    [Side::Client, Side::Server].map(|side| {
        let suite = postern_proto::crypto::provider().cipher_suites[suite];
        let key = |byte: u8| {
            let secret = [32, 48].into_iter().find_map(|bytes| TrafficSecret::new(suite, &vec![byte; bytes]));
            RecordKey::new(secret.unwrap(), sequence).unwrap()
        };
        Records::with_keys(side, key(1), key(2))
    })
}

fn ends() -> [Records; 2] {
    ends_of(0, 0)
}

/// The records of this text.
fn sealed(from: &mut Records, text: &[u8]) -> Vec<u8> {
    let mut out = Outgoing::default();
    from.seal(text, &mut out).unwrap();
    out.filled().to_vec()
}

/// One record of this kind with any content.
fn crafted(from: &mut Records, kind: u8, plain: &[u8]) -> Vec<u8> {
    let mut out = Outgoing::default();
    from.push(kind, plain, &mut out).unwrap();
    out.filled().to_vec()
}

/// The result of opening these bytes, the plaintext, and the response.
fn opened(by: &mut Records, bytes: &[u8]) -> (Opened, Vec<u8>, Vec<u8>) {
    let (mut text, mut answers) = (Vec::new(), Outgoing::default());
    let came =
        by.open(&mut bytes.to_vec(), usize::MAX, &mut answers, &mut |came| text.extend_from_slice(came));
    (came, text, answers.filled().to_vec())
}

/// Checks that these bytes end the connection with `error`, that the sender gets `alert`, and that the connection
/// stays unusable.
fn breaks([from, to]: [&mut Records; 2], bytes: &[u8], error: &TlsError, alert: AlertDescription, why: &str) {
    let (came, text, answer) = opened(to, bytes);
    assert_eq!(came.result.as_ref().unwrap_err(), error, "{why}");
    assert_eq!(text, b"", "{why}");
    let told = opened(from, &answer).0.result.unwrap_err();
    assert_eq!(told, TlsError::AlertReceived(alert), "{why}");
    let (again, _, answer) = opened(to, bytes);
    assert_eq!((again.result.unwrap_err(), again.used, answer.len()), (error.clone(), 0, 0), "{why}");
    assert!(to.seal(b"more", &mut Outgoing::default()).is_err(), "{why}");
}

#[test]
fn sealed_bytes_of_any_length_are_opened_in_any_fragmentation() {
    for suite in 0..3 {
        let [mut client, mut server] = ends_of(suite, 0);
        for length in [1, 2, 100, PLAIN_BYTES_MAX - 1, PLAIN_BYTES_MAX, PLAIN_BYTES_MAX + 1, 70_000] {
            let text: Vec<u8> = (0..length).map(|at| at as u8).collect();
            let bytes = sealed(&mut client, &text);
            assert_eq!(bytes.len(), length + length.div_ceil(PLAIN_BYTES_MAX) * 22);
            let (came, got, answer) = opened(&mut server, &bytes);
            came.result.unwrap();
            assert_eq!((came.used, came.taken, got, answer), (bytes.len(), length, text, Vec::new()));
        }
        let text = sealed(&mut server, b"a text in pieces");
        for bytes in 0..text.len() {
            let (came, got, _) = opened(&mut client, &text[..bytes]);
            came.result.unwrap();
            assert_eq!((came.used, got.len()), (0, 0), "{bytes} bytes of a record are none");
        }
        assert_eq!(opened(&mut client, &text).1, b"a text in pieces");
        assert_eq!(sealed(&mut client, b""), b"", "nothing is no record");
    }
}

#[test]
fn no_more_is_opened_than_fits() {
    let [mut client, mut server] = ends();
    let bytes = [sealed(&mut client, b"one"), sealed(&mut client, b"two"), sealed(&mut client, b"three")];
    let mut text = Vec::new();
    let mut all = bytes.concat();
    let came = server.open(&mut all, 4, &mut Outgoing::default(), &mut |came| text.extend_from_slice(came));
    assert_eq!((came.taken, came.used, &text[..]), (6, bytes[0].len() + bytes[1].len(), &b"onetwo"[..]));
    assert_eq!(opened(&mut server, &all[came.used..]).1, b"three");
}

#[test]
fn padding_is_taken_away_and_empty_data_is_nothing() {
    let [mut client, mut server] = ends();
    let padded = [&b"text"[..], &[APPLICATION_DATA], &[0; 1000]].concat();
    let bytes = crafted(&mut client, 0, &padded);
    assert_eq!(opened(&mut server, &bytes).1, b"text");
    let empty = crafted(&mut client, APPLICATION_DATA, b"");
    let (came, text, _) = opened(&mut server, &empty);
    assert_eq!((came.result, came.used, text.len()), (Ok(()), empty.len(), 0));
}

#[test]
fn each_forgery_breaks_the_connection_with_the_alert_that_names_it() {
    use AlertDescription as Alert;
    let inappropriate = |kind| PeerViolation::inappropriate(kind).error;
    let misbehaved = TlsError::PeerMisbehaved;
    let invalid = TlsError::InvalidMessage;
    let of_message = |kind: u8| TlsError::InappropriateHandshakeMessage {
        expect_types: vec![HandshakeType::KeyUpdate],
        got_type: HandshakeType::from(kind),
    };
    let update = &UPDATE_NOT_REQUESTED[..];
    let ticket = [NEW_SESSION_TICKET, 0, 0, 1, 9];
    let cases: [(&str, u8, &[u8], TlsError, Alert); 17] = [
        (
            "no content type but zeros",
            0,
            &[0; 10],
            invalid(InvalidMessage::InvalidContentType),
            Alert::UnexpectedMessage,
        ),
        (
            "a ChangeCipherSpec",
            CHANGE_CIPHER_SPEC,
            &[1],
            inappropriate(CHANGE_CIPHER_SPEC),
            Alert::UnexpectedMessage,
        ),
        ("a heartbeat", HEARTBEAT, &[1, 0, 1], inappropriate(HEARTBEAT), Alert::UnexpectedMessage),
        ("an unknown type", 99, b"x", inappropriate(99), Alert::UnexpectedMessage),
        (
            "half an alert",
            ALERT,
            &[WARNING],
            invalid(InvalidMessage::MissingData("AlertMessagePayload")),
            Alert::DecodeError,
        ),
        (
            "an alert and more",
            ALERT,
            &[1, 0, 0],
            invalid(InvalidMessage::MissingData("AlertMessagePayload")),
            Alert::DecodeError,
        ),
        (
            "no handshake message",
            HANDSHAKE,
            &[],
            invalid(InvalidMessage::InvalidEmptyPayload),
            Alert::DecodeError,
        ),
        ("a ClientHello", HANDSHAKE, &[1, 0, 0, 0], of_message(1), Alert::UnexpectedMessage),
        ("the first byte of a Certificate", HANDSHAKE, &[11], of_message(11), Alert::UnexpectedMessage),
        (
            "the header of an update of 64 KiB",
            HANDSHAKE,
            &[KEY_UPDATE, 1, 0, 0],
            invalid(InvalidMessage::InvalidKeyUpdate),
            Alert::DecodeError,
        ),
        ("a Finished", HANDSHAKE, &[20, 0, 0, 1, 7], of_message(20), Alert::UnexpectedMessage),
        (
            "a ticket to a server",
            HANDSHAKE,
            &ticket,
            of_message(NEW_SESSION_TICKET),
            Alert::UnexpectedMessage,
        ),
        (
            "a message of 16 MiB",
            HANDSHAKE,
            &[KEY_UPDATE, 0xff, 0xff, 0xff],
            invalid(InvalidMessage::InvalidKeyUpdate),
            Alert::DecodeError,
        ),
        (
            "an update that asks for 2",
            HANDSHAKE,
            &[KEY_UPDATE, 0, 0, 1, 2],
            invalid(InvalidMessage::InvalidKeyUpdate),
            Alert::IllegalParameter,
        ),
        (
            "an update that is too long",
            HANDSHAKE,
            &[KEY_UPDATE, 0, 0, 2, 0, 0],
            invalid(InvalidMessage::InvalidKeyUpdate),
            Alert::DecodeError,
        ),
        (
            "an update that is empty",
            HANDSHAKE,
            &[KEY_UPDATE, 0, 0, 0],
            invalid(InvalidMessage::InvalidKeyUpdate),
            Alert::DecodeError,
        ),
        (
            "two updates in one record",
            HANDSHAKE,
            &[update, update].concat(),
            misbehaved(PeerMisbehaved::KeyEpochWithPendingFragment),
            Alert::UnexpectedMessage,
        ),
    ];
    for (why, kind, plain, error, alert) in cases {
        let [mut client, mut server] = ends();
        let bytes = crafted(&mut client, kind, plain);
        breaks([&mut client, &mut server], &bytes, &error, alert, why);
    }
    let to_client: [(&str, [u8; 4], TlsError); 2] = [
        (
            "a ticket of 16 MiB",
            [NEW_SESSION_TICKET, 0xff, 0xff, 0xff],
            invalid(InvalidMessage::HandshakePayloadTooLarge),
        ),
        (
            "a ticket of nothing",
            [NEW_SESSION_TICKET, 0, 0, 0],
            invalid(InvalidMessage::MissingData("NewSessionTicket")),
        ),
    ];
    for (why, plain, error) in to_client {
        let [mut client, mut server] = ends();
        let bytes = crafted(&mut server, HANDSHAKE, &plain);
        breaks([&mut server, &mut client], &bytes, &error, Alert::DecodeError, why);
    }
}

#[test]
fn every_invalid_record_ends_the_connection() {
    let good = |client: &mut Records| sealed(client, b"text");
    let oversized = |client: &mut Records| crafted(client, APPLICATION_DATA, &[7; PLAIN_BYTES_MAX + 1]);
    let too_long = |_: &mut Records| [&[23, 3, 3, 0x41, 0x01][..], &[7; 16_641]].concat();
    let plain = |kind: u8| move |_: &mut Records| vec![kind, 3, 3, 0, 2, 2, 0];
    let flipped = |client: &mut Records| good(client).iter().map(|byte| byte ^ 0x80).collect();
    let out_of_turn = |client: &mut Records| {
        good(client);
        good(client)
    };
    type Make<'m> = &'m dyn Fn(&mut Records) -> Vec<u8>;
    let unexpected = AlertDescription::UnexpectedMessage;
    let cases: [(&str, Make<'_>, TlsError, AlertDescription); 7] = [
        ("text over 2^14", &oversized, TlsError::PeerSentOversizedRecord, AlertDescription::RecordOverflow),
        (
            "a record over 2^14 + 256",
            &too_long,
            TlsError::PeerSentOversizedRecord,
            AlertDescription::RecordOverflow,
        ),
        ("an alert in the clear", &plain(ALERT), PeerViolation::inappropriate(ALERT).error, unexpected),
        (
            "a handshake in the clear",
            &plain(HANDSHAKE),
            PeerViolation::inappropriate(HANDSHAKE).error,
            unexpected,
        ),
        (
            "a ChangeCipherSpec in the clear",
            &plain(CHANGE_CIPHER_SPEC),
            PeerViolation::inappropriate(CHANGE_CIPHER_SPEC).error,
            unexpected,
        ),
        ("no TLS", &flipped, PeerViolation::inappropriate(23 ^ 0x80).error, unexpected),
        ("a record out of turn", &out_of_turn, TlsError::DecryptError, AlertDescription::BadRecordMac),
    ];
    for (why, make, error, alert) in cases {
        let [mut client, mut server] = ends();
        let bytes = make(&mut client);
        breaks([&mut client, &mut server], &bytes, &error, alert, why);
    }
}

#[test]
fn every_changed_bit_of_a_record_breaks_the_connection_or_leaves_it_waiting() {
    let bytes = sealed(&mut ends()[0], b"a text");
    for place in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[place / 8] ^= 1 << (place % 8);
        let [_, mut server] = ends();
        let (came, text, _) = opened(&mut server, &changed);
        assert_eq!(text, b"", "bit {place}");
        // A length that has grown waits for more.
        assert!(came.result.is_err() || came.used == 0 && (24..40).contains(&place), "bit {place}: {came:?}");
    }
}

#[test]
fn keys_are_updated_on_request_and_at_their_limit_without_loss() {
    for suite in 0..3 {
        let [mut client, mut server] = ends_of(suite, 0);
        for round in 0..100_u8 {
            let asks = crafted(&mut client, HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 1]);
            client.writes.update().unwrap();
            let (came, _, answer) = opened(&mut server, &asks);
            assert_eq!((came.result, answer.len()), (Ok(()), 0), "the answer waits for data");
            let bytes = sealed(&mut server, &[round]);
            assert!(bytes.len() > 23 + 22, "a KeyUpdate is before it");
            assert_eq!(opened(&mut client, &bytes).1, [round]);
            let once = sealed(&mut server, &[round]);
            assert_eq!(once.len(), 23, "once");
            assert_eq!(opened(&mut client, &once).1, [round]);
            let back = sealed(&mut client, &[round]);
            assert_eq!(opened(&mut server, &back).1, [round]);
        }
    }
}

#[test]
fn a_worn_key_is_replaced_before_its_limit() {
    for suite in 0..3 {
        let limit = postern_proto::crypto::provider().cipher_suites[suite]
            .tls13()
            .unwrap()
            .common
            .confidentiality_limit;
        let [mut client, mut server] = ends_of(suite, limit - 3);
        for round in 0..6_u8 {
            let bytes = sealed(&mut client, &[round]);
            assert_eq!(
                bytes.len() > 23,
                round == 2,
                "in round {round} one number is left, for the KeyUpdate"
            );
            assert_eq!(opened(&mut server, &bytes).1, [round]);
        }
    }
}

#[test]
fn updates_and_warnings_without_data_come_to_an_end() {
    let [mut client, mut server] = ends();
    for round in 0..3 {
        for _ in 0..UPDATES_MAX {
            let update = crafted(&mut client, HANDSHAKE, &UPDATE_NOT_REQUESTED);
            client.writes.update().unwrap();
            opened(&mut server, &update).0.result.unwrap();
            let nothing = crafted(&mut client, APPLICATION_DATA, b"");
            opened(&mut server, &nothing).0.result.unwrap();
        }
        for _ in 0..WARNINGS_MAX {
            let warning = crafted(&mut client, ALERT, &[WARNING, AlertDescription::UserCanceled.into()]);
            opened(&mut server, &warning).0.result.unwrap();
        }
        if round < 2 {
            let data = sealed(&mut client, b"data");
            assert_eq!(opened(&mut server, &data).1, b"data");
        }
    }
    let update = crafted(&mut client, HANDSHAKE, &UPDATE_NOT_REQUESTED);
    let error = opened(&mut server, &update).0.result.unwrap_err();
    assert_eq!(error, TlsError::PeerMisbehaved(PeerMisbehaved::TooManyKeyUpdateRequests));

    let [mut client, mut server] = ends();
    let mut last = Ok(());
    for _ in 0..=WARNINGS_MAX {
        let warning = crafted(&mut client, ALERT, &[WARNING, AlertDescription::UserCanceled.into()]);
        last = opened(&mut server, &warning).0.result;
    }
    assert_eq!(last, Err(TlsError::PeerMisbehaved(PeerMisbehaved::TooManyWarningAlertsReceived)));
}

#[test]
fn tickets_without_data_come_to_an_end_in_one_record_and_in_many() {
    let ticket = [&[NEW_SESSION_TICKET, 0, 0, TICKET_BYTES_MIN as u8][..], &[7; TICKET_BYTES_MIN]].concat();
    for in_a_record in [1, 8, 800] {
        let [mut client, mut server] = ends();
        let (mut sent, mut last) = (0, Ok(()));
        while last.is_ok() {
            assert!(sent <= usize::from(TICKETS_MAX), "{sent} tickets were taken");
            sent += in_a_record;
            let bytes = crafted(&mut server, HANDSHAKE, &ticket.repeat(in_a_record));
            last = opened(&mut client, &bytes).0.result;
        }
        assert!(sent > usize::from(TICKETS_MAX), "after {sent}: {last:?}");
    }
}

#[test]
fn a_client_ignores_tickets_in_any_fragmentation() {
    let ticket = [&[NEW_SESSION_TICKET, 0, 1, 0][..], &[7; 256]].concat();
    let stream = [&ticket[..], &ticket, &ticket].concat();
    for piece in [1, 3, 4, 5, 259, 260, 261, 520, 780] {
        let [mut client, mut server] = ends();
        for part in stream.chunks(piece) {
            let bytes = crafted(&mut server, HANDSHAKE, part);
            let (came, _, answer) = opened(&mut client, &bytes);
            assert_eq!((came.result, answer.len()), (Ok(()), 0), "in pieces of {piece}");
        }
        assert!(client.begun.is_empty(), "nothing of it is kept");
        let data = sealed(&mut server, b"data");
        assert_eq!(opened(&mut client, &data).1, b"data");
    }
    let [mut client, mut server] = ends();
    let begun = crafted(&mut server, HANDSHAKE, &ticket[..100]);
    opened(&mut client, &begun).0.result.unwrap();
    let between = sealed(&mut server, b"data");
    let error = TlsError::PeerMisbehaved(PeerMisbehaved::MessageInterleavedWithHandshakeMessage);
    breaks(
        [&mut server, &mut client],
        &between,
        &error,
        AlertDescription::UnexpectedMessage,
        "data within a ticket",
    );
}

#[test]
fn directions_end_separately_and_data_after_the_end_is_not_opened() {
    let [mut client, mut server] = ends();
    let mut said = Outgoing::default();
    client.close(&mut said).unwrap();
    let once = said.len();
    client.close(&mut said).unwrap();
    assert_eq!(said.len(), once, "close_notify is said once");
    assert!(matches!(client.seal(b"more", &mut said), Err(SealError::NotOpen)));
    let behind = crafted(&mut client, APPLICATION_DATA, b"behind");
    let (came, text, _) = opened(&mut server, &[said.filled(), &behind].concat());
    assert_eq!((came.ended, came.used, came.result, text.len()), (true, once, Ok(()), 0));
    let answer = sealed(&mut server, b"still");
    assert_eq!(opened(&mut client, &answer).1, b"still");
}

#[test]
fn an_alert_ends_it_without_an_answer() {
    for (level, description) in [(FATAL, 40), (WARNING, 49), (FATAL, 90), (FATAL, 255), (77, 80)] {
        let [mut client, mut server] = ends();
        let alert = crafted(&mut client, ALERT, &[level, description]);
        let (came, _, answer) = opened(&mut server, &alert);
        let told = TlsError::AlertReceived(AlertDescription::from(description));
        assert_eq!((came.result, answer.len()), (Err(told), 0));
    }
}

#[test]
fn bytes_that_cannot_be_sealed_are_not_sent() {
    let limit =
        postern_proto::crypto::provider().cipher_suites[0].tls13().unwrap().common.confidentiality_limit;
    let [mut client, _] = ends_of(0, limit);
    let mut out = Outgoing::default();
    assert!(matches!(client.seal(b"secret", &mut out), Err(SealError::Key(RecordKeyError::KeyExhausted))));
    assert_eq!(out.filled(), b"");
}

#[test]
fn an_invalid_record_fails_at_once_and_an_incomplete_one_is_awaited() {
    assert_eq!(next_record(&[]), None);
    assert_eq!(next_record(&[22, 3, 1, 0]), None);
    assert_eq!(next_record(&[22, 3, 1, 0, 1]), None);
    assert_eq!(next_record(&[22, 3, 1, 0, 1, 7, 9]), Some(6));
    assert_eq!(next_record(&[22, 3, 1, 0, 0, 9]), Some(5));
    assert_eq!(next_record(b"GET / HTTP/1.1"), Some(14));
    assert_eq!(next_record(&[23, 3, 3, 0x41, 0x01, 0]), Some(6), "one byte over the limit");
    assert_eq!(next_record(&[23, 3, 3, 0x41, 0x00, 0]), None, "as long as it may be");
}
