//! An upstream that records what reaches it byte by byte, and answers each request by what a row has or by a text of its
//! own.

use super::message::{ADDED, Message};
use crate::support::PATIENCE;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// What each request gets that is not answered by a row.
pub(super) const OWN: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nown";

#[derive(Clone)]
pub(super) struct Recorder {
    pub(super) addr: SocketAddr,
    shared: Arc<(Mutex<Recorded>, Condvar)>,
}

#[derive(Default)]
struct Recorded {
    messages: Vec<Message>,
    /// Connections on which a part of a message has come.
    partial: usize,
    /// The connections that are open, and whether a message has come on each.
    open: Vec<(Arc<TcpStream>, bool)>,
    answer: Option<Answer>,
    /// The connection of the last answer is open.
    has_answered: bool,
    /// Requests that came on it behind that answer.
    later: usize,
}

/// What the next request gets.
#[derive(Clone, Default)]
pub(super) struct Answer {
    pub(super) bytes: Vec<u8>,
    /// The connection is closed behind it.
    pub(super) closes: bool,
    /// Each byte comes on its own.
    pub(super) is_slow: bool,
}

/// Sends the bytes, one after the other if `is_slow`. The other side may close its connection meanwhile.
pub(super) fn send(mut socket: &TcpStream, bytes: &[u8], is_slow: bool) {
    let pieces = bytes.chunks(if is_slow { 1 } else { bytes.len().max(1) });
    for piece in pieces {
        if socket.write_all(piece).is_err() {
            return;
        }
        if is_slow {
            thread::yield_now();
        }
    }
}

impl Recorder {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let recorder = Self {
            addr: listener.local_addr().unwrap(),
            shared: Arc::default(),
        };
        let this = recorder.clone();
        thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                let this = this.clone();
                socket.set_nodelay(true).unwrap();
                let socket = Arc::new(socket);
                this.state().open.push((socket.clone(), false));
                thread::spawn(move || this.serve(&socket));
            }
        });
        recorder
    }

    fn state(&self) -> MutexGuard<'_, Recorded> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the state is so.
    #[track_caller]
    fn wait(&self, what: &str, is_so: impl Fn(&Recorded) -> bool) -> MutexGuard<'_, Recorded> {
        let (state, timeout) = self
            .shared
            .1
            .wait_timeout_while(self.state(), PATIENCE, |state| !is_so(state))
            .unwrap_or_else(PoisonError::into_inner);
        assert!(!timeout.timed_out(), "never came: {what}");
        state
    }

    fn serve(&self, socket: &Arc<TcpStream>) {
        let mut bytes = Vec::new();
        let mut is_answered = false;
        while self.read_request(socket, &mut bytes) {
            let is_head = bytes.starts_with(b"HEAD ");
            bytes.clear();
            let mut state = self.state();
            state.later += usize::from(is_answered);
            let answer = state.answer.take();
            state.has_answered |= answer.is_some();
            drop(state);
            match answer {
                Some(answer) => {
                    is_answered = true;
                    send(socket, &answer.bytes, answer.is_slow);
                    if answer.closes {
                        break;
                    }
                }
                None => send(
                    socket,
                    &OWN[..OWN.len() - if is_head { 3 } else { 0 }],
                    false,
                ),
            }
        }
        let mut state = self.state();
        state.open.retain(|(open, _)| !Arc::ptr_eq(open, socket));
        state.has_answered &= !is_answered;
        let _ = socket.shutdown(Shutdown::Both);
        self.shared.1.notify_all();
    }

    /// Whether one came, and not the end of the connection.
    fn read_request(&self, mut socket: &TcpStream, bytes: &mut Vec<u8>) -> bool {
        let mut is_partial = false;
        loop {
            let mut buf = [0; 16 * 1024];
            let read = socket.read(&mut buf).unwrap_or(0);
            let mut state = self.state();
            bytes.extend_from_slice(&buf[..read]);
            let mut len = 0;
            while len < bytes.len() {
                let (message, of_it) = Message::first(&bytes[len..], "", &ADDED);
                if !message.is_whole && read > 0 {
                    break;
                }
                len += of_it;
                state.messages.push(message);
                let mut open = state.open.iter_mut();
                if let Some((_, has_come)) = open.find(|(open, _)| std::ptr::eq(&**open, socket)) {
                    *has_come = true;
                }
            }
            state.partial -= usize::from(is_partial);
            is_partial = len < bytes.len();
            state.partial += usize::from(is_partial);
            self.shared.1.notify_all();
            if read == 0 {
                return false;
            }
            if len > 0 {
                // What stands behind it is another request, which is answered as well: none is expected.
                return true;
            }
        }
    }

    /// What has come, once no request is under way. All connections must be new: see [`close_all`](Self::close_all).
    pub(super) fn take(&self) -> Vec<Message> {
        let mut state = self.wait("the end of all requests", |state| {
            state.partial == 0 && state.open.iter().all(|(_, has_come)| *has_come)
        });
        std::mem::take(&mut state.messages)
    }

    /// Closes all connections, so that none is idle at the proxy.
    pub(super) fn close_all(&self) {
        for (socket, _) in &self.state().open {
            let _ = socket.shutdown(Shutdown::Both);
        }
        let mut state = self.wait("the end of all connections", |state| state.open.is_empty());
        state.messages.clear();
    }

    /// Answers the next request by these bytes.
    pub(super) fn answer_next(&self, answer: Answer) {
        let mut state = self.state();
        state.answer = Some(answer);
        state.later = 0;
    }

    /// Waits until the connection of the answer has been closed.
    pub(super) fn wait_for_close(&self) {
        drop(self.wait("the end of the connection", |state| !state.has_answered));
    }

    /// Requests that came behind the answer on its connection.
    pub(super) fn later(&self) -> usize {
        self.state().later
    }
}
