//! Stored bytes: one byte of format version, one that says how the rest is packed, then a protobuf message.

use prost::Message;

use crate::Malformed;

/// The format that is written. A reader refuses every later one: prost would silently drop what it does not know.
pub const VERSION: u8 = 1;

const PLAIN: u8 = 0;
const LZ4: u8 = 1;

/// From this size on packing saves more than it costs: nodes of one cluster resemble each other.
const PACK_FROM_BYTES: usize = 1024;

/// Before packed bytes stand the version, how they are packed, and to how many bytes they unpack.
const HEAD_BYTES: usize = 6;

/// What a record may unpack to: well above any transaction, far below what would hurt.
const UNPACKED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The bytes to store.
pub fn encode(message: &impl Message) -> Vec<u8> {
    pack(&message.encode_to_vec())
}

/// The bytes to store for a message that is in bytes already.
pub fn pack(plain: &[u8]) -> Vec<u8> {
    if plain.len() < PACK_FROM_BYTES {
        return [&[VERSION, PLAIN], plain].concat();
    }
    let size = u32::try_from(plain.len()).expect("messages are within 32 MiB");
    let mut bytes = vec![0; HEAD_BYTES + lz4_flex::block::get_maximum_output_size(plain.len())];
    bytes[..2].copy_from_slice(&[VERSION, LZ4]);
    bytes[2..HEAD_BYTES].copy_from_slice(&size.to_le_bytes());
    let packed = lz4_flex::block::compress_into(plain, &mut bytes[HEAD_BYTES..]);
    bytes.truncate(HEAD_BYTES + packed.expect("there is room for the worst case"));
    bytes.shrink_to_fit();
    bytes
}

/// The message in stored bytes.
pub fn decode<M: Message + Default>(bytes: &[u8]) -> Result<M, Malformed> {
    match bytes {
        [VERSION, PLAIN, body @ ..] => Ok(M::decode(body)?),
        [VERSION, LZ4, body @ ..] => {
            let (size, packed) = lz4_flex::block::uncompressed_size(body)
                .map_err(|_| Malformed::Shape("the record is cut short"))?;
            if size > UNPACKED_BYTES_MAX {
                return Err(Malformed::Shape("the record claims to be larger than any record"));
            }
            let plain = lz4_flex::block::decompress(packed, size)
                .map_err(|_| Malformed::Shape("the record cannot be unpacked"))?;
            Ok(M::decode(plain.as_slice())?)
        }
        [found, ..] if *found > VERSION => Err(Malformed::Newer { found: *found, known: VERSION }),
        _ => Err(Malformed::Shape("the bytes are no record")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::Cluster;

    #[test]
    fn a_record_reads_back_and_a_damaged_or_newer_one_is_refused() {
        for name_bytes in [3, 5_000] {
            let message = Cluster { name: "a".repeat(name_bytes), revision: 7, ..Cluster::default() };
            let bytes = encode(&message);
            assert!(bytes.len() < 1_500, "{} bytes", bytes.len());
            assert_eq!(decode::<Cluster>(&bytes).unwrap(), message);
            assert!(decode::<Cluster>(&bytes[..bytes.len() - 1]).is_err(), "a cut record was read");
            let mut newer = bytes.clone();
            newer[0] = VERSION + 1;
            assert!(matches!(decode::<Cluster>(&newer), Err(Malformed::Newer { found: 2, known: 1 })));
        }
        assert!(decode::<Cluster>(&[]).is_err());
        assert!(
            decode::<Cluster>(&[VERSION, LZ4, 255, 255, 255, 255]).is_err(),
            "a record that claims 4 GiB was read"
        );
    }
}
