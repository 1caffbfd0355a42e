//! Faults that a build for tests carries on purpose, to show that the suites catch them.
//!
//! Only compiled with the feature `planted`, which no release has. Each is asked for by name in the environment
//! variable `JCM_PLANTED` of the process, several separated by commas.

use std::sync::LazyLock;

static PLANTED: LazyLock<Vec<String>> = LazyLock::new(|| {
    let names = std::env::var("JCM_PLANTED").unwrap_or_default();
    names.split(',').map(str::to_owned).collect()
});

/// Whether this process was asked to have the fault.
pub fn is_planted(fault: &str) -> bool {
    PLANTED.iter().any(|planted| planted == fault)
}

/// The same operations on another head, as if they had never been submitted.
pub(crate) fn renumbered(
    transaction: &jcm_proto::Transaction,
    head: jcm_model::Revision,
) -> jcm_proto::Transaction {
    let mut again = transaction.clone();
    let mut due = head;
    for entry in &mut again.entries {
        due = due.next();
        entry.change.revision = due;
    }
    again
}
