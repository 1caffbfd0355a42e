//! The session against servers that say anything in any order.

use jcm_model::Revision;
use jcm_proto::v1::watch_response as wire;
use proptest::prelude::*;

use super::super::*;
use super::bench::{Bench, delta, history, removed, store, unknown, view, welcome};

/// One thing that may happen; numbers are taken modulo what there is.
#[derive(Debug, Clone)]
enum Happening {
    View { store: u8, at: usize },
    Delta { from: usize, to: usize },
    Removed { store: u8, revision: u64 },
    Unknown,
    Welcome,
    Heartbeat,
    GoAway,
    Close,
    Wait { ms: u64 },
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        3 => (0..2_u8, 0..10_usize).prop_map(|(store, at)| Happening::View { store, at }),
        6 => (0..10_usize, 0..3_usize).prop_map(|(from, steps)| Happening::Delta { from, to: from + steps }),
        1 => (0..2_u8, 0..24_u64).prop_map(|(store, revision)| Happening::Removed { store, revision }),
        1 => Just(Happening::Unknown),
        4 => Just(Happening::Welcome),
        1 => Just(Happening::Heartbeat),
        1 => Just(Happening::GoAway),
        1 => Just(Happening::Close),
        3 => (0..9000_u64).prop_map(|ms| Happening::Wait { ms }),
    ]
}

proptest! {
    /// Whatever servers say on whatever links: what is held is always a true state of one store, goes forward only, and
    /// is emptied only by a removal of that store at no lower revision.
    #[test]
    fn what_is_held_goes_forward_and_is_emptied_on_purpose_only(
        happenings in prop::collection::vec((happening(), any::<bool>()), 1..120),
    ) {
        let states = history(12);
        let (mut bench, _) = Bench::following(3, None);
        for (happening, on_last) in happenings {
            let before = bench.held().clone();
            let link = if on_last { bench.open.keys().last() } else { bench.open.keys().next() }.copied();
            let mut removal = None;
            let mut replacement = None;
            match (happening, link) {
                (Happening::Wait { ms }, _) => bench.wait(Duration::from_millis(ms)),
                (_, None) => bench.wait(Duration::from_secs(1)),
                (Happening::View { store: of, at }, Some(link)) => {
                    replacement = Some(store(of));
                    bench.says(link, view(store(of), &states[at]));
                }
                (Happening::Delta { from, to }, Some(link)) => bench.says(link, delta(&states[from], &states[to])),
                (Happening::Removed { store: of, revision }, Some(link)) => {
                    removal = Some((store(of), Revision(revision)));
                    bench.says(link, removed(store(of), revision));
                }
                (Happening::Unknown, Some(link)) => bench.says(link, unknown()),
                (Happening::Welcome, Some(link)) => bench.says(link, welcome()),
                (Happening::Heartbeat, Some(link)) => bench.says(link, Answer::Heartbeat(wire::Heartbeat { stale: false })),
                (Happening::GoAway, Some(link)) => bench.says(link, Answer::GoAway(wire::GoAway::default())),
                (Happening::Close, Some(link)) => bench.closes(link),
            }

            let after = bench.held();
            if let Held::View { state, .. } = after {
                let truth = &states[usize::try_from(state.cluster().revision.0 / 2).unwrap()];
                prop_assert_eq!(state.cluster(), truth.cluster());
            }
            if before.store() == after.store() {
                prop_assert!(before.revision() <= after.revision(), "{:?} became {:?}", before, after);
            } else if before.store().is_some() {
                let by_removal = matches!(before, Held::Removed { .. }) && removal.is_some();
                prop_assert!(by_removal || replacement == after.store(), "{:?} became {:?}", before, after);
            }
            if matches!(before, Held::View { .. }) && !matches!(after, Held::View { .. }) {
                let (of, revision) = removal.expect("only a removal empties");
                prop_assert!(Some(of) == before.store() && Some(revision) >= before.revision());
            }
            if let (Held::View { store: one, state: old, .. }, Held::View { store: other, state: new, .. }) = (&before, after)
                && one == other
            {
                for (node, held) in old.nodes() {
                    let later = new.judged(&node.id);
                    let went_back = held.zip(later).is_some_and(|(held, later)| held.supersedes(later));
                    prop_assert!(!went_back, "a verdict of {} went back", node.id);
                }
            }
        }
    }
}
