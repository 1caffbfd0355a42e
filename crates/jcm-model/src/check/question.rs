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
        for field in &QUESTION_FIELDS {
            if !field.fits(self.kind) {
                (field.clear)(&mut self);
            }
        }
        self
    }
}

/// A field that says what is asked, and the kinds of checks that ask it.
struct QuestionField {
    name: &'static str,
    kinds: &'static [CheckKind],
    is_set: fn(&Raw) -> bool,
    clear: fn(&mut Raw),
}

impl QuestionField {
    /// Without a kind nothing is asked, and what was written waits for one.
    fn fits(&self, kind: CheckKind) -> bool {
        kind == CheckKind::None || self.kinds.contains(&kind)
    }
}

const ASK_FOR_A_PAGE: &[CheckKind] = &[CheckKind::Http, CheckKind::Https];

const QUESTION_FIELDS: [QuestionField; 7] = [
    QuestionField {
        name: "method",
        kinds: ASK_FOR_A_PAGE,
        is_set: |raw| raw.method.is_some(),
        clear: |raw| raw.method = None,
    },
    QuestionField {
        name: "path",
        kinds: ASK_FOR_A_PAGE,
        is_set: |raw| raw.path.is_some(),
        clear: |raw| raw.path = None,
    },
    QuestionField {
        name: "host",
        kinds: &[CheckKind::Http, CheckKind::Https, CheckKind::Grpc],
        is_set: |raw| raw.host.is_some(),
        clear: |raw| raw.host = None,
    },
    QuestionField {
        name: "expect",
        kinds: ASK_FOR_A_PAGE,
        is_set: |raw| raw.expect.is_some(),
        clear: |raw| raw.expect = None,
    },
    QuestionField {
        name: "body_contains",
        kinds: ASK_FOR_A_PAGE,
        is_set: |raw| raw.body_contains.is_some(),
        clear: |raw| raw.body_contains = None,
    },
    QuestionField {
        name: "verify",
        kinds: &[CheckKind::Https],
        is_set: |raw| raw.verify.is_some(),
        clear: |raw| raw.verify = None,
    },
    QuestionField {
        name: "service",
        kinds: &[CheckKind::Grpc],
        is_set: |raw| raw.service.is_some(),
        clear: |raw| raw.service = None,
    },
];

/// Takes out of a policy as it would be after a patch what its new kind does not have, unless the patch itself says it:
/// whoever changes the kind of a check need not know what it asked before.
pub(crate) fn drop_left_over(written: &mut Map<String, Value>, patch: &Map<String, Value>) {
    let Some(kind) = patch.get("kind").and_then(|kind| CheckKind::deserialize(kind).ok()) else { return };
    let left_over = |field: &&QuestionField| !field.fits(kind) && !patch.contains_key(field.name);
    for field in QUESTION_FIELDS.iter().filter(left_over) {
        written.remove(field.name);
    }
}

pub(super) fn refuse_misplaced(raw: &Raw) -> Result<(), Invalid> {
    match QUESTION_FIELDS.iter().find(|field| (field.is_set)(raw) && !field.fits(raw.kind)) {
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
