//! Who may subscribe.

use smqtt_core::topic::Filter;

use super::hook::SecurePublish;
use super::refused::Refused;
use super::session::Session;
use crate::broker::{Client, SubscribeRequest, Verdict};

impl SecurePublish {
    /// Whether the rules let a client subscribe.
    pub(super) fn check_subscribe(
        &self,
        client: &Client,
        request: &SubscribeRequest<'_>,
    ) -> Result<Verdict, Refused> {
        let session = Session::of(client).ok_or_else(Refused::stranger)?;
        let Ok(filter) = request.filter.parse::<Filter>() else { return Ok(Verdict::Defer) };
        self.may_subscribe(session.device, &filter, request.group.is_some())?;
        Ok(Verdict::Allow)
    }
}
