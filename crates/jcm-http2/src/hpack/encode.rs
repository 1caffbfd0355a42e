//! Headers as this side writes them: plain, and nothing is remembered. Answers have few, and what a connection remembers it
//! would have to keep.

use http::StatusCode;

use super::fixed::FIXED;

/// Where `:status` stands among what everybody knows, and with it the first of its values.
const STATUS: usize = 8;
const STATUSES: std::ops::RangeInclusive<usize> = STATUS..=14;

/// The first header names of an answer that are worth looking for there.
const NAMES_FROM: usize = 15;

/// Says that nothing is remembered. Before anything else, once on each connection, and also when the client never asked:
/// whatever it allows later, this keeps to it.
pub(crate) fn begin(block: &mut Vec<u8>) {
    block.push(0x20);
}

pub(crate) fn status(block: &mut Vec<u8>, status: StatusCode) {
    if let Some(at) = STATUSES.into_iter().find(|at| FIXED[at - 1].1 == status.as_str()) {
        number(block, 0x80, 7, at);
    } else {
        number(block, 0, 4, STATUS);
        text(block, status.as_str().as_bytes());
    }
}

pub(crate) fn field(block: &mut Vec<u8>, name: &str, value: &[u8]) {
    if let Some(at) = FIXED[NAMES_FROM - 1..].iter().position(|(known, _)| *known == name) {
        number(block, 0, 4, at + NAMES_FROM);
    } else {
        number(block, 0, 4, 0);
        text(block, name.as_bytes());
    }
    text(block, value);
}

fn text(block: &mut Vec<u8>, bytes: &[u8]) {
    number(block, 0, 7, bytes.len());
    block.extend_from_slice(bytes);
}

/// A number in so many bits of a byte that begins like this, and in the bytes behind it.
fn number(block: &mut Vec<u8>, begin: u8, bits: u32, number: usize) {
    let low = (1 << bits) - 1;
    if number < low {
        return block.push(begin | low_byte(number));
    }
    block.push(begin | low_byte(low));
    let mut rest = number - low;
    while rest >= 0x80 {
        block.push(0x80 | low_byte(rest & 0x7f));
        rest >>= 7;
    }
    block.push(low_byte(rest));
}

fn low_byte(number: usize) -> u8 {
    number.to_le_bytes()[0]
}

#[cfg(test)]
mod tests {
    use super::super::Decoder;
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let mut block = Vec::new();
        begin(&mut block);
        for code in [200, 204, 404, 431, 500, 503] {
            status(&mut block, StatusCode::from_u16(code).unwrap());
        }
        let long = "x".repeat(70_000);
        let fields = [
            ("content-type", "application/grpc"),
            ("jcm-code", "LEASE"),
            ("www-authenticate", ""),
            ("a", &long),
        ];
        for (name, value) in fields {
            field(&mut block, name, value.as_bytes());
        }
        let mut read = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Decoder::default().decode(&block, |name, value| read.push((text(name), text(value)))).unwrap();
        let statuses = ["200", "204", "404", "431", "500", "503"].map(|code| (":status", code));
        let said: Vec<_> = statuses
            .iter()
            .chain(&fields)
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        assert_eq!(read, said);
    }
}
