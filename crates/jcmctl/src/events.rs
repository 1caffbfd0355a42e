//! Server-sent events out of bytes, as the HTML standard defines the stream
//! (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).
//!
//! Pure: bytes in, events out. Opening and reopening the stream is the watch command's.

/// Longest event: a view of a cluster at its limit is far below.
const EVENT_BYTES_MAX: usize = 64 << 20;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    pub kind: String,
    /// The id to resume after, when this event has one.
    pub id: Option<String>,
    pub data: String,
}

/// What has arrived of the stream.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    line: Vec<u8>,
    ended_by_return: bool,
    kind: String,
    id: Option<String>,
    data: String,
    has_data: bool,
}

/// An event that grows without end.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event is larger than {EVENT_BYTES_MAX} bytes")]
pub(crate) struct TooLarge;

impl Reader {
    /// Takes bytes in and hands out the events they complete.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Vec<Event>, TooLarge> {
        let mut events = Vec::new();
        for &byte in bytes {
            let after_return = std::mem::take(&mut self.ended_by_return);
            match byte {
                b'\n' if after_return => {}
                b'\n' | b'\r' => {
                    self.ended_by_return = byte == b'\r';
                    let line = std::mem::take(&mut self.line);
                    if let Some(event) = self.take_line(&String::from_utf8_lossy(&line)) {
                        events.push(event);
                    }
                }
                _ if self.line.len() + self.data.len() >= EVENT_BYTES_MAX => return Err(TooLarge),
                _ => self.line.push(byte),
            }
        }
        Ok(events)
    }

    fn take_line(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            let event = Event {
                kind: std::mem::take(&mut self.kind),
                id: self.id.take(),
                data: std::mem::take(&mut self.data),
            };
            return std::mem::take(&mut self.has_data).then_some(event);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.kind),
            "id" => self.id = Some(value.to_owned()),
            "data" => {
                if self.has_data {
                    self.data.push('\n');
                }
                self.data.push_str(value);
                self.has_data = true;
            }
            // Comments (an empty field name), `retry` and what is not known yet.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_out_however_the_bytes_are_cut() {
        let stream = ": hello\n\nevent: view\r\nid: t1\r\ndata: {\"a\":1}\r\n\r\n:beat\n\nevent:delta\nid:t2\ndata:x\ndata:é\n\ndata: cut off";
        let event = |kind: &str, id: &str, data: &str| Event {
            kind: kind.into(),
            id: Some(id.into()),
            data: data.into(),
        };
        let expected = vec![event("view", "t1", "{\"a\":1}"), event("delta", "t2", "x\né")];
        for size in 1..stream.len() {
            let mut reader = Reader::default();
            let mut events = Vec::new();
            for chunk in stream.as_bytes().chunks(size) {
                events.extend(reader.push(chunk).unwrap());
            }
            assert_eq!(events, expected, "in pieces of {size} bytes");
        }
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut reader = Reader::default();
        let chunk = vec![b'x'; 1 << 20];
        let refused = (0..65).find_map(|_| reader.push(&chunk).err());
        assert_eq!(refused, Some(TooLarge));
    }
}
