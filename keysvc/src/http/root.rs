//! `GET /v1/root`: the root certificate as PEM, both of them while one is exchanged. To be compared with a fingerprint from
//! elsewhere.

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;

use super::Shared;
use crate::pki::pem;

pub(super) async fn get(State(authority): Shared) -> impl IntoResponse {
    let roots: String = authority.roots().iter().map(|root| pem("CERTIFICATE", root)).collect();
    ([(header::CONTENT_TYPE, "application/x-pem-file")], roots)
}
