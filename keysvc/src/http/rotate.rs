//! `POST /v1/rotate/…`: new keys in the place of old ones.

use axum::Json as Answer;
use axum::extract::State;
use smqtt_core::api::{
    CertificateRotated, CertificateRotation, MasterRotated, MasterRotation, RootKeyRotated,
};

use super::Shared;
use super::extract::{From, Json};
use super::problem::Refused;

pub(super) async fn root_key(
    State(authority): Shared,
    From(caller): From,
) -> Result<Answer<RootKeyRotated>, Refused> {
    Ok(Answer(authority.rotate_root_key(&caller).await?))
}

pub(super) async fn master(
    State(authority): Shared,
    From(caller): From,
    Json(request): Json<MasterRotation>,
) -> Result<Answer<MasterRotated>, Refused> {
    Ok(Answer(authority.rotate_master(&caller, request).await?))
}

pub(super) async fn certificate(
    State(authority): Shared,
    From(caller): From,
    Json(request): Json<CertificateRotation>,
) -> Result<Answer<CertificateRotated>, Refused> {
    Ok(Answer(authority.rotate_certificate(&caller, request).await?))
}
