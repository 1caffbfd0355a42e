//! Nodes written straight into bytes, without the messages that they would be made of first.
//!
//! The bytes are those of [`v1::Node`](crate::v1::Node), which is how they are read. A store that rewrites thousands of
//! nodes for a few that changed spends its time here.

use std::net::IpAddr;

use jcm_model::Node;

/// Fields whose content says how long it is.
const LENGTH_DELIMITED: u8 = 2;
const VARINT: u8 = 0;

/// Appends a node as one entry of the repeated field `field` of the message that `out` holds. Fields above 15, which no
/// message with nodes has, would take a longer key.
pub fn put_node(out: &mut Vec<u8>, field: u8, node: &Node) {
    let written = node.attributes.written();
    put_message(out, field, |out| {
        put_text(out, 1, node.id.as_str());
        match node.address {
            IpAddr::V4(v4) => put_bytes(out, 2, &v4.octets()),
            IpAddr::V6(v6) => put_bytes(out, 2, &v6.octets()),
        }
        for (name, port) in node.ports.iter() {
            put_message(out, 3, |out| {
                put_text(out, 1, name);
                put_number(out, 2, u64::from(port.get()));
            });
        }
        put_optional(out, 4, written.weight.map(u64::from));
        put_optional(out, 5, written.priority.map(u64::from));
        if let Some(zone) = written.zone {
            put_bytes(out, 6, zone.as_bytes());
        }
        put_optional(out, 7, written.online.map(u64::from));
        put_optional(out, 8, written.draining.map(u64::from));
        for (key, value) in node.attributes.labels().iter() {
            put_message(out, 9, |out| {
                put_text(out, 1, key);
                put_text(out, 2, value);
            });
        }
        put_number(out, 10, node.birth.0);
        if let Some(lease) = node.attributes.lease() {
            put_message(out, 11, |out| {
                put_bytes(out, 1, lease.id().as_bytes());
                put_number(out, 2, u64::try_from(lease.ttl().as_millis()).unwrap_or(u64::MAX));
            });
        }
    });
}

/// A text that is left out when it is empty.
pub fn put_text(out: &mut Vec<u8>, field: u8, text: &str) {
    if !text.is_empty() {
        put_bytes(out, field, text.as_bytes());
    }
}

/// A number that is left out when it is 0.
pub fn put_number(out: &mut Vec<u8>, field: u8, number: u64) {
    put_optional(out, field, Some(number).filter(|number| *number != 0));
}

fn put_optional(out: &mut Vec<u8>, field: u8, number: Option<u64>) {
    if let Some(number) = number {
        put_key(out, field, VARINT);
        put_varint(out, number);
    }
}

fn put_bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    put_key(out, field, LENGTH_DELIMITED);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_message(out: &mut Vec<u8>, field: u8, body: impl FnOnce(&mut Vec<u8>)) {
    put_key(out, field, LENGTH_DELIMITED);
    let at = out.len();
    // Most are shorter than 128 bytes: one byte says how long.
    out.push(0);
    body(out);
    let length = out.len() - at - 1;
    if let Ok(short @ ..0x80) = u8::try_from(length) {
        out[at] = short;
        return;
    }
    let mut prefix = Vec::new();
    put_varint(&mut prefix, length as u64);
    out.splice(at..=at, prefix);
}

fn put_key(out: &mut Vec<u8>, field: u8, kind: u8) {
    debug_assert!(field < 16, "the key of field {field} takes more than a byte");
    out.push((field << 3) | kind);
}

fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(u8::try_from(number & 0x7f).unwrap_or(0) | 0x80);
        number >>= 7;
    }
    out.push(u8::try_from(number).unwrap_or(0));
}

#[cfg(test)]
mod tests {
    use jcm_model::{NodeSpec, Revision};
    use prost::Message;
    use serde_json::json;

    use super::*;
    use crate::v1;

    #[test]
    fn nodes_have_the_bytes_of_their_messages() {
        let long = "x".repeat(200);
        let labels: serde_json::Map<_, _> = (0..40).map(|n| (format!("key{n}"), json!(long))).collect();
        for (json, birth) in [
            (json!({ "address": "127.0.0.1", "ports": { "http": 1 } }), 0),
            (json!({ "address": "::1", "ports": { "http": 80, "grpc": 65535 }, "online": false }), 127),
            (json!({ "address": "10.0.0.1", "ports": { "a": 128 }, "weight": 1000, "priority": 0 }), 128),
            (
                json!({ "address": "10.0.0.1", "ports": { "a": 1 }, "zone": "z1", "labels": { "a": "" } }),
                1 << 40,
            ),
            (
                json!({ "address": "10.0.0.1", "ports": { "a": 1 }, "draining": true, "labels": labels }),
                u64::MAX,
            ),
            (
                json!({
                    "address": "10.0.0.1", "ports": { "a": 1 }, "online": false,
                    "lease": { "id": "0123456789abcdef".repeat(2), "ttl": "10s" },
                }),
                9,
            ),
            (json!({ "id": "i".repeat(128), "address": "10.0.0.1", "ports": { "a": 1 }, "online": true }), 7),
        ] {
            let spec: NodeSpec = serde_json::from_value(json).unwrap();
            let id = spec.id.clone().unwrap_or_else(|| spec.default_id());
            let NodeSpec { address, ports, attributes, .. } = spec;
            let node = Node { id, address, ports, attributes, birth: Revision(birth) };
            let chunk = v1::StoredChunk {
                cluster: "orders".to_owned(),
                chunk: 3,
                nodes: vec![v1::Node::from(&node); 2],
            };
            let mut out = Vec::new();
            put_text(&mut out, 1, &chunk.cluster);
            put_number(&mut out, 2, u64::from(chunk.chunk));
            for _ in 0..2 {
                put_node(&mut out, 3, &node);
            }
            assert_eq!(out, chunk.encode_to_vec(), "{node:?}");
        }
    }
}
