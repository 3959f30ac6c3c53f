//! A TLS session without its transport, and without a buffer of its own while it is quiet.
//!
//! rustls' unbuffered API leaves the buffers to its caller. Here each thread has one set of them, in which records
//! are decrypted and encrypted; a session keeps only what is incomplete, not consumed yet, or not accepted by the
//! kernel.

use super::connection::{Connection, Encrypt, Plaintext, Processed, Work};
use rustls::{Error, InvalidMessage};
use std::cell::RefCell;
use std::io::{self, IoSlice};

/// Plaintext of one record, RFC 8446 section 5.1.
const MAX_PLAINTEXT: usize = 16 * 1024;
/// A record of TLS 1.2, which may expand more than one of TLS 1.3: RFC 5246 section 6.2.3. Room for a key update is
/// left in it, as our own records expand by less than 64 bytes.
const MAX_RECORD: usize = 5 + MAX_PLAINTEXT + 2048;
/// Input that is kept because it is incomplete. rustls limits a handshake message to 64 KiB, and its certificates
/// come in records of any size.
const MAX_INCOMPLETE: usize = 64 * 1024 + MAX_RECORD;
/// Bytes that one read takes from the kernel.
const MAX_READ: usize = 32 * 1024;
/// Bytes that one call reads without plaintext among them. Beyond a handshake a peer has little else to send, and one
/// that floods us with session tickets must not keep the thread.
const MAX_READ_WITHOUT_DATA: usize = 256 * 1024;

thread_local! {
    static BUFFERS: RefCell<Buffers> = RefCell::default();
}

/// The buffers that all sessions of a thread use, one after the other.
struct Buffers {
    /// Records as they come: the incomplete one of the session, and what one read gets.
    input: Box<[u8]>,
    /// Plaintext that is written in several slices.
    plain: Box<[u8]>,
    /// A record to send.
    output: Box<[u8]>,
}

impl Default for Buffers {
    fn default() -> Self {
        Self {
            input: vec![0; MAX_INCOMPLETE + MAX_READ].into(),
            plain: vec![0; MAX_PLAINTEXT].into(),
            output: vec![0; MAX_RECORD].into(),
        }
    }
}

/// A TLS session. Its transport is passed to each call, as a pair of functions that read and write without
/// blocking.
#[derive(Debug)]
pub(in crate::serve::io) struct Session {
    connection: Connection,
    /// An incomplete record or handshake message.
    input: Vec<u8>,
    /// Plaintext that was not read yet.
    plain: Vec<u8>,
    /// Records that the kernel had no room for.
    output: Vec<u8>,
    /// This much plaintext of a write is in `output`. The write is to be repeated, and succeeds once all of that has
    /// left: so a write that has succeeded is with the kernel, as with plain TCP.
    accepted: usize,
    /// How the input has ended.
    end: Option<End>,
    /// Our side has sent its `close_notify`.
    is_shut: bool,
}

/// How the input of a session ends.
#[derive(Clone, Debug)]
enum End {
    /// By a `close_notify`.
    Proper,
    /// By the end of the transport's input: RFC 8446 section 6.1 calls that a truncation attack.
    Truncated,
    Failed(Error),
}

fn failed(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl Session {
    /// Of a client, which begins the handshake with the first write or flush.
    pub(super) fn new(connection: Connection) -> Self {
        let mut this = Self {
            connection,
            input: Vec::new(),
            plain: Vec::new(),
            output: Vec::new(),
            accepted: 0,
            end: None,
            is_shut: false,
        };
        if matches!(this.connection, Connection::Client(_)) {
            this.process(&mut [], &mut |_| {}, None);
        }
        this
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Returns true if a read will not block.
    pub(super) fn has_input(&self) -> bool {
        !self.plain.is_empty() || self.end.is_some()
    }

    /// Returns true if records wait for room in the kernel that no write will be repeated for.
    pub(super) fn has_own_output(&self) -> bool {
        !self.output.is_empty() && self.accepted == 0
    }

    /// The size of the buffers that this holds.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.input.capacity() + self.plain.capacity() + self.output.capacity()
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Processes `input`, and keeps what it does not consume of it.
    fn process(
        &mut self,
        input: &mut [u8],
        receive: &mut dyn FnMut(&[u8]),
        encrypt: Option<Encrypt<'_>>,
    ) -> Option<usize> {
        let work = Work {
            receive,
            send: &mut self.output,
            encrypt,
        };
        let Processed {
            consumed,
            is_closed,
            encrypted,
            error,
        } = self.connection.process(input, work);
        let rest = &input[consumed..];
        if let Some(error) = error {
            self.end = Some(End::Failed(error));
        } else if is_closed {
            self.end = Some(End::Proper);
        } else if !rest.is_empty() {
            self.input.clear();
            self.input.extend_from_slice(rest);
            return encrypted;
        }
        self.input = Vec::new();
        encrypted
    }

    /// Passes plaintext to `take`, which returns how much it has used of it. Reads from the transport by `read` until
    /// there is some. Returns how much was used: nothing at the end, or if `take` has no room.
    pub(super) fn read(
        &mut self,
        take: &mut dyn FnMut(&[u8]) -> usize,
        mut read: impl FnMut(&mut [u8]) -> io::Result<usize>,
        mut write: impl FnMut(&[u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut without_data = 0;
        loop {
            if !self.plain.is_empty() {
                let len = take(&self.plain);
                match len == self.plain.len() {
                    true => self.plain = Vec::new(),
                    false => drop(self.plain.drain(..len)),
                }
                return Ok(len);
            }
            match &self.end {
                None => {}
                Some(End::Proper) => return Ok(0),
                Some(End::Truncated) => return Err(self.truncated()),
                Some(End::Failed(error)) => return Err(failed(error.clone())),
            }
            if without_data > MAX_READ_WITHOUT_DATA {
                let error = "the peer sends handshake messages without an end";
                return Err(self.fail(Error::General(error.to_owned())));
            }
            let (len, got) = BUFFERS.with_borrow_mut(|buffers| {
                self.receive(take, &mut buffers.input, &mut read, &mut write)
            })?;
            if len > 0 {
                return Ok(len);
            }
            without_data += got;
        }
    }

    /// One read from the transport. Returns how much of the plaintext was used, and how much was read. The rest of the
    /// plaintext is kept.
    fn receive(
        &mut self,
        take: &mut dyn FnMut(&[u8]) -> usize,
        buffer: &mut [u8],
        read: &mut dyn FnMut(&mut [u8]) -> io::Result<usize>,
        write: &mut dyn FnMut(&[u8]) -> io::Result<usize>,
    ) -> io::Result<(usize, usize)> {
        let kept = self.input.len();
        if kept >= MAX_INCOMPLETE {
            return Err(self.fail(InvalidMessage::HandshakePayloadTooLarge.into()));
        }
        buffer[..kept].copy_from_slice(&self.input);
        let got = read(&mut buffer[kept..kept + MAX_READ])?;
        if got == 0 {
            self.end = Some(End::Truncated);
            return Ok((0, 0));
        }
        let (mut len, mut later) = (0, Vec::new());
        let mut receive = |payload: &[u8]| {
            let used = match later.is_empty() {
                true => take(payload),
                false => 0,
            };
            len += used;
            later.extend_from_slice(&payload[used..]);
        };
        self.process(&mut buffer[..kept + got], &mut receive, None);
        self.plain = later;
        // What does not leave now leaves with the next write, or once the transport is writable.
        let _ = self.flush(write);
        Ok((len, got))
    }

    /// Ends the session, without an alert.
    fn fail(&mut self, error: Error) -> io::Error {
        self.input = Vec::new();
        self.end = Some(End::Failed(error.clone()));
        failed(error)
    }

    fn truncated(&self) -> io::Error {
        let error = match self.connection.is_handshaking() {
            true => "the peer closed the connection during the TLS handshake",
            false => "the peer closed the connection without the close_notify of TLS",
        };
        io::Error::new(io::ErrorKind::UnexpectedEof, error)
    }

    /// Returns true if there is nothing to be read, not even an end. Reads from the transport to find out.
    pub(super) fn is_quiet(
        &mut self,
        read: impl FnMut(&mut [u8]) -> io::Result<usize>,
        write: impl FnMut(&[u8]) -> io::Result<usize>,
    ) -> bool {
        let blocks = |error: io::Error| error.kind() == io::ErrorKind::WouldBlock;
        !self.has_input() && self.read(&mut |_| 0, read, write).is_err_and(blocks)
    }

    /// Writes the records that the kernel had no room for.
    pub(super) fn flush(
        &mut self,
        mut write: impl FnMut(&[u8]) -> io::Result<usize>,
    ) -> io::Result<()> {
        let mut sent = 0;
        let result = loop {
            if sent == self.output.len() {
                break Ok(());
            }
            match write(&self.output[sent..]) {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(wrote) => sent += wrote,
                Err(error) => break Err(error),
            }
        };
        match sent == self.output.len() {
            true => self.output = Vec::new(),
            false => drop(self.output.drain(..sent)),
        }
        result
    }

    /// Writes the beginning of `bufs`, at most a record. A write that would block must be repeated with the same
    /// beginning.
    pub(super) fn write(
        &mut self,
        bufs: &[IoSlice<'_>],
        mut write: impl FnMut(&[u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        if let Some(End::Failed(error)) = &self.end {
            return Err(failed(error.clone()));
        }
        if self.is_shut {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.flush(&mut write)?;
        let accepted = std::mem::take(&mut self.accepted);
        if accepted > bufs.iter().map(|buf| buf.len()).sum() {
            let error = "a write over TLS that would block was not repeated";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, error));
        }
        if accepted > 0 {
            return Ok(accepted);
        }
        BUFFERS.with_borrow_mut(|buffers| {
            let data = match bufs {
                [all] => &all[..all.len().min(MAX_PLAINTEXT)],
                _ => gather(bufs, &mut buffers.plain),
            };
            if data.is_empty() {
                return Ok(0);
            }
            self.send(Plaintext::Data(data), &mut buffers.output, &mut write)?;
            if self.output.is_empty() {
                return Ok(data.len());
            }
            self.accepted = data.len();
            Err(io::ErrorKind::WouldBlock.into())
        })
    }

    /// Sends a `close_notify`, if the handshake is over and the kernel has room for it.
    pub(super) fn close(&mut self, mut write: impl FnMut(&[u8]) -> io::Result<usize>) {
        if self.is_shut || matches!(self.end, Some(End::Failed(_))) {
            return;
        }
        if self.flush(&mut write).is_ok() {
            BUFFERS.with_borrow_mut(|buffers| {
                let _ = self.send(Plaintext::CloseNotify, &mut buffers.output, &mut write);
            });
        }
        self.is_shut = true;
    }

    /// Sends one record; what the kernel has no room for is kept.
    fn send(
        &mut self,
        what: Plaintext<'_>,
        buffer: &mut [u8],
        write: &mut dyn FnMut(&[u8]) -> io::Result<usize>,
    ) -> io::Result<()> {
        let mut plain = std::mem::take(&mut self.plain);
        let mut input = std::mem::take(&mut self.input);
        let encrypt = Encrypt {
            what,
            buffer: &mut *buffer,
        };
        let encrypted = self.process(
            &mut input,
            &mut |payload| plain.extend_from_slice(payload),
            Some(encrypt),
        );
        self.plain = plain;
        let Some(len) = encrypted else {
            return Err(match &self.end {
                Some(End::Failed(error)) => failed(error.clone()),
                // The handshake continues when the peer's part of it has come.
                _ => io::ErrorKind::WouldBlock.into(),
            });
        };
        // Behind what the handshake may have left.
        unless_blocked(self.flush(&mut *write))?;
        let mut record = &buffer[..len];
        while self.output.is_empty() && !record.is_empty() {
            match write(record) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(wrote) => record = &record[wrote..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.output.extend_from_slice(record);
        Ok(())
    }
}

fn unless_blocked(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        result => result,
    }
}

/// Copies what `room` takes of the slices.
fn gather<'a>(bufs: &[IoSlice<'_>], room: &'a mut [u8]) -> &'a [u8] {
    let mut len = 0;
    for buf in bufs {
        let count = buf.len().min(room.len() - len);
        room[len..len + count].copy_from_slice(&buf[..count]);
        len += count;
    }
    &room[..len]
}

#[cfg(test)]
mod tests;
