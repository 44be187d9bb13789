//! Reads the frames of a tunnel's peer in the order that a lease allows, and defers the rest.

use super::connection::TunnelError;
use super::frame::{Decoder, Event, Frame};
use super::lease::{Lease, Role};
use super::open::Open;
use crate::proxy::tls::Backlog;

/// Reads frames, and keeps data of the next lease.
#[derive(Debug)]
pub(super) struct Reader {
    decoder: Decoder,
    pub(super) lease: Lease,
    /// Decrypted bytes after the current lease.
    pub(super) later: Backlog,
    /// A lease has begun or ended: further data of this turn, in whatever records, is kept for later.
    pub(super) stopped: bool,
    pub(super) opened: Option<Open>,
    /// AUTH frames to respond to.
    pub(super) auths: Vec<Vec<u8>>,
    /// The last REFUSE's or RESET's document.
    pub(super) note: Vec<u8>,
    pub(super) broken: Option<Box<TunnelError>>,
    /// A protocol violation was reported: this tunnel carries nothing more.
    pub(super) is_broken: bool,
}

impl Reader {
    pub(super) fn new(role: Role) -> Self {
        Self {
            decoder: Decoder::default(),
            lease: Lease::new(role),
            later: Backlog::default(),
            opened: None,
            stopped: false,
            auths: Vec::new(),
            note: Vec::new(),
            broken: None,
            is_broken: false,
        }
    }

    /// Whether the last lease has ended and nothing of the next was received.
    pub(super) fn is_between(&self) -> bool {
        self.lease.is_over()
            && self.decoder.is_between()
            && self.later.is_empty()
            && self.broken.is_none()
            && !self.is_broken
    }

    /// Reads received bytes, and keeps what belongs to the next lease.
    pub(super) fn read(&mut self, mut bytes: &[u8], to_app: &mut Vec<u8>) {
        self.read_some(&mut bytes, to_app);
        self.later.pending().extend_from_slice(bytes);
    }

    /// Reads the kept bytes without copying them again, because a peer could make repeated copies arbitrarily
    /// expensive.
    pub(super) fn read_later(&mut self, to_app: &mut Vec<u8>) {
        let mut later = std::mem::take(&mut self.later);
        let mut bytes = later.rest();
        self.read_some(&mut bytes, to_app);
        let used = later.rest().len() - bytes.len();
        later.take(used);
        self.later = later;
    }

    fn read_some(&mut self, bytes: &mut &[u8], to_app: &mut Vec<u8>) {
        if self.broken.is_none()
            && let Err(error) = self.try_read(bytes, to_app)
        {
            self.broken = Some(Box::new(error));
        }
    }

    /// Reads up to the beginning or end of a lease.
    fn try_read(&mut self, bytes: &mut &[u8], to_app: &mut Vec<u8>) -> Result<(), TunnelError> {
        while !self.stopped {
            let Some(event) = self.decoder.next(bytes)? else { return Ok(()) };
            self.take(event, to_app)?;
            self.stopped = self.opened.is_some() || self.lease.is_over();
        }
        Ok(())
    }

    fn take(&mut self, event: Event<'_>, to_app: &mut Vec<u8>) -> Result<(), TunnelError> {
        let frame = match event {
            Event::Data(data) => {
                self.lease.data()?;
                if !self.lease.discards() {
                    to_app.extend_from_slice(data);
                }
                return Ok(());
            }
            Event::Frame(frame) => frame,
        };
        self.lease.receive(&frame)?;
        match frame {
            Frame::Open(open) => self.opened = Some(open),
            Frame::Refuse(note) | Frame::Reset { note, .. } => self.note = note,
            Frame::Auth(body) => self.auths.push(body),
            Frame::Accept | Frame::Fin => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::header;
    use super::*;

    /// One turn of a tunnel: the received records one by one, each followed by the kept bytes.
    fn turn(reader: &mut Reader, records: &[Vec<u8>], to_app: &mut Vec<u8>) {
        reader.stopped = false;
        for record in records {
            reader.read(record, to_app);
        }
        assert!(reader.broken.is_none());
    }

    fn later(reader: &mut Reader, to_app: &mut Vec<u8>) {
        reader.stopped = false;
        reader.read_later(to_app);
        assert!(reader.broken.is_none());
    }

    fn frames(frames: &[Frame], data: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        frames.iter().for_each(|frame| frame.encode(&mut bytes));
        bytes.extend_from_slice(&header(data.len()));
        bytes.extend_from_slice(data);
        bytes
    }

    #[test]
    fn the_first_bytes_wait_until_the_app_is_reached_in_one_record_or_in_several() {
        for cut in 0..=15 {
            let (mut reader, mut to_app) = (Reader::new(Role::Called), Vec::new());
            let mut first = frames(&[Frame::Open(Open::default())], b"first words");
            let second = first.split_off(cut.min(first.len()));
            turn(&mut reader, &[first, second], &mut to_app);
            assert!(reader.opened.take().is_some() && to_app.is_empty(), "cut at {cut}");
            reader.lease.accept();
            later(&mut reader, &mut to_app);
            assert_eq!(to_app, b"first words", "cut at {cut}");
        }
    }

    /// The client may open the next lease in the same write that ends the last one.
    #[test]
    fn data_of_the_next_lease_waits_until_this_lease_ends() {
        for records in [1, 2] {
            let (mut reader, mut to_app) = (Reader::new(Role::Called), Vec::new());
            let open = Frame::Open(Open::default());
            turn(&mut reader, &[frames(std::slice::from_ref(&open), b"one")], &mut to_app);
            assert!(reader.opened.take().is_some());
            reader.lease.accept();
            reader.lease.finish();
            later(&mut reader, &mut to_app);

            let mut end = Vec::new();
            Frame::Fin.encode(&mut end);
            let next = frames(std::slice::from_ref(&open), b"two");
            let came = if records == 1 { vec![[end, next].concat()] } else { vec![end, next] };
            turn(&mut reader, &came, &mut to_app);
            assert_eq!(to_app, b"one");
            assert!(reader.lease.is_over() && reader.opened.is_none() && reader.lease.number() == 1);

            later(&mut reader, &mut to_app);
            assert!(reader.opened.take().is_some() && reader.lease.number() == 2);
            later(&mut reader, &mut to_app);
            assert_eq!(to_app, b"onetwo");
        }
    }
}
