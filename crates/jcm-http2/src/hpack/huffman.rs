//! The code in which clients write header text (RFC 7541, appendix B).
//!
//! It is canonical: codes of one length follow one another in the order of their symbols, and those of the next length
//! begin where they end. So the lengths are all there is to know.

use super::decode::Malformed;

/// The length in bits of each symbol's code: of all bytes, and of the end.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7,
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21,
    23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24,
    21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

const SYMBOLS: usize = LENGTHS.len();
const LENGTH_MIN: usize = 5;
const LENGTH_MAX: usize = 30;

struct Code {
    /// All symbols by their codes.
    symbols: [u16; SYMBOLS],
    /// By length: the first code beyond those of this length, at the left of 32 bits.
    beyond: [u64; LENGTH_MAX + 1],
    /// By length: the first code of it, at the right, and where its symbols begin.
    first: [(u32, usize); LENGTH_MAX + 1],
}

static CODE: Code = code();

const fn code() -> Code {
    let mut made =
        Code { symbols: [0; SYMBOLS], beyond: [0; LENGTH_MAX + 1], first: [(0, 0); LENGTH_MAX + 1] };
    let (mut length, mut count, mut next) = (1, 0, 0_u32);
    while length <= LENGTH_MAX {
        next <<= 1;
        made.first[length] = (next, count);
        let mut symbol = 0_u16;
        while (symbol as usize) < SYMBOLS {
            if LENGTHS[symbol as usize] as usize == length {
                made.symbols[count] = symbol;
                count += 1;
                next += 1;
            }
            symbol += 1;
        }
        made.beyond[length] = (next as u64) << (32 - length);
        length += 1;
    }
    made
}

/// Writes the text of these bytes behind what is there.
pub(super) fn decode(bytes: &[u8], text: &mut Vec<u8>) -> Result<(), Malformed> {
    // The bits that are at hand, from the left.
    let (mut bits, mut count) = (0_u64, 0_usize);
    let mut bytes = bytes.iter();
    loop {
        while count <= 56
            && let Some(byte) = bytes.next()
        {
            bits |= u64::from(*byte) << (56 - count);
            count += 8;
        }
        let window = bits >> 32;
        let length = (LENGTH_MIN..=LENGTH_MAX).find(|length| window < CODE.beyond[*length]);
        match length {
            Some(length) if length <= count => {
                let (first, at) = CODE.first[length];
                let offset = (window >> (32 - length)) as usize - first as usize;
                let symbol = CODE.symbols[at + offset];
                text.push(u8::try_from(symbol).map_err(|_| Malformed)?);
                bits <<= length;
                count -= length;
            }
            // What is left is the beginning of the end's code, which is all ones, and less than a byte of it.
            _ if count < 8 && bits == !(u64::MAX >> count) => return Ok(()),
            _ => return Err(Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(bytes: &[u8]) -> Result<Vec<u8>, Malformed> {
        let mut text = Vec::new();
        decode(bytes, &mut text).map(|()| text)
    }

    /// Written bit by bit, from the same lengths.
    fn encoded(text: &[u8]) -> Vec<u8> {
        let mut bits = Vec::new();
        for byte in text {
            let length = usize::from(LENGTHS[usize::from(*byte)]);
            let (first, at) = CODE.first[length];
            let offset = CODE.symbols[at..].iter().position(|symbol| *symbol == u16::from(*byte)).unwrap();
            let code = first + u32::try_from(offset).unwrap();
            bits.extend((0..length).rev().map(|bit| code >> bit & 1 == 1));
        }
        while !bits.len().is_multiple_of(8) {
            bits.push(true);
        }
        bits.chunks(8).map(|byte| byte.iter().fold(0, |byte, bit| byte << 1 | u8::from(*bit))).collect()
    }

    #[test]
    fn examples_of_the_rfc_are_read() {
        assert_eq!(
            decoded(&[0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff]).unwrap(),
            b"www.example.com"
        );
        assert_eq!(decoded(&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]).unwrap(), b"no-cache");
        assert_eq!(decoded(&[0xae, 0xc3, 0x77, 0x1a, 0x4b]).unwrap(), b"private");
        assert_eq!(decoded(&[]).unwrap(), b"");
    }

    #[test]
    fn every_byte_is_read_wherever_it_stands() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decoded(&encoded(&all)).unwrap(), all);
        for byte in 0..=255 {
            for before in 0..9 {
                let text = [vec![b'a'; before], vec![byte]].concat();
                assert_eq!(decoded(&encoded(&text)).unwrap(), text);
            }
        }
    }

    #[test]
    fn the_end_in_the_middle_and_other_padding_are_refused() {
        assert!(decoded(&[0xff; 4]).is_err(), "the end, written out");
        assert!(decoded(&[0xff]).is_err(), "a whole byte of padding");
        assert!(decoded(&[0b0001_1000]).is_err(), "padding that is not all ones");
        assert!(decoded(&[0b0001_1111]).is_ok(), "`a`, and three ones");
    }

    #[test]
    fn nothing_that_comes_in_is_too_odd() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..random.usize(0..20)).map(|_| random.u8(..)).collect();
            if let Ok(text) = decoded(&bytes) {
                assert_eq!(encoded(&text), bytes, "there is one way to write a text");
            }
        }
    }

    #[test]
    fn the_end_is_the_last_code() {
        assert_eq!(CODE.symbols[SYMBOLS - 1], 256);
        assert_eq!(CODE.beyond[LENGTH_MAX], 1 << 32);
    }
}
