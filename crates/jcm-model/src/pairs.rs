//! A small sorted map in one allocation: ports, labels and properties have a handful of entries, and there are
//! millions of them, so a tree or hash map for each would cost more than what it holds.

use std::marker::PhantomData;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::invalid::{Invalid, quoted};

/// Most entries of one map: what one node or cluster can reasonably describe itself with.
pub const PAIRS_MAX: usize = 256;

/// Keys to values, sorted by key, each key once.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pairs<V>(Box<[(Box<str>, V)]>);

impl<V> Default for Pairs<V> {
    fn default() -> Self {
        Self(Box::default())
    }
}

impl<V> Pairs<V> {
    /// Sorts the entries; the same key twice is refused by name.
    pub fn new(entries: impl IntoIterator<Item = (String, V)>) -> Result<Self, Invalid> {
        let mut entries: Vec<(Box<str>, V)> =
            entries.into_iter().map(|(k, v)| (k.into_boxed_str(), v)).collect();
        if entries.len() > PAIRS_MAX {
            return Err(Invalid::new(format!("{} entries, the limit is {PAIRS_MAX}", entries.len())));
        }
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        if let Some(twins) = entries.windows(2).find(|w| w[0].0 == w[1].0) {
            return Err(Invalid::new(format!("the key {} stands there twice", quoted(&twins[0].0))));
        }
        Ok(Self(entries.into_boxed_slice()))
    }

    /// The value under a key.
    pub fn get(&self, key: &str) -> Option<&V> {
        self.0.binary_search_by(|(k, _)| k.as_ref().cmp(key)).ok().map(|i| &self.0[i].1)
    }

    /// The entry whose key comes first.
    pub fn first(&self) -> Option<(&str, &V)> {
        self.0.first().map(|(k, v)| (k.as_ref(), v))
    }

    /// All entries in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &V)> {
        self.0.iter().map(|(k, v)| (k.as_ref(), v))
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<V: Serialize> Serialize for Pairs<V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Pairs<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Entries<V> {
            type Value = Pairs<V>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of names and values")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<V>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry::<String, V>()? {
                    entries.push(entry);
                    if entries.len() > PAIRS_MAX {
                        return Err(serde::de::Error::custom(format!("more than {PAIRS_MAX} entries")));
                    }
                }
                Pairs::new(entries).map_err(serde::de::Error::custom)
            }
        }
        deserializer.deserialize_map(Entries(PhantomData))
    }
}
