//! `/v1/devices`: who enrolled, and what becomes of one. Lists come in pages; `Link: <...>; rel="next"` names the next.

use axum::Json as Answer;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use smqtt_core::api::{
    Device, DeviceChange, DeviceChanged, Reset, ResetRequest, Resumption, Revocation, Suspension,
};
use smqtt_core::identity::DeviceId;

use super::Shared;
use super::extract::{Asked, From, Json, Named};
use super::problem::Refused;
use crate::authority::DEVICES_PAGE_MAX;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    after: Option<String>,
}

pub(super) async fn list(
    State(authority): Shared,
    From(caller): From,
    Asked(page): Asked<Page>,
) -> Result<(HeaderMap, Answer<Vec<Device>>), Refused> {
    let after = page.after.map(|id| id.parse::<DeviceId>()).transpose().map_err(Refused::bad_request)?;
    let devices = authority.devices(&caller, after).await?;
    let mut headers = HeaderMap::new();
    if let Some(last) = devices.last().filter(|_| devices.len() == DEVICES_PAGE_MAX) {
        let link = format!("</v1/devices?after={}>; rel=\"next\"", last.id);
        headers.extend(link.parse().ok().map(|link| (header::LINK, link)));
    }
    Ok((headers, Answer(devices)))
}

pub(super) async fn get(
    State(authority): Shared,
    From(caller): From,
    Named(name_or_id): Named,
) -> Result<Answer<Device>, Refused> {
    Ok(Answer(authority.device(&caller, name_or_id).await?))
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
) -> Result<Answer<DeviceChanged>, Refused> {
    Ok(Answer(authority.change_device(&caller, name_or_id, change).await?))
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
