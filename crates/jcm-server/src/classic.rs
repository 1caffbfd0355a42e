//! The facade of 2015.

use axum::Router;

use crate::http::App;

pub(crate) fn routes() -> Router<App> {
    Router::new()
}
