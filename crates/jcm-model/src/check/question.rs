//! Which kinds of checks have which fields.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{CheckKind, Raw};
use crate::invalid::Invalid;

impl Raw {
    /// The same without the fields that checks of its kind do not have: what is left of a policy that was changed to
    /// another kind.
    #[must_use]
    pub fn without_misplaced(mut self) -> Self {
        for field in &FIELDS {
            if !field.fits(self.kind) {
                (field.clear)(&mut self);
            }
        }
        self
    }
}

/// A field of a policy, and the kinds of checks that have it.
struct Field {
    name: &'static str,
    kinds: &'static [CheckKind],
    is_set: fn(&Raw) -> bool,
    clear: fn(&mut Raw),
}

impl Field {
    /// Without a kind nothing is asked, and what was written waits for one.
    fn fits(&self, kind: CheckKind) -> bool {
        kind == CheckKind::None || self.kinds.contains(&kind)
    }
}

const ASK_FOR_A_PAGE: &[CheckKind] = &[CheckKind::Http, CheckKind::Https];

/// A lease is renewed, not asked for: how long a renewal lasts is for each node to say.
const PROBE: &[CheckKind] = &[CheckKind::Tcp, CheckKind::Http, CheckKind::Https, CheckKind::Grpc];

const FIELDS: [Field; 15] = [
    Field {
        name: "method",
        kinds: ASK_FOR_A_PAGE,
        is_set: |raw| raw.method.is_some(),
        clear: |raw| raw.method = None,
    },
    Field {
        name: "path",
        kinds: ASK_FOR_A_PAGE,
        is_set: |raw| raw.path.is_some(),
        clear: |raw| raw.path = None,
    },
    Field {
        name: "host",
        kinds: &[CheckKind::Http, CheckKind::Https, CheckKind::Grpc],
        is_set: |raw| raw.host.is_some(),
        clear: |raw| raw.host = None,
    },
    Field {
        name: "expect",
        kinds: ASK_FOR_A_PAGE,
        is_set: |raw| raw.expect.is_some(),
        clear: |raw| raw.expect = None,
    },
    Field {
        name: "body_contains",
        kinds: ASK_FOR_A_PAGE,
        is_set: |raw| raw.body_contains.is_some(),
        clear: |raw| raw.body_contains = None,
    },
    Field {
        name: "verify",
        kinds: &[CheckKind::Https],
        is_set: |raw| raw.verify.is_some(),
        clear: |raw| raw.verify = None,
    },
    Field {
        name: "service",
        kinds: &[CheckKind::Grpc],
        is_set: |raw| raw.service.is_some(),
        clear: |raw| raw.service = None,
    },
    Field { name: "port", kinds: PROBE, is_set: |raw| raw.port.is_some(), clear: |raw| raw.port = None },
    Field {
        name: "interval",
        kinds: PROBE,
        is_set: |raw| raw.interval.is_some(),
        clear: |raw| raw.interval = None,
    },
    Field {
        name: "timeout",
        kinds: PROBE,
        is_set: |raw| raw.timeout.is_some(),
        clear: |raw| raw.timeout = None,
    },
    Field { name: "fall", kinds: PROBE, is_set: |raw| raw.fall.is_some(), clear: |raw| raw.fall = None },
    Field { name: "rise", kinds: PROBE, is_set: |raw| raw.rise.is_some(), clear: |raw| raw.rise = None },
    Field {
        name: "window",
        kinds: PROBE,
        is_set: |raw| raw.window.is_some(),
        clear: |raw| raw.window = None,
    },
    Field {
        name: "degraded_at",
        kinds: PROBE,
        is_set: |raw| raw.degraded_at.is_some(),
        clear: |raw| raw.degraded_at = None,
    },
    Field { name: "fresh", kinds: PROBE, is_set: |raw| raw.fresh.is_some(), clear: |raw| raw.fresh = None },
];

/// Takes out of a policy as it would be after a patch what its new kind does not have, unless the patch itself says it:
/// whoever changes the kind of a check need not know what it asked before.
pub(crate) fn drop_left_over(written: &mut Map<String, Value>, patch: &Map<String, Value>) {
    let Some(kind) = patch.get("kind").and_then(|kind| CheckKind::deserialize(kind).ok()) else { return };
    let left_over = |field: &&Field| !field.fits(kind) && !patch.contains_key(field.name);
    for field in FIELDS.iter().filter(left_over) {
        written.remove(field.name);
    }
}

pub(super) fn refuse_misplaced(raw: &Raw) -> Result<(), Invalid> {
    match FIELDS.iter().find(|field| (field.is_set)(raw) && !field.fits(raw.kind)) {
        Some(field) => {
            let kinds: Vec<&str> = field.kinds.iter().map(|kind| kind.as_str()).collect();
            let reason = format!(
                "`{}` checks do not have it, only those of kind {}",
                raw.kind.as_str(),
                kinds.join(", ")
            );
            Err(Invalid::at(field.name, reason))
        }
        None => Ok(()),
    }
}
