//! `GET /v1/params`: public parameters, one for each suite.

use axum::Json;
use axum::extract::State;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use smqtt_core::api::Params;

use super::Shared;

pub(super) async fn get(State(authority): Shared) -> Json<Params> {
    Json(Params { params: authority.params().iter().map(|params| STANDARD.encode(params)).collect() })
}
