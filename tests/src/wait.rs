//! Waiting for a level: look again until it holds, and say what was seen last when it never does.

use std::fmt::Display;
use std::time::Duration;

use tokio::time::Instant;

/// Between two looks: short against every interval of JCM, long against the cost of a request.
const LOOK_PAUSE: Duration = Duration::from_millis(25);

/// Looks until `look` answers `Ok`, which is returned. `Err` carries what was there instead.
pub async fn eventually<T, S: Display>(
    deadline: Duration,
    what: &str,
    look: impl AsyncFnMut() -> Result<T, S>,
) -> T {
    try_eventually(deadline, what, look).await.unwrap_or_else(|missed| panic!("{missed}"))
}

/// The same for what may never come: the error says what was waited for, and what was there instead.
///
/// # Errors
///
/// Nothing within the deadline.
pub async fn try_eventually<T, S: Display>(
    deadline: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Result<T, S>,
) -> Result<T, String> {
    let end = Instant::now() + deadline;
    let mut last = String::from("nothing: the first look did not come back");
    while Instant::now() < end {
        match tokio::time::timeout_at(end, look()).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(seen)) => last = seen.to_string(),
            Err(_) => break,
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
    Err(format!("not within {deadline:?}: {what}\nlast seen: {last}"))
}
