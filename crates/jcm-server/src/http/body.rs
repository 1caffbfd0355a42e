//! Bodies of requests: read within a size and a time, decoded into valid values or refused by field.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;

use super::Problem;

/// Largest body of an ordinary request.
pub(crate) const BODY_BYTES_MAX: usize = 64 * 1024;

/// Largest body where many nodes may come at once: a cluster, bulk nodes, `apply`.
pub(crate) const BULK_BODY_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Total time for a body to arrive.
const BODY_DEADLINE: Duration = Duration::from_secs(30);

/// Deepest nesting of JSON: the deepest valid input has 5 levels.
const DEPTH_MAX: usize = 32;

/// Reads a body within its limit and deadline.
pub(crate) async fn read(body: Body, limit_bytes: usize) -> Result<Bytes, Problem> {
    let late = |_| {
        let detail = format!("the body did not arrive within {} s", BODY_DEADLINE.as_secs());
        Problem::new(StatusCode::REQUEST_TIMEOUT, "TIMEOUT", detail)
    };
    tokio::time::timeout(BODY_DEADLINE, collect(body, limit_bytes)).await.map_err(late)?
}

async fn collect(mut body: Body, limit_bytes: usize) -> Result<Bytes, Problem> {
    let mut collected = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| Problem::invalid(format!("the body could not be read: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if collected.len() + data.len() > limit_bytes {
            return Err(Problem::too_large(limit_bytes));
        }
        collected.extend_from_slice(&data);
    }
    Ok(collected.freeze())
}

/// Refuses a body that says it is something other than JSON. Nothing said is taken for JSON.
pub(crate) fn refuse_unless_json(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return Ok(());
    };
    let essence = value.to_str().unwrap_or("").split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    if essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json")) {
        return Ok(());
    }
    let detail = format!(
        "the body is {}, send `Content-Type: application/json`",
        jcm_model::invalid::quoted(&essence)
    );
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "MEDIA_TYPE", detail))
}

/// Decodes JSON; the refusal names the field and the place.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    refuse_if_deep(bytes)?;
    let mut decoder = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut decoder).map_err(|error| {
        let path = error.path().to_string();
        let reason = escaped(&error.into_inner().to_string());
        if path == "." {
            Problem::invalid(reason)
        } else {
            Problem::invalid(format!("{path}: {reason}")).with("field", path)
        }
    })?;
    decoder.end().map_err(|error| Problem::invalid(error.to_string()))?;
    Ok(value)
}

/// A decoder's message may quote input: nothing in it may forge a log line or a terminal's colours.
fn escaped(message: &str) -> String {
    const MESSAGE_CHARS_MAX: usize = 512;
    let plain = |c: char| {
        if c.is_control() { c.escape_default().to_string() } else { c.to_string() }
    };
    message.chars().take(MESSAGE_CHARS_MAX).map(plain).collect()
}

/// Looks at brackets only: the decoder recurses, and must not be led deeper than any valid input goes.
fn refuse_if_deep(bytes: &[u8]) -> Result<(), Problem> {
    let (mut depth, mut in_text, mut escape) = (0_usize, false, false);
    for (at, byte) in bytes.iter().enumerate() {
        match (in_text, *byte) {
            (true, _) if escape => escape = false,
            (true, b'\\') => escape = true,
            (_, b'"') => in_text = !in_text,
            (false, b'{' | b'[') => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return Err(Problem::invalid(format!(
                        "JSON nested deeper than {DEPTH_MAX} levels at byte {at}"
                    )));
                }
            }
            (false, b'}' | b']') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_counts_brackets_outside_of_text_only() {
        assert!(refuse_if_deep(&[b'['; 33]).is_err());
        assert!(refuse_if_deep(&[b'['; 32]).is_ok());
        let text = format!(r#"{{"a\"[":"{}"}}"#, "[".repeat(100));
        assert!(refuse_if_deep(text.as_bytes()).is_ok());
    }

    #[test]
    fn a_refusal_names_the_field() {
        let json = br#"{"nodes":[{"address":"127.0.0.1","ports":{"http":80},"weight":0}]}"#;
        let problem = decode::<jcm_model::ClusterSpec>(json).unwrap_err();
        assert!(
            problem.detail().contains("nodes[0]") && problem.detail().contains("weight"),
            "{}",
            problem.detail()
        );
    }
}
