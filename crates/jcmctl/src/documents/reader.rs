//! Text to documents, with line, column and field of a mistake.

use std::cell::RefCell;
use std::marker::PhantomData;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{DeserializeOwned, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Most parser events of a file: clusters at the server's limit have a few million.
const YAML_EVENTS_MAX: usize = 16_000_000;

/// One document: a thing, a list of things, or nothing.
pub(super) struct Document<T>(pub(super) Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Document<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Either<T> {
            type Value = Vec<T>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object, or a list of them")
            }
            fn visit_unit<E>(self) -> Result<Vec<T>, E> {
                Ok(Vec::new())
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Vec<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(|one| vec![one])
            }
            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Vec<T>, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list))
            }
        }
        FAILED_AT.with_borrow_mut(String::clear);
        let mut track = serde_path_to_error::Track::new();
        let tracked = serde_path_to_error::Deserializer::new(deserializer, &mut track);
        let read = tracked.deserialize_any(Either(PhantomData)).map(Document);
        if read.is_err() {
            FAILED_AT.set(track.path().to_string());
        }
        read
    }
}

thread_local! {
    /// The field that the last document failed at. The parsers drive `Deserialize` themselves for each document of a
    /// stream, and their own error, which knows line and column, has no room for it.
    static FAILED_AT: RefCell<String> = const { RefCell::new(String::new()) };
}

/// A message with the field in front, where there is one and it does not stand there already.
pub(super) fn pathed(path: &str, message: &str) -> String {
    if path.is_empty() || path == "." || path == "?" || message.starts_with(&format!("{path}:")) {
        message.to_owned()
    } else {
        format!("{path}: {message}")
    }
}

/// Whether the text is meant as JSON. JSON is almost YAML; its own parser knows its escapes and its mistakes better.
pub(super) fn is_json(text: &str) -> bool {
    let start = text.trim_start();
    let mut stream = serde_json::Deserializer::from_str(start).into_iter::<serde::de::IgnoredAny>();
    match start.as_bytes().first() {
        // `{ a: 1 }` is YAML: JSON's parser stops at the first key.
        Some(b'{') => start[1..].trim_start().starts_with(['"', '}']),
        Some(b'[') => !matches!(stream.next(), Some(Err(_)) | None),
        _ => false,
    }
}

pub(super) fn read_json<T: DeserializeOwned>(text: &str) -> Result<Vec<Document<T>>, String> {
    let documents: Result<Vec<Document<T>>, serde_json::Error> =
        serde_json::Deserializer::from_str(text).into_iter().collect();
    documents.map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let message = error.to_string();
        let message = message.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&message);
        let path = FAILED_AT.take();
        format!("{line}:{column}: {}", pathed(&path, message))
    })
}

pub(super) fn read_yaml<T: DeserializeOwned>(text: &str) -> Result<Vec<Document<T>>, String> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: YAML_EVENTS_MAX,
            max_nodes: YAML_EVENTS_MAX,
        },
    };
    serde_saphyr::from_multiple_with_options(text, options).map_err(|error| {
        let message = error.without_snippet().to_string();
        let path = FAILED_AT.take();
        match error.location() {
            None => format!(" {}", pathed(&path, &message)),
            Some(at) => {
                let place = format!(" at line {}, column {}", at.line(), at.column());
                let message = message.strip_suffix(&place).unwrap_or(&message);
                format!("{}:{}: {}", at.line(), at.column(), pathed(&path, message))
            }
        }
    })
}
