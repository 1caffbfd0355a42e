//! The poll of the client of 2015: what it holds on one side, what it shall hold on the other.
//!
//! Three habits of that client decide everything here. It sends traffic to nodes whose status is `NORMAL`, and looks at
//! nothing else. It takes a node back only when it gets the whole cluster: so a version differs whenever a verdict
//! does. And it never asks again for a cluster that it was told to remove: so that is said only where this server knows
//! it, and only to a client that has something to remove.

use std::collections::HashSet;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Json, Response};
use jcm_model::{ClusterName, Revision};

use super::answer::Failure;
use super::request::take;
use super::shape::{AnswerUnit, Object, Poll, PollAnswer, What};
use super::show::{self, Face};
use crate::app::App;
use crate::http::{BULK_BODY_BYTES_MAX, Problem};
use crate::views::{Answer, Published};

/// Most clusters of one poll: more than any program uses, few enough to look all of them up at once.
const UNITS_MAX: usize = 10_000;

/// What this server knows of a cluster.
#[derive(Clone, Copy)]
enum Known<'a> {
    /// As it is now.
    Published(&'a Published),
    /// It is there and taken out, or it is not there; as of the revision.
    Gone(Revision),
    /// Nothing that could be told.
    Nothing,
}

pub(super) async fn post(State(app): State<App>, body: Body) -> Result<Response, Failure> {
    let Object(poll): Object<Poll> = take(body, BULK_BODY_BYTES_MAX).await?;
    let units = poll.units.unwrap_or_default();
    if units.len() > UNITS_MAX {
        let detail = format!("units: {} clusters, the limit of one poll is {UNITS_MAX}", units.len());
        return Err(Problem::invalid(detail).into());
    }
    let mut seen = HashSet::new();
    let mut looked_up = Vec::with_capacity(units.len());
    for Object(unit) in &units {
        // One bad name must not keep the others from their news.
        let Some(name) = unit.name.as_deref().and_then(|name| ClusterName::parse(name).ok()) else {
            continue;
        };
        if seen.insert(name.clone()) {
            let version = unit.version.map_or(0, |version| version.0);
            let answer = app.views.get(&name);
            looked_up.push((name, version, answer));
        }
    }
    let units = looked_up
        .iter()
        .filter_map(|(name, version, answer)| {
            let what = what(known(&app, name, answer), *version)?;
            Some(AnswerUnit { name: name.as_str(), what })
        })
        .collect();
    Ok(Json(PollAnswer { units }).into_response())
}

fn known<'a>(app: &App, name: &ClusterName, answer: &'a Answer) -> Known<'a> {
    // Read after the view: what neither of them has is not there at the catalog's revision.
    let snapshot = app.catalog.get();
    match answer {
        Answer::Published(published) if published.state.cluster().header.online() => {
            Known::Published(published)
        }
        Answer::Published(published) => {
            Known::Gone(published.state.cluster().revision.max(snapshot.revision))
        }
        Answer::NotReady => match snapshot.clusters.get(name) {
            Some(cluster) if !cluster.header.online() => Known::Gone(snapshot.revision),
            Some(_) | None => Known::Nothing,
        },
        Answer::Absent if snapshot.clusters.contains_key(name) => Known::Nothing,
        Answer::Absent => Known::Gone(snapshot.revision),
    }
}

/// What a client with this version is told.
fn what(known: Known<'_>, version: i64) -> Option<What<'_>> {
    match known {
        Known::Published(published) => {
            let (state, routing) = (&published.state, &published.routing);
            // Worked out once for each publication: most polls find nothing new, and there are many of them.
            let current = show::version(published.token.revision, published.token.digest);
            Some(if current == version {
                What::Status { invalids: show::invalids(state, routing) }
            } else {
                What::Update { cluster: show::cluster(state, routing, Face::Routed) }
            })
        }
        // It has nothing to remove, and would never ask again.
        Known::Gone(_) if version <= 0 => None,
        // It has seen more than this server: what is gone here may be back there.
        Known::Gone(revision) if show::revision(version) > revision => None,
        Known::Gone(_) => Some(What::Remove),
        Known::Nothing => None,
    }
}
