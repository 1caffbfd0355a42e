//! Structs from objects only. What serde derives also takes a list of values in the order of the fields, and an empty
//! list for a struct of defaults: `[]` in the place of a cluster would silently empty it.

use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Decodes a struct from an object; `what` names it in the refusal of anything else.
pub fn decode<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
    what: &'static str,
) -> Result<T, D::Error> {
    struct Object<T>(&'static str, PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Object<T> {
        type Value = T;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "{} as an object", self.0)
        }
        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map))
        }
    }
    deserializer.deserialize_any(Object(what, PhantomData))
}

#[cfg(test)]
mod tests {
    use crate::{CheckSpec, ClusterSpec, NodeSpec};

    #[test]
    fn a_list_is_no_object() {
        for json in [
            "[]",
            r#"{"check":["http"]}"#,
            r#"{"protection":[0.5]}"#,
            r#"{"nodes":[["a","127.0.0.1",{"http":1}]]}"#,
            "null",
            "7",
        ] {
            let error = serde_json::from_str::<ClusterSpec>(json).expect_err(json).to_string();
            assert!(error.contains("as an object"), "{json}: {error}");
        }
        assert!(serde_json::from_str::<NodeSpec>("[]").is_err());
        assert!(serde_json::from_str::<CheckSpec>("[]").is_err());
    }
}
