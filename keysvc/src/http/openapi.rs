//! `GET /v1/openapi.json`: the API's description. A test makes it of the code and compares it with the file.

use axum::http::header;
use axum::response::IntoResponse;

const OPENAPI: &str = include_str!("../../../docs/openapi.json");

pub(super) async fn get() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI)
}
