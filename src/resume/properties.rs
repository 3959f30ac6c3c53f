//! Any numbered stream, wherever its upstream is cut and however far it goes back: the same events.

use super::tests::{Upstreams, get};
use super::*;
use crate::SseGuardLayer;
use crate::guard::testing::{Client, Upstream};
use crate::heartbeat::HeartbeatLayer;
use crate::wire::reference;
use proptest::prelude::*;
use tower::ServiceExt;

/// One block of a stream, but for its number and its line ends.
#[derive(Clone, Copy, Debug)]
enum Block {
    Event,
    Named,
    IdAlone,
    WithoutId,
    Comment,
}

impl Block {
    fn lines(self, id: &str) -> Vec<String> {
        let lines = match self {
            Self::Event => vec![format!("id: {id}"), format!("data: {id}")],
            Self::Named => vec![
                "event: e".into(),
                ": c".into(),
                format!("data: {id}"),
                "data".into(),
                "retry: 10".into(),
                format!("id:{id}"),
            ],
            Self::IdAlone => vec![format!("id: {id}")],
            Self::WithoutId => vec![format!("data: without {id}")],
            Self::Comment => vec![format!(": {id}")],
        };
        lines.into_iter().chain([String::new()]).collect()
    }

    fn has_id(self) -> bool {
        matches!(self, Self::Event | Self::Named | Self::IdAlone)
    }
}

/// A stream as its upstream has it: the bytes of each block, and its id.
#[derive(Clone, Debug)]
struct Log(Vec<(Vec<u8>, Option<String>)>);

impl Log {
    fn new(blocks: &[Block], numbers: bool, ends: &[&'static str]) -> Self {
        let mut ends = ends.iter().cycle();
        let blocks = blocks.iter().enumerate().map(|(n, block)| {
            let id = match numbers {
                true => (n + 9).to_string(),
                false => format!("\u{e9} {n}"),
            };
            let mut bytes = Vec::new();
            for line in block.lines(&id) {
                let end = *ends.next().unwrap();
                bytes.extend_from_slice(line.as_bytes());
                // An LF alone would be the second half of the line end before.
                let is_half = line.is_empty() && end == "\n" && bytes.ends_with(b"\r");
                bytes.extend_from_slice(if is_half { b"\r" } else { end.as_bytes() });
            }
            (bytes, block.has_id().then_some(id))
        });
        Self(blocks.collect())
    }

    fn bytes(&self, from: usize) -> Vec<u8> {
        let blocks = self.0[from..].iter();
        blocks.flat_map(|(bytes, _)| bytes.clone()).collect()
    }

    /// Where a client goes on that has got `last_id`, or so many blocks with an id before.
    fn behind(&self, last_id: Option<&str>, back: usize) -> usize {
        let Some(last_id) = last_id else { return 0 };
        let id_of = |(_, id): &(_, Option<String>)| id.as_deref() == Some(last_id);
        let last = self.0.iter().position(id_of).unwrap();
        let before = (0..=last).rev().filter(|&at| self.0[at].1.is_some());
        match back {
            0 => last + 1,
            _ => before.take(back).last().unwrap(),
        }
    }
}

/// What one connection does: how far it goes back, where it is cut, in chunks of which lengths it comes,
/// and whether it pauses behind each, and if it begins with a byte order mark.
#[derive(Clone, Debug)]
struct Connection {
    back: usize,
    cut: prop::sample::Index,
    chunks: Vec<(usize, bool)>,
    mark: bool,
}

impl Connection {
    fn serve(&self, log: &Log, last_id: Option<&str>, is_last: bool) -> Upstream {
        let mut bytes = log.bytes(log.behind(last_id, self.back));
        if self.mark {
            bytes.splice(..0, *b"\xEF\xBB\xBF");
        }
        if !is_last {
            bytes.truncate(self.cut.index(bytes.len() + 1));
        }
        let (mut upstream, mut rest) = (Upstream::new(), &bytes[..]);
        for &(len, pauses) in self.chunks.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (chunk, behind) = rest.split_at(len.min(rest.len()));
            upstream = upstream.send_bytes(chunk);
            if pauses {
                upstream = upstream.wait(1);
            }
            rest = behind;
        }
        if is_last { upstream } else { upstream.fail() }
    }
}

fn log() -> impl Strategy<Value = Log> {
    let block = prop_oneof![
        4 => Just(Block::Event),
        2 => Just(Block::Named),
        1 => Just(Block::IdAlone),
        2 => Just(Block::WithoutId),
        1 => Just(Block::Comment),
    ];
    let one_end = prop::sample::select(vec!["\n", "\r\n", "\r"]).prop_map(|end| vec![end]);
    let mixed = prop::collection::vec(prop::sample::select(vec!["\n", "\r\n", "\r"]), 2..20);
    let ends = prop_oneof![one_end, mixed];
    let blocks = prop::collection::vec(block, 0..12);
    (blocks, any::<bool>(), ends).prop_map(|(mut blocks, numbers, ends)| {
        // Before the first id nothing but the start can be asked for.
        blocks.insert(0, Block::Event);
        Log::new(&blocks, numbers, &ends)
    })
}

fn connection() -> impl Strategy<Value = Connection> {
    let chunks = prop::collection::vec((1..30_usize, prop::bool::weighted(0.2)), 1..10);
    let parts = (
        0..4_usize,
        any::<prop::sample::Index>(),
        chunks,
        any::<bool>(),
    );
    parts.prop_map(|(back, cut, chunks, mark)| Connection {
        back,
        cut,
        chunks,
        mark,
    })
}

/// All that a client gets.
async fn through(log: Log, connections: Vec<Connection>, max_age: Option<Duration>) -> Vec<u8> {
    let upstreams = Upstreams::by(move |asked, last_id| {
        let connection = &connections[asked.min(connections.len() - 1)];
        connection.serve(&log, last_id, asked + 1 >= connections.len())
    });
    let layer = match max_age {
        Some(age) => ResumeLayer::new().max_age(age, 0.5),
        None => ResumeLayer::new(),
    };
    let beat = HeartbeatLayer::new(Duration::from_millis(300));
    let service = SseGuardLayer::new()
        .heartbeat(beat)
        .layer(layer.layer(upstreams));
    let mut client = Client::new(service.oneshot(get()).await.unwrap());
    let mut bytes = Vec::new();
    while let Some(frame) = client.frame().await {
        bytes.extend_from_slice(&frame.unwrap().into_data().unwrap());
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn a_client_sees_the_stream_that_nobody_has_cut(
        log in log(),
        connections in prop::collection::vec(connection(), 1..8),
        max_age in prop::option::of((100..300_u64).prop_map(Duration::from_secs)),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let whole = log.bytes(0);
        let client = runtime.block_on(async {
            let day = Duration::from_secs(24 * 3600);
            tokio::time::timeout(day, through(log, connections, max_age)).await.unwrap()
        });
        let said = client.escape_ascii().to_string();
        prop_assert_eq!(reference::parse(&client), reference::parse(&whole), "{}", said);
    }
}
