//! Nodes as they are written on a command line: `127.0.0.1:8080`, `127.0.0.1:http=8080,grpc=9090`, `[::1]:8080`.

use serde_json::{Map, Value, json};

/// The JSON of a node, not yet validated beyond its punctuation: the model does that, with the same words as for files.
pub(crate) fn parse(text: &str, port_name: &str) -> Result<Value, String> {
    let refused = || {
        format!(
            "`{text}` is no node: write ADDRESS:PORT or ADDRESS:NAME=PORT,NAME=PORT, an IPv6 address in brackets"
        )
    };
    let (address, rest) = match text.strip_prefix('[') {
        Some(rest) => rest.split_once("]:").ok_or_else(refused)?,
        None => text.split_once(':').ok_or_else(refused)?,
    };
    // A second colon is an IPv6 address without brackets: which colon starts the port is anybody's guess.
    if address.is_empty() || rest.contains(':') {
        return Err(refused());
    }
    let mut ports = Map::new();
    for part in rest.split(',') {
        let (name, digits) = part.split_once('=').unwrap_or((port_name, part));
        let port: u32 = digits.parse().map_err(|_| refused())?;
        if ports.insert(name.to_owned(), json!(port)).is_some() {
            return Err(format!("`{text}`: the port name `{name}` stands there twice"));
        }
    }
    Ok(json!({ "address": address, "ports": ports }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_read_as_they_are_written() {
        let check =
            |text: &str, expected: Value| assert_eq!(parse(text, "http").unwrap(), expected, "{text}");
        check("127.0.0.1:80", json!({"address": "127.0.0.1", "ports": {"http": 80}}));
        check("127.0.0.1:web=80,grpc=90", json!({"address": "127.0.0.1", "ports": {"web": 80, "grpc": 90}}));
        check("[::1]:80", json!({"address": "::1", "ports": {"http": 80}}));
        for text in [
            "",
            "127.0.0.1",
            ":80",
            "::1:80",
            "127.0.0.1:",
            "127.0.0.1:x",
            "127.0.0.1:a=1,a=2",
            "[::1]80",
            "127.0.0.1:-1",
        ] {
            assert!(parse(text, "http").is_err(), "{text:?} was accepted");
        }
    }
}
