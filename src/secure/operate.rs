//! What whoever runs the broker is told on the admin listener.

use super::explain::{Action, stem};
use super::hook::SecurePublish;
use crate::admin::{Admin, Answer, Query};
use crate::broker::BrokerHandle;

impl SecurePublish {
    /// Has the admin listener answer `GET /explain?client=…&action=publish|subscribe&topic=…` with an
    /// [`Explanation`](super::Explanation), and be ready only while new clients are not refused for want of the authority.
    pub fn shown_on(&self, admin: Admin, broker: &BrokerHandle) -> Admin {
        let (hook, explaining, broker) = (self.clone(), self.clone(), broker.clone());
        admin
            .check("authority", move || hook.check_freshness())
            .route("/explain", move |query| explaining.answer(&broker, query))
    }

    /// Whether new clients may come in as far as the authority's word is concerned, or since when it was not heard.
    fn check_freshness(&self) -> Result<(), String> {
        let (seconds, max) = (self.view.staleness(), self.max_staleness);
        if seconds <= max {
            return Ok(());
        }
        Err(format!("not heard for {seconds} seconds, {max} are allowed: nobody is let in"))
    }

    fn answer(&self, broker: &BrokerHandle, query: &Query) -> Answer {
        let action = query.get("action").and_then(Action::from_name);
        match (query.get("client"), action, query.get("topic")) {
            (Some(client), Some(action), Some(topic)) => {
                if self.view.find(stem(client)).is_none() {
                    // Perhaps it enrolled a moment ago. This runs on a thread that may wait.
                    tokio::runtime::Handle::current().block_on(self.ask_directory());
                }
                Answer::json(200, &self.explain_here(broker, client, action, topic))
            }
            _ => Answer::refused(400, "say `client`, `action` (`publish` or `subscribe`) and `topic`"),
        }
    }
}
