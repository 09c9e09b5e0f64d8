//! Who may subscribe.

use smqtt_core::rule::Rule;
use smqtt_core::topic::Filter;

use super::hook::SecurePublish;
use super::refused::Refused;
use super::session::Session;
use crate::broker::{Client, SubscribeRequest, Verdict};
use crate::mqtt::ReasonCode;

impl SecurePublish {
    /// Whether the rules let a client subscribe.
    pub(super) fn check_subscribe(
        &self,
        client: &Client,
        request: &SubscribeRequest<'_>,
    ) -> Result<Verdict, Refused> {
        let session = Session::of(client).ok_or_else(Refused::stranger)?;
        let Ok(filter) = request.filter.parse::<Filter>() else { return Ok(Verdict::Defer) };
        let bundle = self.view.bundle();
        let covering = bundle.rules.iter().filter(|rule| rule.filter.covers(&filter));
        let nearest = covering.min_by_key(|rule| rule.filter.precedence());
        // Of a wildcard's messages those that the client may not have are left out when they are delivered; but what a
        // member of a group may not have would then reach nobody.
        let nearer = |rule: &Rule| nearest.is_none_or(|n| rule.filter.precedence() < n.filter.precedence());
        let within = |rule: &&Rule| request.group.is_some() && rule.filter.overlaps(&filter) && nearer(rule);
        let mut asked = nearest.into_iter().chain(bundle.rules.iter().filter(within));
        match asked.find(|rule| !self.satisfies(session.device, &rule.subscribers)) {
            Some(rule) => {
                let text = format!("the rule `{}` does not let you subscribe", rule.filter);
                Err(Refused::new("not-allowed", ReasonCode::NotAuthorized, text))
            }
            None => Ok(Verdict::Allow),
        }
    }
}
