//! `GET /v1/params`: public parameters, one for each suite.

use axum::Json;
use axum::extract::State;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::Shared;

pub(super) async fn get(State(authority): Shared) -> Json<Value> {
    let params: Vec<String> = authority.params().iter().map(|params| STANDARD.encode(params)).collect();
    Json(json!({ "params": params }))
}
