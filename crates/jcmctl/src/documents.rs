//! Files of definitions: YAML or JSON; one thing, a list, or several documents, each of which may be a list.
//!
//! What is read is validated here by the model's own rules, so that a mistake is shown with its line before anything
//! is sent. What was left out stays out.

mod reader;

use std::io::Read as _;
use std::path::{Path, PathBuf};

use jcm_model::{ClusterSpec, NodeSpec};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::documents::reader::{is_json, pathed, read_json, read_yaml};
use crate::failure::Failure;

/// Largest file. Servers take bodies up to 8 MiB; the same in YAML, with comments, may be longer.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Where definitions come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    /// As it is named in messages.
    name: String,
    text: String,
}

impl Source {
    /// Reads a file, or standard input for `-`.
    pub(crate) fn fetch(path: &Path) -> Result<Self, Failure> {
        let standard_input = path == Path::new("-");
        let name = if standard_input { "standard input".to_owned() } else { path.display().to_string() };
        let wrong = |what: String| Failure::usage(format!("{name}: {what}")).next("jcmctl export");
        let mut bytes = Vec::new();
        let read = if standard_input {
            std::io::stdin().lock().take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)
        } else {
            std::fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        };
        read.map_err(|error| wrong(error.to_string()))?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(wrong(format!("it is larger than {} MiB", FILE_BYTES_MAX >> 20)));
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            wrong(format!("it is not UTF-8 at byte {}", error.utf8_error().valid_up_to()))
        })?;
        Ok(Self { name, text })
    }

    /// All entries of all documents.
    fn entries<T: DeserializeOwned>(&self) -> Result<Vec<T>, Failure> {
        let wrong = |what: String| {
            Failure::usage(format!("{}:{what}", self.name)).next("jcmctl export (shows the form)")
        };
        let documents =
            if is_json(&self.text) { read_json::<T>(&self.text) } else { read_yaml::<T>(&self.text) };
        Ok(documents.map_err(wrong)?.into_iter().flat_map(|document| document.0).collect())
    }
}

/// Every cluster of every file. Each has a name, and no name stands there twice.
pub(crate) fn fetch_clusters(paths: &[PathBuf]) -> Result<Vec<ClusterSpec>, Failure> {
    let mut sources = Vec::new();
    for path in paths {
        sources.push(Source::fetch(path)?);
    }
    clusters(&sources)
}

fn clusters(sources: &[Source]) -> Result<Vec<ClusterSpec>, Failure> {
    let mut all: Vec<ClusterSpec> = Vec::new();
    let mut places = std::collections::HashMap::new();
    for source in sources {
        for (index, spec) in source.entries::<ClusterSpec>()?.into_iter().enumerate() {
            let place = format!("{}: cluster {}", source.name, index + 1);
            let Some(name) = spec.name.clone() else {
                return Err(Failure::usage(format!("{place}: missing field `name`"))
                    .next("add `name:` to it; jcmctl export shows the form"));
            };
            if let Some(first) = places.insert(name.clone(), place.clone()) {
                return Err(Failure::usage(format!("{place}: `{name}` stands there already ({first})"))
                    .next("leave one of them out"));
            }
            all.push(spec);
        }
    }
    if all.is_empty() {
        let names: Vec<&str> = sources.iter().map(|source| source.name.as_str()).collect();
        return Err(Failure::usage(format!("{}: there is no cluster in it", names.join(", ")))
            .next("jcmctl export (shows the form)"));
    }
    Ok(all)
}

/// The one cluster of a file; the name may be left out.
pub(crate) fn fetch_cluster(path: &Path) -> Result<ClusterSpec, Failure> {
    let source = Source::fetch(path)?;
    let mut entries = source.entries::<ClusterSpec>()?;
    match (entries.pop(), entries.len()) {
        (Some(spec), 0) => Ok(spec),
        (None, _) => {
            Err(Failure::usage(format!("{}: there is no cluster in it", source.name)).next("jcmctl export"))
        }
        (_, more) => Err(Failure::usage(format!("{}: {} clusters, one is expected", source.name, more + 1))
            .next("jcmctl apply -f FILE")),
    }
}

/// All nodes of a file.
pub(crate) fn fetch_nodes(path: &Path) -> Result<Vec<NodeSpec>, Failure> {
    let source = Source::fetch(path)?;
    let nodes = source.entries::<NodeSpec>()?;
    if nodes.is_empty() {
        return Err(
            Failure::usage(format!("{}: there is no node in it", source.name)).next("jcmctl node add --help")
        );
    }
    Ok(nodes)
}

/// Validates what flags have put together, with the same words as for files.
pub(crate) fn validated<T: DeserializeOwned>(value: Value) -> Result<T, Failure> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        Failure::usage(pathed(&path, &error.inner().to_string())).next("jcmctl help")
    })
}

/// The JSON of a cluster as it is sent under a name of its own place.
pub(crate) fn to_json(spec: &ClusterSpec) -> Value {
    serde_json::to_value(spec).expect("a valid cluster has a JSON form")
}

/// Pairs of a command line as a JSON object; a key that stands there twice keeps its last value.
pub(crate) fn object(pairs: &[(String, String)]) -> Value {
    let fields: Map<String, Value> = pairs.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect();
    Value::Object(fields)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    fn source(text: &str) -> Source {
        Source { name: "orders.yaml".into(), text: text.into() }
    }

    fn names(text: &str) -> Vec<String> {
        let specs = clusters(&[source(text)]).unwrap_or_else(|failure| panic!("{text}: {}", failure.what));
        specs.into_iter().map(|spec| String::from(spec.name.unwrap())).collect()
    }

    #[test]
    fn one_cluster_a_list_and_several_documents_are_read() {
        for (text, expected) in [
            ("name: a\nnodes: []\n", vec!["a"]),
            ("- name: a\n- name: b\n", vec!["a", "b"]),
            ("---\nname: a\n---\n- name: b\n- name: c\n---\n", vec!["a", "b", "c"]),
            ("{name: a}", vec!["a"]),
            ("[{name: a}, {name: b}]", vec!["a", "b"]),
            (r#"{"name":"a"}"#, vec!["a"]),
            ("{\"name\":\"a\"}\n{\"name\":\"b\"}\n", vec!["a", "b"]),
            (r#"[{"name":"a"},{"name":"b"}]"#, vec!["a", "b"]),
        ] {
            assert_eq!(names(text), expected, "{text}");
        }
    }

    #[test]
    fn a_mistake_is_shown_with_line_and_field() {
        for (text, part) in [
            (
                "name: a\nnodes:\n  - { address: 127.0.0.1, ports: { http: 1 } }\n  - { address: 127.0.0.1, ports: { http: 2 }, weight: 0 }\n",
                "orders.yaml:4:5: nodes[1]: weight: 0 is refused",
            ),
            ("name: a\ncolour: red\n", "orders.yaml:2:1: colour: unknown field `colour`"),
            ("name: a\ncheck: { kind: http, interval: 1 }\n", "check.interval: `1` is no duration"),
            ("---\nname: a\n---\nname: b\nonline: maybe\n", "orders.yaml:5:9: online: invalid boolean"),
            ("- name: a\n- name: b\n  colour: red\n", "orders.yaml:3:3: [1].colour: unknown field `colour`"),
            ("{\"name\":\"a\",\n\"colour\":1}", "orders.yaml:2:8: colour: unknown field `colour`"),
            ("{\"name\":\"a\",\n\"online\":1}", "orders.yaml:2:10: online: invalid type: integer `1`"),
            ("{\"name\":\"a\"", "orders.yaml:1:11: EOF"),
            ("name: a\nname: b\n", "orders.yaml:2:1: duplicate"),
            ("name: [", "orders.yaml:1:"),
            ("name: ../x\n", "orders.yaml:1:7: name: cluster name `../x` is refused"),
            ("nodes: []\n", "cluster 1: missing field `name`"),
            ("name: a\n---\nname: a\n", "cluster 2: `a` stands there already (orders.yaml: cluster 1)"),
            ("", "there is no cluster"),
            ("# nothing\n", "there is no cluster"),
            ("42", "an object, or a list of them"),
            ("hello", "an object, or a list of them"),
        ] {
            let failure = clusters(&[source(text)]).expect_err(text);
            assert!(failure.what.contains(part), "{text}\n  says {}\n  not  {part}", failure.what);
            assert_eq!(failure.exit, crate::failure::Exit::Usage);
            assert!(!failure.line().contains('\n'));
        }
    }

    #[test]
    fn what_was_left_out_stays_out_of_what_is_sent() {
        let specs =
            clusters(&[source("name: a\nnodes: [{address: 127.0.0.1, ports: {http: 1}}]\n")]).unwrap();
        assert_eq!(
            to_json(&specs[0]).to_string(),
            r#"{"name":"a","nodes":[{"address":"127.0.0.1","ports":{"http":1}}]}"#
        );
    }

    #[test]
    fn a_cluster_at_its_limit_is_read() {
        let mut text = String::from("name: a\nnodes:\n");
        for i in 0..jcm_model::cluster::NODES_MAX {
            let (high, low) = (i / 250, i % 250 + 1);
            writeln!(
                text,
                "  - {{ address: 127.1.{high}.{low}, ports: {{ http: 80, grpc: 90 }}, weight: 100, zone: z1, labels: {{ rack: a7 }} }}"
            )
            .expect("writing to a string cannot fail");
        }
        assert_eq!(clusters(&[source(&text)]).unwrap()[0].nodes.len(), jcm_model::cluster::NODES_MAX);
    }
}
