//! How to write a layer of your own for event streams.
//!
//! The set of layers that share the body of [`SseGuardLayer`](crate::SseGuardLayer) is closed, without a trait for
//! further layers. Such a layer takes part in decisions about boundaries, deadlines and ends that apply to all
//! of them together, and a mistake in one breaks the guarantees of the others. As long as the trait is private, it can
//! change with them.
//!
//! What an application adds is an ordinary [`tower`](https://docs.rs/tower) layer. Its place decides what it sees:
//!
//! | place | it sees | for |
//! | --- | --- | --- |
//! | outside the stack | all responses as the client gets them, with heartbeats and closing events | authentication, request ids, headers, CORS |
//! | between the stack and the service | what the service sends, in chunks of any size; with [`resume`](crate::SseGuardLayer::resume), each connection to the upstream by itself | filters, changes of single events |
//! | around a [`ResumeLayer`](crate::resume::ResumeLayer) of its own, inside the stack | one stream from its start to its end, across reconnects | counts and limits of a whole stream |
//!
//! - **Change events inside the stack only.** What is outside of it must pass frames as they are: an injected byte
//!   could stand in the middle of an event.
//! - **End a stream by ending the body**, or with an error if its client shall know. The stack adds what the client's
//!   family needs.
//! - **Do not send heartbeats or `retry:`.** The stack does.
//! - To send events from elsewhere, no layer is needed: see [`inject`](crate::inject). To follow streams, see
//!   [`MetricsLayer::on_end`](crate::metrics::MetricsLayer::on_end) and the [`Stream`](crate::Stream) in the extensions
//!   of each response.
//!
//! # Example
//!
//! A filter that removes events named `debug`. [`Aligner`](crate::wire::Aligner) makes whole events of the chunks, and
//! [`Scanner`](crate::wire::Scanner) reads their fields:
//!
//! ```
//! use bytes::Bytes;
//! use http::header::CONTENT_TYPE;
//! use http::{Request, Response};
//! use http_body::{Body, Frame};
//! use http_body_util::{BodyExt, Either, Full};
//! use pin_project_lite::pin_project;
//! use sse_guard::SseGuardLayer;
//! use sse_guard::wire::{Aligner, Scanner};
//! use std::convert::Infallible;
//! use std::pin::Pin;
//! use std::task::{Context, Poll, ready};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! pin_project! {
//!     struct WithoutDebug<B> {
//!         #[pin]
//!         body: B,
//!         aligner: Aligner,
//!         scanner: Scanner,
//!     }
//! }
//!
//! impl<B: Body<Data = Bytes>> Body for WithoutDebug<B> {
//!     type Data = Bytes;
//!     type Error = B::Error;
//!
//!     fn poll_frame(
//!         self: Pin<&mut Self>,
//!         cx: &mut Context<'_>,
//!     ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
//!         let mut this = self.project();
//!         loop {
//!             while let Some(events) = this.aligner.pop() {
//!                 let rest = without_debug(events, this.scanner);
//!                 if !rest.is_empty() {
//!                     return Poll::Ready(Some(Ok(Frame::data(rest))));
//!                 }
//!             }
//!             match ready!(this.body.as_mut().poll_frame(cx)) {
//!                 Some(Ok(frame)) => match frame.into_data() {
//!                     Ok(chunk) => this.aligner.push(chunk),
//!                     Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
//!                 },
//!                 // Clients drop an event without its end.
//!                 end => return Poll::Ready(end),
//!             }
//!         }
//!     }
//! }
//!
//! fn without_debug(events: Bytes, scanner: &mut Scanner) -> Bytes {
//!     let (mut kept, mut removed) = (Vec::new(), false);
//!     scanner.scan(&events, |event| match event.name {
//!         Some(b"debug") => removed = true,
//!         _ => kept.extend_from_slice(event.raw),
//!     });
//!     // Without a copy, as nearly always.
//!     if removed { kept.into() } else { events }
//! }
//!
//! fn filter<B: Body<Data = Bytes>>(response: Response<B>) -> Response<Either<WithoutDebug<B>, B>> {
//!     let content_type = response.headers().get(CONTENT_TYPE);
//!     let is_stream = response.status().is_success()
//!         && content_type.is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"));
//!     response.map(|body| match is_stream {
//!         true => Either::Left(WithoutDebug {
//!             body,
//!             aligner: Aligner::new(),
//!             scanner: Scanner::default(),
//!         }),
//!         false => Either::Right(body),
//!     })
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let service = ServiceBuilder::new()
//!     .layer(SseGuardLayer::new())
//!     .map_response(filter)
//!     .service(service_fn(|_: Request<()>| async {
//!         let events = "data: 1\n\nevent: debug\ndata: x\n\ndata: 2\n\n";
//!         Ok::<_, Infallible>(
//!             Response::builder()
//!                 .header(CONTENT_TYPE, "text/event-stream")
//!                 .body(Full::new(Bytes::from(events)))
//!                 .unwrap(),
//!         )
//!     }));
//!
//! let body = service.oneshot(Request::new(())).await?.into_body();
//! assert_eq!(body.collect().await?.to_bytes(), "data: 1\n\ndata: 2\n\n");
//! # Ok(())
//! # }
//! ```
//!
//! An event larger than [`DEFAULT_HOLD`](crate::wire::DEFAULT_HOLD) leaves an `Aligner` in parts, so this filter cannot
//! remove it; `Aligner::with_hold` takes another bound.
