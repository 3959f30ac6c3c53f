//! End markers in the chunks of an answer, read byte by byte: a chunk may come in pieces, and no more
//! of it is kept than a name.

/// Of names and values so much is compared.
const MAX_COMPARED_BYTES: usize = 32;

/// Choices by index, a bit each.
pub(super) const MAX_CHOICES: u32 = u32::BITS;

/// What one chunk reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ChunkSummary {
    /// An `error` member that is not empty.
    pub(super) error: bool,
    /// A `stop_reason`.
    pub(super) stopped: bool,
    /// Choices that are in it, and those of them with a `finish_reason`.
    pub(super) seen: u32,
    pub(super) finished: u32,
    /// A choice that is beyond what is kept count of.
    pub(super) beyond: bool,
    /// Its `type` is that of an event behind which nothing comes.
    pub(super) is_last: bool,
    /// Its `type` is that of an event of a response.
    pub(super) is_response: bool,
}

/// Reads the data lines of one event.
#[derive(Debug, Default)]
pub(super) struct Reader {
    line: DataLine,
    json: Json,
}

/// Where in a line of an event stream.
#[derive(Clone, Copy, Debug, Default)]
enum DataLine {
    #[default]
    Start,
    /// So much of `data:` has come.
    Name(u8),
    /// Behind the colon, where one space does not count.
    Colon,
    Data,
    Other,
}

impl Reader {
    /// Takes the next piece of the event.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.line = match (self.line, byte) {
                (_, b'\r' | b'\n') => DataLine::Start,
                (DataLine::Start, b'd') => DataLine::Name(1),
                (DataLine::Name(n), byte) if b"data:".get(usize::from(n)) == Some(&byte) => {
                    match byte {
                        b':' => DataLine::Colon,
                        _ => DataLine::Name(n + 1),
                    }
                }
                (DataLine::Colon, b' ') => DataLine::Data,
                (DataLine::Colon | DataLine::Data, byte) => {
                    self.json.take(byte);
                    DataLine::Data
                }
                (DataLine::Start | DataLine::Name(_) | DataLine::Other, _) => DataLine::Other,
            };
        }
    }

    /// What it reported, at its end.
    pub(super) fn summary(&self) -> ChunkSummary {
        self.json.summary
    }
}

/// A name or a text, as far as it is looked at.
#[derive(Clone, Copy, Debug)]
struct ShortText {
    bytes: [u8; MAX_COMPARED_BYTES],
    len: usize,
}

impl ShortText {
    const EMPTY: Self = Self {
        bytes: [0; MAX_COMPARED_BYTES],
        len: 0,
    };

    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.len) {
            *place = byte;
        }
        self.len += 1;
    }

    /// Empty if it is too long to be any that is known.
    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// The members that are looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Name {
    Choices,
    Index,
    FinishReason,
    StopReason,
    Error,
    Type,
    /// Azure reports here that its filter has failed; the answer itself has not.
    Filter,
    #[default]
    Other,
}

impl Name {
    fn of(name: &[u8]) -> Self {
        match name {
            b"choices" => Self::Choices,
            b"index" => Self::Index,
            b"finish_reason" => Self::FinishReason,
            b"stop_reason" => Self::StopReason,
            b"error" => Self::Error,
            b"type" => Self::Type,
            b"content_filter_results"
            | b"content_filter_result"
            | b"prompt_filter_results"
            | b"prompt_annotations" => Self::Filter,
            _ => Self::Other,
        }
    }
}

/// A choice under way.
#[derive(Clone, Copy, Debug, Default)]
struct Choice {
    index: u32,
    is_finished: bool,
}

/// The depth of the members of a choice: an object in the list in the chunk.
const CHOICE_MEMBER_DEPTH: u32 = 3;

#[derive(Debug)]
struct Json {
    depth: u32,
    in_text: bool,
    is_escaped: bool,
    /// The text that is under way, or was the last.
    word: ShortText,
    /// Behind a colon, whose value has not begun; in a text, its value.
    name: Option<Name>,
    in_number: bool,
    in_choices: bool,
    choice: Choice,
    /// Within the member that began at this depth errors are none of the answer's.
    filter: Option<u32>,
    summary: ChunkSummary,
}

impl Default for Json {
    fn default() -> Self {
        Self {
            depth: 0,
            in_text: false,
            is_escaped: false,
            word: ShortText::EMPTY,
            name: None,
            in_number: false,
            in_choices: false,
            choice: Choice::default(),
            filter: None,
            summary: ChunkSummary::default(),
        }
    }
}

impl Json {
    fn take(&mut self, byte: u8) {
        if self.in_text {
            return self.in_text(byte);
        }
        match byte {
            b' ' | b'\t' => {}
            b'"' => {
                (self.in_text, self.word) = (true, ShortText::EMPTY);
                self.in_number = false;
            }
            b':' => self.name = Some(Name::of(self.word.as_bytes())),
            b'{' | b'[' => {
                let name = self.name.take();
                self.open(name, byte);
            }
            b'}' | b']' => self.close(),
            b',' => (self.name, self.in_number) = (None, false),
            _ => self.literal(byte),
        }
    }

    fn in_text(&mut self, byte: u8) {
        match byte {
            _ if self.is_escaped => self.is_escaped = false,
            b'\\' => self.is_escaped = true,
            b'"' => {
                self.in_text = false;
                if let Some(name) = self.name.take() {
                    self.text(name);
                }
                return;
            }
            _ => {}
        }
        self.word.push(byte);
    }

    /// A member whose value is a text has ended.
    fn text(&mut self, name: Name) {
        // Some servers write these for a null.
        let is_reason = self.word.len > 0 && self.word.as_bytes() != b"null";
        match name {
            Name::Error => self.summary.error |= self.word.len > 0 && self.filter.is_none(),
            Name::StopReason => self.summary.stopped |= is_reason,
            Name::FinishReason if self.is_in_choice() => self.choice.is_finished |= is_reason,
            Name::Type if self.depth == 1 => {
                let name = self.word.as_bytes();
                self.summary.is_last |= super::is_last_name(name);
                self.summary.is_response |= name.starts_with(b"response.");
            }
            _ => {}
        }
    }

    fn is_in_choice(&self) -> bool {
        self.in_choices && self.depth == CHOICE_MEMBER_DEPTH
    }

    fn open(&mut self, name: Option<Name>, bracket: u8) {
        self.depth += 1;
        match name {
            Some(Name::Choices) if self.depth == 2 && bracket == b'[' => self.in_choices = true,
            Some(Name::Filter) => self.filter = self.filter.or(Some(self.depth)),
            Some(Name::Error) => self.summary.error |= self.filter.is_none(),
            _ => {}
        }
        if self.is_in_choice() {
            self.choice = Choice::default();
        }
    }

    fn close(&mut self) {
        (self.name, self.in_number) = (None, false);
        if self.is_in_choice() {
            let Choice { index, is_finished } = self.choice;
            if index < MAX_CHOICES {
                self.summary.seen |= 1 << index;
                self.summary.finished |= u32::from(is_finished) << index;
            } else {
                self.summary.beyond = true;
            }
        }
        if self.filter == Some(self.depth) {
            self.filter = None;
        }
        self.depth = self.depth.saturating_sub(1);
        self.in_choices &= self.depth > 1;
    }

    /// A byte of a number, or of `true`, `false` or `null`.
    fn literal(&mut self, byte: u8) {
        match self.name.take() {
            Some(Name::Error) => {
                self.summary.error |= !matches!(byte, b'n' | b'f') && self.filter.is_none();
            }
            Some(Name::Index) if self.is_in_choice() && byte.is_ascii_digit() => {
                self.in_number = true;
                self.choice.index = u32::from(byte - b'0');
            }
            Some(_) => {}
            None if self.in_number && byte.is_ascii_digit() => {
                let more = u32::from(byte - b'0');
                self.choice.index = self.choice.index.saturating_mul(10).saturating_add(more);
            }
            None => self.in_number = false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(event: &str) -> ChunkSummary {
        let mut reader = Reader::default();
        reader.take(event.as_bytes());
        let whole = reader.summary();
        for cut in 0..event.len() {
            let mut reader = Reader::default();
            reader.take(&event.as_bytes()[..cut]);
            reader.take(&event.as_bytes()[cut..]);
            assert_eq!(reader.summary(), whole, "{event:?} at {cut}");
        }
        whole
    }

    #[test]
    fn choices_are_finished_by_their_index() {
        for (event, seen, finished) in [
            (
                r#"data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#,
                1,
                1,
            ),
            (
                r#"data:{"choices":[{"finish_reason" : "length" , "index" : 1}]}"#,
                2,
                2,
            ),
            (
                r#"data: {"choices":[{"index":0,"finish_reason":null}]}"#,
                1,
                0,
            ),
            (
                r#"data: {"choices":[{"index":0,"finish_reason":""}]}"#,
                1,
                0,
            ),
            (
                r#"data: {"choices":[{"index":0,"finish_reason":"null"}]}"#,
                1,
                0,
            ),
            (
                r#"data: {"choices":[{"index":10,"finish_reason":"stop"}]}"#,
                1 << 10,
                1 << 10,
            ),
            (
                r#"data: {"choices":[{"index":0,"finish_reason":"stop"},{"index":1,"text":"a"}]}"#,
                3,
                1,
            ),
            (
                r#"data: {"choices":[{"delta":{"tool_calls":[{"index":3,"function":{"arguments":"{\"finish_reason\":\"x\"}"}}]},"finish_reason":null,"index":0}]}"#,
                1,
                0,
            ),
            (r#"data: {"choices":[],"usage":{"index":3}}"#, 0, 0),
            (
                r#"data: {"x":[{"finish_reason":"stop"}],"choices":[]}"#,
                0,
                0,
            ),
            (
                "id: 1\r\ndata: {\"choices\":\r\ndata: [{\"finish_reason\":\r\ndata: \"stop\"}]}\r\n\r\n",
                1,
                1,
            ),
            ("data: [DONE]\n\n", 0, 0),
            ("datax: {\"choices\":[{\"finish_reason\":\"stop\"}]}", 0, 0),
        ] {
            let summary = summary(event);
            assert_eq!(
                (summary.seen, summary.finished),
                (seen, finished),
                "{event}"
            );
            assert!(!summary.error && !summary.beyond, "{event}");
        }
        assert!(summary(r#"data: {"choices":[{"index":32}]}"#).beyond);
        assert!(summary(r#"data: {"choices":[{"index":99999999999}]}"#).beyond);
    }

    #[test]
    fn error_member_counts_outside_of_filters_and_texts() {
        for (event, expected) in [
            (r#"data: {"error":{"message":"x"}}"#, true),
            (r#"data: {"id":"1" , "error" : {}}"#, true),
            (r#"data: {"id":"1","choices":[],"error":"x"}"#, true),
            (r#"data: {"error":500}"#, true),
            (
                r#"data: {"choices":[{"index":0,"error":{"code":502},"finish_reason":"error"}]}"#,
                true,
            ),
            (r#"data: {"choices":[],"x_groq":{"error":"x"}}"#, true),
            ("data: {\ndata: \"error\": {}}", true),
            (r#"data: {"error":null}"#, false),
            (r#"data: {"error":false}"#, false),
            (r#"data: {"error":""}"#, false),
            (r#"data: {"text":"\"error\":{}"}"#, false),
            (
                r#"data: {"choices":[{"content_filter_results":{"error":{"code":"x"}}}]}"#,
                false,
            ),
            (
                r#"data: {"choices":[{"content_filter_results":{"a":{}}}],"error":{}}"#,
                true,
            ),
        ] {
            assert_eq!(summary(event).error, expected, "{event}");
        }
    }

    #[test]
    fn final_events_of_other_apis_are_recognised() {
        for (event, stopped, is_last) in [
            (
                r#"data: {"type":"message_delta","delta":{"stop_reason":"end_turn"}}"#,
                true,
                false,
            ),
            (
                r#"data: {"delta":{"stop_sequence":null , "stop_reason" : "max_tokens"}}"#,
                true,
                false,
            ),
            (
                r#"data: {"type":"message_start","message":{"stop_reason":null}}"#,
                false,
                false,
            ),
            (r#"data: {"type":"response.completed"}"#, false, true),
            (
                r#"data: {"response":{"type":"x"},"type":"response.failed"}"#,
                false,
                true,
            ),
            (
                r#"data: {"response":{"type":"response.failed"}}"#,
                false,
                false,
            ),
            (
                r#"data: {"type":"response.output_text.delta"}"#,
                false,
                false,
            ),
        ] {
            let summary = summary(event);
            assert_eq!(
                (summary.stopped, summary.is_last),
                (stopped, is_last),
                "{event}"
            );
        }
    }
}
