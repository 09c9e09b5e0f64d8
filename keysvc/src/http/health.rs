//! `GET /v1/health`: whether the authority works, its store included.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::Shared;
use super::problem::Refused;

pub(super) async fn get(State(authority): Shared) -> Result<Json<Value>, Refused> {
    authority.health().await?;
    Ok(Json(json!({ "status": "ok" })))
}
