//! Every statement of MQTT 3.1.1 and 5.0 that concerns a server, held against our broker and others at the level of bytes.
//! `conformance/README.md` describes the scripts.
//!
//! `CONFORM=word` runs only tests with that word in their names; `CONFORM_BROKER=host:port` runs them against that broker.

mod common;
mod conformance {
    pub mod brokers;
    pub mod client;
    pub mod control;
    pub mod expect;
    pub mod fields;
    pub mod raw;
    pub mod run;
    pub mod script;
    pub mod sealed;
    pub mod suite;
    pub mod value;
    pub mod websocket;
    pub mod wire;
}

use conformance::brokers::{self, Ours};
use conformance::sealed::Sealed;
use conformance::suite::{self, Results};

#[test]
fn ours_over_tcp() {
    let ours = Ours::start(&[]);
    Results::of(&ours.over_tcp("ours over TCP")).all_pass();
}

#[test]
fn ours_with_a_disk() {
    let dir = common::TempDir::new();
    let data = dir.path().display().to_string();
    let ours = Ours::start(&["--data", &data]);
    let mut target = ours.over_tcp("ours with a disk");
    target.places.push("data");
    Results::of(&target).all_pass();
}

#[test]
fn ours_through_the_router() {
    let ours = Ours::start(&["--engine", "rumqttd"]);
    Results::of(&ours.over_tcp("ours through rumqttd's router")).all_pass();
}

#[test]
fn ours_over_tls() {
    let ours = Ours::start(&[]);
    Results::of(&ours.over_tls("ours over TLS")).all_pass();
}

#[test]
fn ours_over_websocket() {
    let ours = Ours::start(&[]);
    Results::of(&ours.over_websocket("ours over WebSocket")).all_pass();
}

#[test]
fn sealed_over_tls() {
    Results::of(&Sealed::start().over_tls()).all_pass();
}

#[test]
fn sealed_over_websocket() {
    Results::of(&Sealed::start().over_websocket()).all_pass();
}

/// What mosquitto fails is listed with an explanation, and nothing else is.
#[test]
fn mosquitto_as_a_control() {
    let Some((_mosquitto, target)) = brokers::mosquitto() else { return };
    Results::of(&target).are_those_of(include_str!("conformance/mosquitto-2.0.11.txt"));
}

/// Says what a broker somewhere passes and fails, and why.
#[test]
fn any_broker() {
    let Ok(address) = std::env::var("CONFORM_BROKER") else { return };
    Results::of(&brokers::at(&address)).are_told();
}

#[test]
fn scripts_can_be_read() {
    assert!(suite::tests().len() > 3);
}
