//! Any bytes in any cuts as the body of a chunked message: `proxy::chunked::Chunked` takes them the
//! same however they are cut, and what it takes for a whole message is one for hyper, too, with the
//! same data, the same trailers and the same end.
//!
//! What hyper takes and we do not:
//!
//! - a size of more than 16 digits, if those in front are zeros: a reader that counts digits and one
//!   that cuts them off make two things of it;
//! - more than 64 blanks behind a size: hyper has no bound for them;
//! - a bare LF in the trailer section: to httparse it ends a line, or the section, while hyper looks
//!   for the CRLF behind it;
//! - a control character in an extension, which ends a line to some readers;
//! - trailers of more than 8 KiB or 32 fields: hyper's bounds are 16 KiB and 100.
//!
//! What we hand out is the same up to the byte that is refused, only that of the piece in which it
//! comes we hand out nothing.
//!
//! The input is a script, of which the cuts count; where it fails, the connection does.

#![no_main]

#[path = "support/script.rs"]
mod script;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::handshake;
use hyper::rt::{Read, ReadBufCursor, Write};
use libfuzzer_sys::fuzz_target;
use script::Script;
use sse_guard_proxy::chunked::{BadChunk, Chunked, Decoded};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use tokio::runtime::{Builder, Runtime};

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
/// Room for more extensions than may be.
const MAX_STREAM: usize = 20 * 1024;
/// As documented.
const MAX_DIGITS: usize = 16;
const MAX_PADDING: usize = 64;
const MAX_TRAILERS: usize = 8 * 1024;
const MAX_FIELDS: usize = 32;

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().build().unwrap();
}

fuzz_target!(|input: &[u8]| {
    let script = Script::read_up_to(MAX_STREAM, input);
    let stream = &script.stream[..];
    // Byte by byte, all in front of a bad one is handed out.
    let ours = read(stream.chunks(1));
    is_the_same(&read([stream]), &ours);
    is_the_same(&read(script.chunks().map(|chunk| &chunk[..])), &ours);

    let theirs = RUNTIME.with(|runtime| runtime.block_on(read_by_hyper(&script)));
    match &ours.end {
        End::Whole {
            fields: Some(fields),
            ..
        } => {
            assert!(theirs.is_whole);
            assert_eq!(theirs.data, ours.data);
            assert_eq!(theirs.trailers, *fields);
            assert_eq!(theirs.used, ours.used);
        }
        End::Whole {
            fields: None,
            lines,
        } => {
            assert_eq!(theirs.data, ours.data);
            assert!(!theirs.is_whole || *lines > MAX_FIELDS);
        }
        End::Unfinished => {
            assert!(!theirs.is_whole);
            assert_eq!(theirs.data, ours.data);
        }
        End::Bad(why) => {
            assert!(theirs.data.starts_with(&ours.data));
            assert!(!theirs.is_whole || is_wanted(*why, &stream[..=ours.used]));
        }
    }
});

#[derive(Debug, PartialEq)]
enum End {
    Whole {
        fields: Option<HeaderMap>,
        lines: usize,
    },
    Unfinished,
    Bad(BadChunk),
}

#[derive(Debug)]
struct Ours {
    data: Vec<u8>,
    used: usize,
    end: End,
}

fn read<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Ours {
    let mut chunked = Chunked::default();
    let (mut data, mut used, mut bad) = (Vec::new(), 0, None);
    let mut bytes = Vec::new();
    for chunk in chunks {
        let was_done = chunked.is_done();
        bytes.clear();
        bytes.extend_from_slice(chunk);
        match (chunked.decode(&mut bytes), bad) {
            (Ok(decoded), None) => {
                assert!(decoded.payload <= decoded.used && decoded.used <= chunk.len());
                assert!(decoded.used == chunk.len() || chunked.is_done());
                assert!(decoded.used == 0 || !was_done);
                data.extend_from_slice(&bytes[..decoded.payload]);
                used += decoded.used;
            }
            (Err(why), None) => bad = Some(why),
            (again, Some(why)) => assert_eq!(again, Err(why)),
        }
        assert!(chunked.trailers().len() <= MAX_TRAILERS);
    }
    let end = match bad {
        Some(why) => End::Bad(why),
        None if chunked.is_done() => End::Whole {
            fields: chunked.fields(),
            lines: chunked.trailers().split(|&byte| byte == b'\n').count() - 1,
        },
        None => End::Unfinished,
    };
    let behind = chunked.decode(&mut b"\r\n1\r\nx\r\n0\r\n\r\n".to_vec());
    match end {
        End::Whole { .. } => assert_eq!(
            behind,
            Ok(Decoded {
                payload: 0,
                used: 0
            })
        ),
        End::Unfinished => {}
        End::Bad(why) => {
            assert_eq!(behind, Err(why));
            assert!(!chunked.is_done());
        }
    }
    Ours { data, used, end }
}

fn is_the_same(cut: &Ours, bytewise: &Ours) {
    assert_eq!(cut.end, bytewise.end);
    if let End::Bad(_) = cut.end {
        assert!(bytewise.data.starts_with(&cut.data));
        assert!(cut.used <= bytewise.used);
    } else {
        assert_eq!(cut.data, bytewise.data);
        assert_eq!(cut.used, bytewise.used);
    }
}

/// Given what was read up to the byte that was refused.
fn is_wanted(why: BadChunk, read: &[u8]) -> bool {
    let last = |count: usize| &read[read.len().saturating_sub(count)..];
    match why {
        BadChunk::Digits => last(MAX_DIGITS + 1)[0] == b'0',
        BadChunk::Padding => last(MAX_PADDING + 1)
            .iter()
            .all(|byte| b" \t".contains(byte)),
        BadChunk::LineEnd => last(1) == b"\n",
        BadChunk::Trailers => true,
        BadChunk::Control => last(1)[0].is_ascii_control(),
        BadChunk::Size | BadChunk::Overlong | BadChunk::Extensions => false,
    }
}

#[derive(Debug)]
struct Theirs {
    data: Vec<u8>,
    trailers: HeaderMap,
    used: usize,
    is_whole: bool,
}

async fn read_by_hyper(script: &Script) -> Theirs {
    let mut reads = VecDeque::from([Bytes::from_static(HEAD)]);
    // One without bytes would be the end.
    reads.extend(script.chunks().filter(|chunk| !chunk.is_empty()).cloned());
    let wire = Wire {
        reads,
        fails: script.fails,
        was_asked: false,
    };
    let (mut sender, mut connection) = handshake(wire).await.unwrap();
    let response = sender.send_request(Request::new(Empty::<Bytes>::new()));
    let mut reader = pin!(async {
        let (mut data, mut trailers) = (Vec::new(), HeaderMap::new());
        let mut body = response.await.unwrap().into_body();
        let mut is_whole = true;
        while let Some(frame) = body.frame().await {
            assert!(is_whole);
            match frame.map(|frame| frame.into_data()) {
                Ok(Ok(bytes)) => data.extend_from_slice(&bytes),
                Ok(Err(frame)) => trailers = frame.into_trailers().unwrap(),
                Err(_) => is_whole = false,
            }
        }
        (data, trailers, is_whole)
    });
    let mut is_over = false;
    let (data, trailers, is_whole) = poll_fn(|cx| {
        is_over = is_over || connection.poll_without_shutdown(cx).is_ready();
        reader.as_mut().poll(cx)
    })
    .await;
    // What follows a message is an error on this connection, and left where it is.
    poll_fn(|cx| {
        is_over = is_over || connection.poll_without_shutdown(cx).is_ready();
        if is_over {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    let left = connection.into_parts();
    let unread: usize = left.io.reads.iter().map(Bytes::len).sum();
    Theirs {
        data,
        trailers,
        used: script.stream.len() - left.read_buf.len() - unread,
        is_whole,
    }
}

/// A server that sends the head and then what it was told, once it was asked.
struct Wire {
    reads: VecDeque<Bytes>,
    fails: bool,
    was_asked: bool,
}

impl Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut room: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.was_asked {
            return Poll::Pending;
        }
        match self.reads.pop_front() {
            Some(mut bytes) => {
                let rest = bytes.split_off(bytes.len().min(room.remaining()));
                room.put_slice(&bytes);
                if !rest.is_empty() {
                    self.reads.push_front(rest);
                }
                Poll::Ready(Ok(()))
            }
            None if self.fails => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl Write for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.was_asked = true;
        cx.waker().wake_by_ref();
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
