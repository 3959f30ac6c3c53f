//! What each stream of the demo does, step by step.

use super::script::Step;
use bytes::Bytes;
use std::time::Duration;

/// Longer than the 60 s after which nginx and ALB cut a silent stream, so that the result is unambiguous.
pub(super) const SILENCE: Duration = Duration::from_secs(65);
pub(super) const FEED_PAUSE: Duration = Duration::from_millis(200);
pub(super) const RESUME_PAUSE: Duration = Duration::from_secs(1);
pub(super) const PING_PAUSE: Duration = Duration::from_secs(2);
pub(super) const THINKING_PAUSE: Duration = Duration::from_secs(12);
pub(super) const NAMED_PAUSE: Duration = Duration::from_millis(700);
pub(super) const TOKEN_PAUSE: Duration = Duration::from_millis(50);
/// Enough for the pieces of an event to arrive in reads of their own.
pub(super) const CUT_PAUSE: Duration = Duration::from_millis(20);

/// Goes into JSON unchanged: no quotes, no backslashes.
pub(super) const ANSWER: &str = "A model that thinks sends nothing for a while, and the connection has to \
    stay open until it does.";

/// Numbered events from `first` on, each followed by `pause`.
pub(super) fn numbered(first: u64, pause: Duration) -> impl Iterator<Item = Step> + Send + 'static {
    (first..=u64::MAX).flat_map(move |n| {
        [
            send(format!("id: {n}\ndata: event {n}\n\n")),
            Step::Wait(pause),
        ]
    })
}

pub(super) fn named() -> impl Iterator<Item = Step> + Send + 'static {
    (1_u64..).flat_map(|n| {
        let name = match n % 3 {
            0 => "",
            1 => "event: price\n",
            _ => "event: trade\n",
        };
        let event = format!("{name}id: {n}\ndata: {{\"symbol\":\"ACME\",\"value\":{n}}}\n\n");
        [send(event), Step::Wait(NAMED_PAUSE)]
    })
}

pub(super) fn dies() -> impl Iterator<Item = Step> + Send + 'static {
    // hyper flushes what it has while the body waits; broken at once, the half event would not
    // reach the wire.
    let last_words = [
        send("id: 4\ndata: half an ev"),
        Step::Wait(FEED_PAUSE),
        Step::Break,
    ];
    numbered(1, FEED_PAUSE).take(6).chain(last_words)
}

pub(super) fn pings() -> impl Iterator<Item = Step> + Send + 'static {
    let pings = std::iter::repeat_with(|| [Step::Wait(PING_PAUSE), send(": upstream ping\n\n")]);
    numbered(1, FEED_PAUSE).take(4).chain(pings.flatten())
}

/// A token stream in the shape of OpenAI's chat completions.
pub(super) fn chat() -> impl Iterator<Item = Step> + Send + 'static {
    let chunk = |delta: &str, finish_reason: &str| {
        send(format!(
            "data: {{\"id\":\"chatcmpl-demo\",\"object\":\"chat.completion.chunk\",\
             \"created\":1700000000,\"model\":\"demo\",\"choices\":[{{\"index\":0,\
             \"delta\":{delta},\"finish_reason\":{finish_reason}}}]}}\n\n"
        ))
    };
    let role = chunk(r#"{"role":"assistant","content":""}"#, "null");
    let stop = chunk("{}", "\"stop\"");
    let tokens = ANSWER.split_inclusive(' ').flat_map(move |token| {
        [
            Step::Wait(TOKEN_PAUSE),
            chunk(&format!("{{\"content\":\"{token}\"}}"), "null"),
        ]
    });
    [Step::Wait(THINKING_PAUSE), role]
        .into_iter()
        .chain(tokens)
        .chain([Step::Wait(TOKEN_PAUSE), stop, send("data: [DONE]\n\n")])
}

pub(super) fn crlf() -> impl Iterator<Item = Step> + Send + 'static {
    (1_u64..).flat_map(|n| {
        [
            send(format!("id: {n}\r")),
            Step::Wait(CUT_PAUSE),
            send(&b"\ndata: caf\xC3"[..]),
            Step::Wait(CUT_PAUSE),
            send(&b"\xA9\r"[..]),
            Step::Wait(CUT_PAUSE),
            // Complete for a parser that takes the CR for a line end, with one more LF to come.
            send("\n\r"),
            Step::Wait(CUT_PAUSE),
            send("\n"),
            Step::Wait(FEED_PAUSE),
        ]
    })
}

pub(super) fn send(bytes: impl Into<Bytes>) -> Step {
    Step::Send(bytes.into())
}
