//! Property: wherever upstreams are cut, and however much they repeat, the client gets each event exactly once.

use super::*;
use crate::wire::reference;
use proptest::prelude::*;

/// The kind of one block of a stream.
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

/// The stream of an upstream: the bytes of each block, and its id.
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

    /// The block at which the stream continues after `last_id`, or `back` blocks with an id before that.
    fn continue_at(&self, last_id: Option<&str>, back: usize) -> usize {
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

/// One connection: how many blocks it repeats, where it is cut, the lengths of its chunks and whether it pauses
/// after each, and whether it begins with a byte order mark.
#[derive(Clone, Debug)]
struct Connection {
    back: usize,
    cut: prop::sample::Index,
    chunks: Vec<(usize, bool)>,
    mark: bool,
}

impl Connection {
    fn serve(&self, log: &Log, last_id: Option<&str>, is_last: bool) -> ScriptedUpstream {
        let mut bytes = log.bytes(log.continue_at(last_id, self.back));
        if self.mark {
            bytes.splice(..0, *b"\xEF\xBB\xBF");
        }
        if !is_last {
            bytes.truncate(self.cut.index(bytes.len() + 1));
        }
        let (mut upstream, mut rest) = (ScriptedUpstream::new(), &bytes[..]);
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
        // Before the first id a stream can only continue at the start.
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

/// All bytes that a client gets.
async fn resumed_bytes(
    log: Log,
    connections: Vec<Connection>,
    max_age: Option<Duration>,
) -> Vec<u8> {
    let upstreams = Upstreams::respond_by(move |request, last_id| {
        let connection = &connections[request.min(connections.len() - 1)];
        connection.serve(&log, last_id, request + 1 >= connections.len())
    });
    let layer = match max_age {
        Some(age) => ResumeLayer::new().max_age(age, 0.5),
        None => ResumeLayer::new(),
    };
    let beat = HeartbeatLayer::new(Duration::from_millis(300));
    let service = SseGuardLayer::new()
        .heartbeat(beat)
        .layer(layer.layer(upstreams));
    let mut client = TestResponse::new(service.oneshot(get()).await.unwrap());
    let mut bytes = Vec::new();
    while let Some(frame) = client.frame().await {
        bytes.extend_from_slice(&frame.unwrap().into_data().unwrap());
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn resumed_stream_equals_the_uncut_stream(

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
            tokio::time::timeout(day, resumed_bytes(log, connections, max_age)).await.unwrap()
        });
        let sent = client.escape_ascii().to_string();
        prop_assert_eq!(reference::parse(&client), reference::parse(&whole), "{}", sent);
    }
}
