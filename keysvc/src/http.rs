//! HTTPS: one file for each resource. Each parses, calls the authority, and prints; none decides. Who may ask for what
//! is in the table of [`Operation`]s.
//!
//! Every error is a [`Problem`](smqtt_core::api::Problem).

mod access;
mod audit;
mod backup;
mod bundle;
mod devices;
mod directory;
mod enrol;
mod enrolments;
mod epoch;
mod est;
mod extract;
mod groups;
mod health;
mod keys;
mod openapi;
mod page;
mod params;
mod problem;
mod profiles;
mod renew;
mod request;
mod revocations;
mod root;
mod rotate;
mod rules;
mod serve;
mod stall;
mod tls;
mod tokens;

use std::sync::Arc;

use axum::Router;
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::{MethodFilter, MethodRouter, on};

use crate::authority::{Authority, Method, Operation};

pub use extract::BODY_BYTES_MAX;
pub use serve::serve;

type Shared = axum::extract::State<Arc<Authority>>;

/// A route for every operation.
fn router(authority: Arc<Authority>) -> Router {
    let routes = Operation::ALL
        .iter()
        .fold(Router::new(), |router, operation| router.route(operation.path(), named(*operation)));
    routes
        .fallback(problem::not_found)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .with_state(authority)
}

/// The route of an operation, whose answers say which it was.
fn named(operation: Operation) -> MethodRouter<Arc<Authority>> {
    handler(operation).layer(map_response(move |mut answer: Response| async move {
        answer.extensions_mut().insert(operation);
        answer
    }))
}

fn handler(operation: Operation) -> MethodRouter<Arc<Authority>> {
    let method = match operation.method() {
        Method::Get => MethodFilter::GET,
        Method::Put => MethodFilter::PUT,
        Method::Patch => MethodFilter::PATCH,
        Method::Post => MethodFilter::POST,
        Method::Delete => MethodFilter::DELETE,
    };
    match operation {
        Operation::Health => on(method, health::get),
        Operation::Root => on(method, root::get),
        Operation::Params => on(method, params::get),
        Operation::Describe => on(method, openapi::get),
        Operation::Enrol => on(method, enrol::post),
        Operation::Renew => on(method, renew::post),
        Operation::EstRoots => on(method, est::roots),
        Operation::EstEnrol => on(method, est::enrol),
        Operation::EstRenew => on(method, est::renew),
        Operation::FetchKeys => on(method, keys::get),
        Operation::ReadBundle => on(method, bundle::get),
        Operation::ListRules => on(method, rules::get),
        Operation::SetRule => on(method, rules::put),
        Operation::RemoveRule => on(method, rules::delete),
        Operation::MakeToken => on(method, tokens::post),
        Operation::ListTokens => on(method, tokens::list),
        Operation::ShowToken => on(method, tokens::get),
        Operation::RemoveToken => on(method, tokens::delete),
        Operation::ListApplicants => on(method, enrolments::list),
        Operation::Approve => on(method, enrolments::approve),
        Operation::Deny => on(method, enrolments::deny),
        Operation::ListDevices => on(method, devices::list),
        Operation::ShowDevice => on(method, devices::get),
        Operation::ChangeDevice => on(method, devices::patch),
        Operation::Suspend => on(method, devices::suspend),
        Operation::Resume => on(method, devices::resume),
        Operation::Reset => on(method, devices::reset),
        Operation::Revoke => on(method, devices::revoke),
        Operation::ListProfiles => on(method, profiles::list),
        Operation::ShowProfile => on(method, profiles::get),
        Operation::SetProfile => on(method, profiles::put),
        Operation::RemoveProfile => on(method, profiles::delete),
        Operation::ListGroups => on(method, groups::list),
        Operation::ShowGroup => on(method, groups::get),
        Operation::SetGroup => on(method, groups::put),
        Operation::RemoveGroup => on(method, groups::delete),
        Operation::ShowRevocation => on(method, revocations::get),
        Operation::ListRevocations => on(method, revocations::list),
        Operation::ReportRevocation => on(method, revocations::done),
        Operation::ReadDirectory => on(method, directory::get),
        Operation::BeginEpoch => on(method, epoch::rotate),
        Operation::MakeAccess => on(method, access::post),
        Operation::ListAccess => on(method, access::list),
        Operation::RemoveAccess => on(method, access::delete),
        Operation::BackUp => on(method, backup::post),
        Operation::RotateRootKey => on(method, rotate::root_key),
        Operation::RotateMaster => on(method, rotate::master),
        Operation::RotateCertificate => on(method, rotate::certificate),
        Operation::ListCheckpoints => on(method, audit::checkpoints),
        Operation::ReadAudit => on(method, audit::get),
    }
}
