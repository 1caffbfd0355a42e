//! As much of HTTP/2 and gRPC as a cheap reader needs: frames by hand, no library, no copy that is not needed.

/// Nothing is ever blocked by flow control: windows are as large as they may be.
const WINDOW_MAX: u32 = i32::MAX as u32;
const WINDOW_DEFAULT: u32 = 65_535;
const FRAME_HEADER: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// One frame of HTTP/2.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("frames are small").to_be_bytes();
    let mut bytes = Vec::with_capacity(FRAME_HEADER + payload.len());
    bytes.extend_from_slice(&length[1..]);
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// One message of gRPC in a frame of its own.
pub(crate) fn message(stream: u32, message: &[u8]) -> Vec<u8> {
    let mut payload = vec![0];
    payload.extend_from_slice(&u32::try_from(message.len()).expect("messages are small").to_be_bytes());
    payload.extend_from_slice(message);
    frame(DATA, 0, stream, &payload)
}

/// What a client says first on a connection.
pub(crate) fn preface() -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let mut setting = vec![0, 4];
    setting.extend_from_slice(&WINDOW_MAX.to_be_bytes());
    bytes.extend(frame(SETTINGS, 0, 0, &setting));
    bytes.extend(frame(WINDOW_UPDATE, 0, 0, &(WINDOW_MAX - WINDOW_DEFAULT).to_be_bytes()));
    bytes
}

/// The headers of a call. HPACK without a table: names by their static index, values as they are.
pub(crate) fn call(stream: u32, authority: &str, path: &str) -> Vec<u8> {
    // `:method: POST` and `:scheme: http` are in the static table.
    let mut block = vec![0x83, 0x86];
    let mut literal = |name: &[u8], value: &str| {
        block.extend_from_slice(name);
        block.push(u8::try_from(value.len()).expect("a short value"));
        block.extend_from_slice(value.as_bytes());
    };
    literal(&[0x04], path);
    literal(&[0x01], authority);
    // `content-type` is entry 31: 15 in the prefix, and 16.
    literal(&[0x0f, 0x10], "application/grpc");
    literal(b"\x00\x02te", "trailers");
    frame(HEADERS, END_HEADERS, stream, &block)
}

/// What was read from a connection, cut into frames.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    /// The beginning of a frame whose end was not read yet.
    rest: Vec<u8>,
}

/// What a reader has to know of a frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame<'a> {
    /// Bytes of a stream's messages.
    Data(u32, &'a [u8]),
    /// This has to be sent back.
    Reply(Vec<u8>),
    /// Nobody needs to know.
    Other,
    /// The server ended a stream, or all of them.
    End,
}

impl Frames {
    /// Takes bytes in, and gives the frames that are whole.
    pub(crate) fn take(&mut self, bytes: &[u8], mut each: impl FnMut(Frame<'_>)) {
        let joined;
        let mut left = if self.rest.is_empty() {
            bytes
        } else {
            self.rest.extend_from_slice(bytes);
            joined = std::mem::take(&mut self.rest);
            &joined
        };
        while left.len() >= FRAME_HEADER {
            let length = u32::from_be_bytes([0, left[0], left[1], left[2]]) as usize;
            let Some(payload) = left.get(FRAME_HEADER..FRAME_HEADER + length) else {
                break;
            };
            let stream = u32::from_be_bytes([left[5] & 0x7f, left[6], left[7], left[8]]);
            each(read(left[3], left[4], stream, payload));
            left = &left[FRAME_HEADER + length..];
        }
        if !left.is_empty() {
            self.rest = left.to_vec();
        }
    }
}

fn read(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Frame<'_> {
    match kind {
        DATA if flags & END_STREAM == 0 => Frame::Data(stream, payload),
        HEADERS if flags & END_STREAM == 0 => Frame::Other,
        DATA | HEADERS | RESET | GO_AWAY => Frame::End,
        SETTINGS if flags & ACK == 0 => Frame::Reply(frame(SETTINGS, ACK, 0, &[])),
        PING if flags & ACK == 0 => Frame::Reply(frame(PING, ACK, 0, payload)),
        _ => Frame::Other,
    }
}

/// Where in its messages a stream is.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    header: [u8; 5],
    have: usize,
    message: Vec<u8>,
}

impl Messages {
    /// Takes bytes of the stream in, and gives the messages that are whole.
    pub(crate) fn take(&mut self, mut bytes: &[u8], mut each: impl FnMut(&[u8])) {
        loop {
            let count = (self.header.len() - self.have).min(bytes.len());
            self.header[self.have..self.have + count].copy_from_slice(&bytes[..count]);
            self.have += count;
            bytes = &bytes[count..];
            if self.have < self.header.len() {
                return;
            }
            let [_, length @ ..] = self.header;
            let length = u32::from_be_bytes(length) as usize;
            if self.message.is_empty() && bytes.len() >= length {
                each(&bytes[..length]);
                bytes = &bytes[length..];
            } else {
                let count = (length - self.message.len()).min(bytes.len());
                self.message.extend_from_slice(&bytes[..count]);
                bytes = &bytes[count..];
                if self.message.len() < length {
                    return;
                }
                each(&std::mem::take(&mut self.message));
            }
            self.have = 0;
        }
    }
}
