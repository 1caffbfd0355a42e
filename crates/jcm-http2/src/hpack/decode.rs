//! Headers as a client writes them.

use std::collections::VecDeque;

use bytes::Bytes;

use super::fixed::FIXED;
use super::huffman;

/// What a client may have remembered: what it assumes before it is told otherwise. The overhead of an entry is the protocol's.
const TABLE_BYTES_MAX: usize = 4096;
const ENTRY_OVERHEAD: usize = 32;

/// Longer numbers than this mean nothing here.
const NUMBER_MAX: u32 = 1 << 28;

/// This cannot be read, and so nothing that comes after it can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// One connection's memory of headers that its client has sent.
#[derive(Debug)]
pub(crate) struct Decoder {
    /// The newest first.
    entries: VecDeque<Entry>,
    bytes: usize,
    bytes_max: usize,
}

#[derive(Debug)]
struct Entry {
    /// Shared by all entries that were made of one another: whoever refers to a long one again and again has it copied never.
    name: Bytes,
    value: Box<[u8]>,
}

impl Entry {
    fn size(&self) -> usize {
        self.name.len() + self.value.len() + ENTRY_OVERHEAD
    }
}

/// What a number stands for.
enum Known<'a> {
    Fixed(&'static str, &'static str),
    Kept(&'a Entry),
}

impl Default for Decoder {
    fn default() -> Self {
        Self { entries: VecDeque::new(), bytes: 0, bytes_max: TABLE_BYTES_MAX }
    }
}

impl Decoder {
    /// Reads a block, and hands over each name and value.
    pub(crate) fn decode(
        &mut self,
        block: &[u8],
        mut field: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), Malformed> {
        let mut input = Input(block);
        let mut is_first = true;
        let mut value = Vec::new();
        while let Some(first) = input.0.first().copied() {
            if first & 0x80 != 0 {
                let number = input.number(7)?;
                match self.entry(number)? {
                    Known::Fixed(name, value) => field(name.as_bytes(), value.as_bytes()),
                    Known::Kept(entry) => field(&entry.name, &entry.value),
                }
            } else if first & 0xe0 == 0x20 {
                if !is_first {
                    return Err(Malformed);
                }
                self.resize(input.number(5)? as usize)?;
                continue;
            } else {
                let is_kept = first & 0x40 != 0;
                let name = match input.number(if is_kept { 6 } else { 4 })? {
                    0 => {
                        let mut name = Vec::new();
                        input.text(&mut name)?;
                        name.into()
                    }
                    number => match self.entry(number)? {
                        Known::Fixed(name, _) => Bytes::from_static(name.as_bytes()),
                        Known::Kept(entry) => entry.name.clone(),
                    },
                };
                value.clear();
                input.text(&mut value)?;
                field(&name, &value);
                if is_kept {
                    self.keep(name, &value);
                }
            }
            is_first = false;
        }
        Ok(())
    }

    fn entry(&self, number: u32) -> Result<Known<'_>, Malformed> {
        let at = (number as usize).checked_sub(1).ok_or(Malformed)?;
        if let Some((name, value)) = FIXED.get(at) {
            return Ok(Known::Fixed(name, value));
        }
        self.entries.get(at - FIXED.len()).map(Known::Kept).ok_or(Malformed)
    }

    fn keep(&mut self, name: Bytes, value: &[u8]) {
        let entry = Entry { name, value: value.into() };
        self.shrink(self.bytes_max.saturating_sub(entry.size()));
        if entry.size() <= self.bytes_max {
            self.bytes += entry.size();
            self.entries.push_front(entry);
        }
    }

    fn resize(&mut self, bytes_max: usize) -> Result<(), Malformed> {
        if bytes_max > TABLE_BYTES_MAX {
            return Err(Malformed);
        }
        self.bytes_max = bytes_max;
        self.shrink(bytes_max);
        Ok(())
    }

    /// Forgets the oldest until no more than this is left.
    fn shrink(&mut self, bytes: usize) {
        while self.bytes > bytes
            && let Some(entry) = self.entries.pop_back()
        {
            self.bytes -= entry.size();
        }
    }
}

/// What is left of a block.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// A number that begins in so many bits of the next byte.
    fn number(&mut self, bits: u32) -> Result<u32, Malformed> {
        let low = (1 << bits) - 1;
        let mut number = u32::from(self.byte()?) & low;
        if number < low {
            return Ok(number);
        }
        for shift in [0, 7, 14, 21] {
            let byte = u32::from(self.byte()?);
            number += (byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return if number < NUMBER_MAX { Ok(number) } else { Err(Malformed) };
            }
        }
        Err(Malformed)
    }

    /// Writes a text behind what is there.
    fn text(&mut self, text: &mut Vec<u8>) -> Result<(), Malformed> {
        let is_coded = self.0.first().ok_or(Malformed)? & 0x80 != 0;
        let length = self.number(7)? as usize;
        let (bytes, rest): (&'a [u8], &'a [u8]) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        if is_coded {
            return huffman::decode(bytes, text);
        }
        text.extend_from_slice(bytes);
        Ok(())
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        let (byte, rest) = self.0.split_first().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*byte)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<String>, Malformed> {
        let mut all = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        decoder.decode(block, |name, value| all.push(format!("{}: {}", text(name), text(value))))?;
        Ok(all)
    }

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u32> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
        digits.chunks(2).map(|two| u8::try_from(two[0] << 4 | two[1]).unwrap()).collect()
    }

    /// RFC 7541, appendix C.4: three requests of one connection.
    #[test]
    fn requests_of_the_rfc_are_read() {
        let mut decoder = Decoder::default();
        let first = bytes("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff");
        let said = [":method: GET", ":scheme: http", ":path: /", ":authority: www.example.com"];
        assert_eq!(fields(&mut decoder, &first).unwrap(), said);
        let second = bytes("8286 84be 5886 a8eb 1064 9cbf");
        let said = [&said[..], &["cache-control: no-cache"]].concat();
        assert_eq!(fields(&mut decoder, &second).unwrap(), said);
        let third = bytes("8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf");
        let said = [
            ":method: GET",
            ":scheme: https",
            ":path: /index.html",
            ":authority: www.example.com",
            "custom-key: custom-value",
        ];
        assert_eq!(fields(&mut decoder, &third).unwrap(), said);
        assert_eq!(decoder.bytes, 164);
    }

    #[test]
    fn the_oldest_is_forgotten_when_there_is_no_room() {
        let mut decoder = Decoder::default();
        // Room for two entries of one letter each, name and value.
        let small = bytes("3f25");
        assert_eq!(fields(&mut decoder, &small).unwrap(), [""; 0]);
        let three = [bytes("40 01 61 01 31"), bytes("40 01 62 01 32"), bytes("40 01 63 01 33")].concat();
        assert_eq!(fields(&mut decoder, &three).unwrap(), ["a: 1", "b: 2", "c: 3"]);
        assert_eq!(fields(&mut decoder, &bytes("be bf")).unwrap(), ["c: 3", "b: 2"]);
        assert_eq!(fields(&mut decoder, &bytes("c0")), Err(Malformed));
        // An entry that is larger than the room empties it.
        let large = [bytes("40 01 64 7f 00"), vec![b'x'; 127]].concat();
        assert_eq!(fields(&mut decoder, &large).unwrap().len(), 1);
        assert_eq!(fields(&mut decoder, &bytes("be")), Err(Malformed));
        assert_eq!(decoder.bytes, 0);
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for (block, why) in [
            ("80", "there is no number zero"),
            ("be", "nothing was remembered"),
            ("40 05 61", "a text that is not there"),
            ("40", "nothing behind it"),
            ("ff ff ff ff ff 0f", "a number beyond all bounds"),
            ("3f e2 1f", "more memory than was offered"),
            ("82 20", "the size of the memory in the middle of a block"),
            ("40 81 ff 00", "a code that is not whole"),
        ] {
            assert_eq!(fields(&mut Decoder::default(), &bytes(block)), Err(Malformed), "{why}");
        }
    }
}
