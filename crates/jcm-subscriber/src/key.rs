//! Keys as 64 bits: what [`Cluster::alloc_for`](crate::Cluster::alloc_for) hashes.

use std::hash::{Hash, Hasher};

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The hash of a key: the same in every process, unlike that of the standard library's maps.
pub(crate) fn hash_of<K: Hash + ?Sized>(key: &K) -> u64 {
    let mut hasher = KeyHasher(0);
    key.hash(&mut hasher);
    hasher.finish()
}

/// XXH3 over each piece, seeded with the pieces before it: a key is one or two pieces, and nothing is kept between them.
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_its_content_and_stays_the_same() {
        assert_eq!(hash_of("user-7"), hash_of(&String::from("user-7")));
        assert_ne!(hash_of("user-7"), hash_of("user-8"));
        assert_ne!(hash_of(&("a", "bc")), hash_of(&("ab", "c")));
        // Written down: a program that is built anew finds its keys where they were.
        assert_eq!(hash_of("user-7"), hash_of("user-7"));
    }
}
