//! The facade of 2015: the paths, shapes and codes that programs written for the first JCM know.
//!
//! Read in this order: `word`, `spec` and `shape` are its language; `ports`, `show` and `take` are the pure functions
//! between that and a definition with its verdicts; `clusters`, `nodes`, `system` and `poll` are its doors, `answer` is
//! what comes out of them. It holds no state of its own and does nothing that `/v1` cannot. `docs/classic.md` is its
//! description for users.

mod answer;
mod clusters;
mod nodes;
mod poll;
mod ports;
mod request;
mod shape;
mod show;
mod spec;
mod system;
mod take;
#[cfg(test)]
mod tests;
mod word;

use axum::routing::{any, get, post};
use axum::{Extension, Router};

use crate::app::App;

pub(crate) fn routes() -> Router<App> {
    let routes = [
        ("/c", get(clusters::get_all).post(clusters::post)),
        ("/c/list", get(clusters::list)),
        ("/c/{name}", get(clusters::get).delete(clusters::delete)),
        ("/c/online/{name}", post(clusters::online)),
        ("/c/node/{name}", post(nodes::post).delete(nodes::delete)),
        ("/c/node/online/{name}", post(nodes::online)),
        // These two took any method.
        ("/sys/status", any(system::status)),
        ("/sys/nscache", any(system::status_cache)),
        ("/sub", post(poll::post)),
    ];
    let mut router = Router::new();
    for (path, methods) in routes {
        // A slash at the end made no difference then.
        router = router.route(path, methods.clone()).route(&format!("{path}/"), methods);
    }
    router.layer(Extension(system::StatusCache::default()))
}
