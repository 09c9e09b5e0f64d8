//! HTTPS: one file for each resource. Each parses, calls the authority, and prints; none decides.
//!
//! | request | who | answer |
//! |---|---|---|
//! | `GET /v1/health` | anyone | [`Health`](smqtt_core::api::Health) |
//! | `GET /v1/root` | anyone | the root certificate, PEM |
//! | `GET /v1/params` | anyone | `{"params"}` |
//! | `POST /v1/enrol` | a token | [`Enrolment`](smqtt_core::api::Enrolment) |
//! | `POST /v1/renew` | device, broker | [`Enrolment`](smqtt_core::api::Enrolment) |
//! | `GET /v1/keys` | device | [`Keys`](smqtt_core::api::Keys), or 304 |
//! | `GET /v1/bundle?after=N&wait=SECONDS` | device, broker, admin | the bundle, or 204 |
//! | `GET /v1/rules`, `PUT`, `DELETE ?filter=F` | all, admin, admin | rules, [`RuleSet`](smqtt_core::api::RuleSet) |
//! | `POST /v1/tokens` | admin | 201 [`NewToken`](smqtt_core::api::NewToken) |
//! | `GET /v1/devices?after=ID`, `GET /v1/devices/NAME-OR-ID` | broker, admin | [`Device`](smqtt_core::api::Device) |
//! | `POST /v1/devices/NAME-OR-ID/revoke` | admin | [`Revocation`](smqtt_core::api::Revocation) |
//! | `GET /v1/directory?after=REVISION` | broker, admin | [`Directory`](smqtt_core::api::Directory) |
//! | `POST /v1/epoch/rotate` | admin | [`Rotation`](smqtt_core::api::Rotation) |
//! | `GET /v1/audit?after=N` | admin | [`AuditRecord`](smqtt_core::api::AuditRecord)s |
//!
//! Every error is a [`Problem`](smqtt_core::api::Problem).

mod audit;
mod bundle;
mod devices;
mod directory;
mod enrol;
mod epoch;
mod extract;
mod health;
mod keys;
mod params;
mod problem;
mod renew;
mod root;
mod rules;
mod serve;
mod stall;
mod tls;
mod tokens;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};

use crate::authority::Authority;

pub use extract::BODY_BYTES_MAX;
pub use serve::serve;

type Shared = axum::extract::State<Arc<Authority>>;

fn router(authority: Arc<Authority>) -> Router {
    Router::new()
        .route("/v1/health", get(health::get))
        .route("/v1/root", get(root::get))
        .route("/v1/params", get(params::get))
        .route("/v1/enrol", post(enrol::post))
        .route("/v1/renew", post(renew::post))
        .route("/v1/keys", get(keys::get))
        .route("/v1/bundle", get(bundle::get))
        .route("/v1/rules", get(rules::get).put(rules::put).delete(rules::delete))
        .route("/v1/tokens", post(tokens::post))
        .route("/v1/devices", get(devices::list))
        .route("/v1/devices/{device}", get(devices::get))
        .route("/v1/devices/{device}/revoke", post(devices::revoke))
        .route("/v1/directory", get(directory::get))
        .route("/v1/epoch/rotate", post(epoch::rotate))
        .route("/v1/audit", get(audit::get))
        .fallback(problem::not_found)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .with_state(authority)
}
