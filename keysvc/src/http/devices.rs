//! `/v1/devices`: who enrolled, and what becomes of one. Lists come in pages; `Link: <...>; rel="next"` names the next.

use axum::Json as Answer;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde::Deserialize;
use smqtt_core::api::{
    Device, DeviceChange, DeviceChanged, Reset, ResetRequest, Resumption, Revocation, Suspension,
};

use super::Shared;
use super::extract::{Asked, From, Json, Named};
use super::page::{Part, Tagged};
use super::problem::Refused;
use crate::authority::etag;

pub(super) async fn list(
    State(authority): Shared,
    From(caller): From,
    Asked(part): Asked<Part>,
) -> Result<impl IntoResponse, Refused> {
    let listed = authority.devices(&caller, part.page()?).await?;
    Ok(part.answer("/v1/devices", listed))
}

pub(super) async fn get(
    State(authority): Shared,
    From(caller): From,
    Named(name_or_id): Named,
) -> Result<Tagged<Device>, Refused> {
    Ok(Tagged(authority.device(&caller, name_or_id).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wish {
    #[serde(default)]
    purge_retained: bool,
}

pub(super) async fn revoke(
    State(authority): Shared,
    From(caller): From,
    Named(name_or_id): Named,
    Asked(wish): Asked<Wish>,
) -> Result<Answer<Revocation>, Refused> {
    Ok(Answer(authority.revoke(&caller, name_or_id, wish.purge_retained).await?))
}

pub(super) async fn patch(
    State(authority): Shared,
    From(caller): From,
    Named(name_or_id): Named,
    Json(change): Json<DeviceChange>,
) -> Result<impl IntoResponse, Refused> {
    let changed: DeviceChanged = authority.change_device(&caller, name_or_id, change).await?;
    Ok(([(header::ETAG, etag(&changed.device))], Answer(changed)))
}

pub(super) async fn suspend(
    State(authority): Shared,
    From(caller): From,
    Named(name_or_id): Named,
) -> Result<Answer<Suspension>, Refused> {
    Ok(Answer(authority.suspend(&caller, name_or_id).await?))
}

pub(super) async fn resume(
    State(authority): Shared,
    From(caller): From,
    Named(name_or_id): Named,
) -> Result<Answer<Resumption>, Refused> {
    Ok(Answer(authority.resume(&caller, name_or_id).await?))
}

pub(super) async fn reset(
    State(authority): Shared,
    From(caller): From,
    Named(name_or_id): Named,
    Json(request): Json<ResetRequest>,
) -> Result<(StatusCode, Answer<Reset>), Refused> {
    Ok((StatusCode::CREATED, Answer(authority.reset(&caller, name_or_id, request).await?)))
}
