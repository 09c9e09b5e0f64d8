//! Reports of revocations: `GET /v1/devices/NAME-OR-ID/revocation?wait=SECONDS` for people, `GET /v1/revocations` and
//! `POST /v1/revocations/ID/done` for brokers.

use std::time::Duration;

use axum::Json as Answer;
use axum::extract::State;
use serde::Deserialize;
use smqtt_core::api::{RevocationDone, RevocationOrder, RevocationReport};
use smqtt_core::identity::DeviceId;

use super::Shared;
use super::extract::{Asked, From, Json, Named};
use super::problem::Refused;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Patience {
    #[serde(default)]
    wait: u64,
}

pub(super) async fn get(
    State(authority): Shared,
    From(caller): From,
    Named(name_or_id): Named,
    Asked(patience): Asked<Patience>,
) -> Result<Answer<RevocationReport>, Refused> {
    let wait = Duration::from_secs(patience.wait);
    Ok(Answer(authority.revocation(&caller, name_or_id, wait).await?))
}

pub(super) async fn list(
    State(authority): Shared,
    From(caller): From,
) -> Result<Answer<Vec<RevocationOrder>>, Refused> {
    Ok(Answer(authority.revocations_pending(&caller).await?))
}

pub(super) async fn done(
    State(authority): Shared,
    From(caller): From,
    Named(id): Named,
    Json(done): Json<RevocationDone>,
) -> Result<Answer<RevocationDone>, Refused> {
    let id: DeviceId = id.parse().map_err(Refused::bad_request)?;
    Ok(Answer(authority.report_revocation(&caller, id, done).await?))
}
