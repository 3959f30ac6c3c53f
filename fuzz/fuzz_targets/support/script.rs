//! Streams and what is done to them, written in one text: seeds can be read, and an insertion by the
//! fuzzer moves the cuts with the bytes.
//!
//! | in the text | means |
//! | --- | --- |
//! | `\|` | cut here; two of them make an empty chunk |
//! | `!`, `#`, `@` | cut, and say a comment line, a block, an event if that is allowed here |
//! | `*` and a byte | the byte before it, so many times eight times more |
//! | `$` | the stream fails here |
//! | `\` and a byte | that byte |
//! | any other byte | itself |
//!
//! None of these has a meaning in an event stream, nor in the chunked coding.

// Each target takes what it needs.
#![allow(dead_code)]

use bytes::Bytes;

/// Longer streams are cut off, so that repeats do not take all the time.
const MAX_STREAM: usize = 8 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Words {
    Line,
    Block,
    Event,
}

#[derive(Debug)]
pub enum Step {
    Chunk(Bytes),
    Speak(Words),
}

#[derive(Debug)]
pub struct Script {
    /// All the chunks in one.
    pub stream: Bytes,
    pub steps: Vec<Step>,
    pub fails: bool,
}

impl Script {
    pub fn read(text: &[u8]) -> Self {
        Self::read_up_to(MAX_STREAM, text)
    }

    pub fn read_up_to(max_stream: usize, text: &[u8]) -> Self {
        let mut stream = Vec::new();
        let mut cuts = Vec::new();
        let mut fails = false;
        let mut bytes = text.iter().copied();
        while let Some(byte) = bytes.next()
            && stream.len() < max_stream
        {
            match byte {
                b'|' => cuts.push((stream.len(), None)),
                b'!' => cuts.push((stream.len(), Some(Words::Line))),
                b'#' => cuts.push((stream.len(), Some(Words::Block))),
                b'@' => cuts.push((stream.len(), Some(Words::Event))),
                b'*' => {
                    let times = usize::from(bytes.next().unwrap_or(0)) * 8;
                    if let Some(&last) = stream.last() {
                        stream.resize(stream.len() + times, last);
                    }
                }
                b'$' => {
                    fails = true;
                    break;
                }
                b'\\' => stream.extend(bytes.next()),
                byte => stream.push(byte),
            }
        }
        let stream = Bytes::from(stream);
        let mut steps = Vec::new();
        let mut at = 0;
        for (cut, words) in cuts {
            steps.push(Step::Chunk(stream.slice(at..cut)));
            steps.extend(words.map(Step::Speak));
            at = cut;
        }
        steps.push(Step::Chunk(stream.slice(at..)));
        Self {
            stream,
            steps,
            fails,
        }
    }

    pub fn chunks(&self) -> impl Iterator<Item = &Bytes> {
        self.steps.iter().filter_map(|step| match step {
            Step::Chunk(chunk) => Some(chunk),
            Step::Speak(_) => None,
        })
    }
}
