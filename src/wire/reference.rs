//! A reference parser that follows the specification step by step, for tests to compare with. Slow, for whole
//! streams only, without code of `wire`.

/// An event as a client dispatches it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dispatched {
    pub(crate) name: String,
    pub(crate) data: String,
    pub(crate) last_event_id: String,
}

/// The events that a client dispatches for a whole stream.
pub(crate) fn parse(stream: &[u8]) -> Vec<Dispatched> {
    let text = String::from_utf8_lossy(stream);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    // An incomplete event at the end of the stream is not dispatched.
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let Some((lines, _unfinished)) = text.rsplit_once('\n') else {
        return Vec::new();
    };
    let mut events = Vec::new();
    let (mut name, mut data, mut id) = (String::new(), String::new(), String::new());
    for line in lines.split('\n') {
        if line.is_empty() {
            let (name, mut data) = (std::mem::take(&mut name), std::mem::take(&mut data));
            if data.pop().is_some() {
                events.push(Dispatched {
                    name: if name.is_empty() {
                        "message".into()
                    } else {
                        name
                    },
                    data,
                    last_event_id: id.clone(),
                });
            }
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => name = value.into(),
            "data" => {
                data.push_str(value);
                data.push('\n');
            }
            "id" if !value.contains('\0') => id = value.into(),
            _ => {}
        }
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, data: &str, last_event_id: &str) -> Dispatched {
        let [name, data, last_event_id] = [name, data, last_event_id].map(Into::into);
        Dispatched {
            name,
            data,
            last_event_id,
        }
    }

    #[test]
    fn reference_parses_the_examples_of_the_specification() {
        assert_eq!(
            parse(b"data: YHOO\ndata: +2\ndata: 10\n\n"),
            [event("message", "YHOO\n+2\n10", "")]
        );
        assert_eq!(
            parse(b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n"),
            [event("message", "first event", "1"), event("message", "second event", "")]
        );
        assert_eq!(
            parse(b"data\n\ndata\ndata\n\ndata:"),
            [event("message", "", ""), event("message", "\n", "")]
        );
        assert_eq!(parse(b"data:test\n\ndata: test\n\n").len(), 2);
    }
}
