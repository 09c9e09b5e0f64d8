//! `GET /v1/health`: whether the authority works, its store included.

use axum::Json;
use axum::extract::State;
use smqtt_core::api::Health;

use super::Shared;
use super::problem::Refused;

pub(super) async fn get(State(authority): Shared) -> Result<Json<Health>, Refused> {
    authority.health().await?;
    Ok(Json(Health { status: "ok".into(), time: authority.now() }))
}
