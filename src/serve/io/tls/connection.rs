//! The records of one connection, by rustls: what arrives, and what is to be sent.

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, InsufficientSizeError, UnbufferedConnectionCommon,
    UnbufferedStatus, WriteTraffic,
};
use rustls::{CommonState, Error};
use std::fmt;
use std::ops::Deref;

/// Either side of a connection, which holds no buffer while it is quiet.
pub(super) enum Connection {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// What [`Connection::process`] works on besides the records that have arrived.
pub(super) struct Work<'a> {
    /// Gets the plaintext of the peer.
    pub(super) receive: &'a mut dyn FnMut(&[u8]),
    /// Gets the records of handshakes and alerts.
    pub(super) send: &'a mut Vec<u8>,
    /// Encrypted last, unless the handshake must be over first.
    pub(super) encrypt: Option<Encrypt<'a>>,
}

/// Something to encrypt into a buffer that has room for it.
pub(super) struct Encrypt<'a> {
    pub(super) what: Plaintext<'a>,
    pub(super) buffer: &'a mut [u8],
}

pub(super) enum Plaintext<'a> {
    /// No more than a record.
    Data(&'a [u8]),
    CloseNotify,
}

/// What [`Connection::process`] has done.
pub(super) struct Processed {
    /// This much of the input is of no use any more. The rest must be the beginning of the next input.
    pub(super) consumed: usize,
    /// The peer has sent a `close_notify`.
    pub(super) is_closed: bool,
    /// The length of what was encrypted.
    pub(super) encrypted: Option<usize>,
    /// No more can be processed.
    pub(super) error: Option<Error>,
}

/// How either side advances by one step.
type Step<Data> = for<'c, 'i> fn(
    &'c mut UnbufferedConnectionCommon<Data>,
    &'i mut [u8],
) -> UnbufferedStatus<'c, 'i, Data>;

impl Connection {
    /// Processes the records in `input`. It must begin with what the call before has not consumed: a part of a
    /// handshake message stays there, decrypted.
    pub(super) fn process(&mut self, input: &mut [u8], work: Work<'_>) -> Processed {
        match self {
            Self::Client(connection) => process::<ClientConnectionData>(
                connection,
                UnbufferedConnectionCommon::<ClientConnectionData>::process_tls_records,
                input,
                work,
            ),
            Self::Server(connection) => process::<ServerConnectionData>(
                connection,
                UnbufferedConnectionCommon::<ServerConnectionData>::process_tls_records,
                input,
                work,
            ),
        }
    }
}

impl Deref for Connection {
    type Target = CommonState;

    fn deref(&self) -> &CommonState {
        match self {
            Self::Client(connection) => connection,
            Self::Server(connection) => connection,
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client(_) => "Client",
            Self::Server(_) => "Server",
        })
    }
}

fn process<Data>(
    connection: &mut UnbufferedConnectionCommon<Data>,
    step: Step<Data>,
    input: &mut [u8],
    work: Work<'_>,
) -> Processed {
    let mut processed = Processed {
        consumed: 0,
        is_closed: false,
        encrypted: None,
        error: None,
    };
    loop {
        let UnbufferedStatus { mut discard, state } =
            step(connection, &mut input[processed.consumed..]);
        let is_over = match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(Ok(record)) = traffic.next_record() {
                    discard += record.discard;
                    (work.receive)(record.payload);
                }
                false
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                encode(&mut data, work.send);
                false
            }
            Ok(ConnectionState::TransmitTlsData(transmit)) => {
                transmit.done();
                false
            }
            Ok(ConnectionState::PeerClosed) => {
                processed.is_closed = true;
                false
            }
            Ok(ConnectionState::WriteTraffic(traffic)) => {
                match work.encrypt.map(|it| encrypt(traffic, it)).transpose() {
                    Ok(encrypted) => processed.encrypted = encrypted,
                    Err(error) => processed.error = Some(error),
                }
                processed.consumed += discard;
                return processed;
            }
            // The handshake waits for the peer, or both sides are closed. Early data is never accepted, as it can
            // be replayed.
            Ok(_) => true,
            Err(error) => {
                processed.error = Some(error);
                true
            }
        };
        processed.consumed += discard;
        if is_over {
            break;
        }
    }
    // Behind an error there is an alert for the peer. Without one, another step would repeat the error.
    while processed.error.is_some()
        && connection.wants_write()
        && let Ok(ConnectionState::EncodeTlsData(mut data)) =
            step(connection, &mut input[processed.consumed..]).state
    {
        encode(&mut data, work.send);
    }
    processed
}

fn encode<Data>(data: &mut EncodeTlsData<'_, Data>, output: &mut Vec<u8>) {
    // The error has the size.
    let result = data.encode(&mut []);
    let Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) = result else {
        return;
    };
    let start = output.len();
    output.resize(start + required_size, 0);
    let encoded = data.encode(&mut output[start..]);
    output.truncate(start + encoded.unwrap_or_default());
}

fn encrypt<Data>(
    mut traffic: WriteTraffic<'_, Data>,
    Encrypt { what, buffer }: Encrypt<'_>,
) -> Result<usize, Error> {
    let encrypted = match what {
        Plaintext::Data(data) => traffic.encrypt(data, buffer),
        Plaintext::CloseNotify => traffic.queue_close_notify(buffer),
    };
    // The keys are used up, which takes more records than TLS 1.2 sends in its life.
    encrypted.map_err(|_| Error::EncryptError)
}
