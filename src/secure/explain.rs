//! What would be decided about a client and a topic, and why: the very functions that decide are asked, in their order.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use smqtt_core::identity::DeviceId;
use smqtt_core::rule::{Mode, Rule};
use smqtt_core::topic::{Filter, check_topic};

use super::admit::{no_certificate, unknown};
use super::directory::Peer;
use super::hook::SecurePublish;
use super::refused::Refused;
use super::rules::{plaintext, rule_at};
use crate::broker::{BrokerHandle, is_own_topic};
use crate::mqtt::{ReasonCode, SharedFilter};

/// What a client wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Publish on a topic.
    Publish,
    /// Subscribe to a filter.
    Subscribe,
}

impl Action {
    /// In one word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        [Self::Publish, Self::Subscribe].into_iter().find(|action| action.name() == name)
    }
}

/// An answer, and how it came about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The client, as asked.
    pub client: String,
    /// What it wants.
    pub action: Action,
    /// The topic or filter.
    pub topic: String,
    /// Whether it may.
    pub allowed: bool,
    /// Number of the bundle that says so.
    pub bundle: u64,
    /// What was looked at, in order; only the last can be against it.
    pub steps: Vec<Step>,
    /// How many connections the client has; `None` where no running broker was asked.
    pub connections: Option<usize>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Whether it is for it.
    pub holds: bool,
    /// What it is about, in a word; where it does not hold, the code that a client is refused with.
    pub code: String,
    /// Why, for people.
    pub text: String,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            writeln!(f, "{} {:<12} {}", if step.holds { "✓" } else { "✗" }, step.code, step.text)?;
        }
        if let Some(count) = self.connections {
            let text = match count {
                0 => "not at the moment".to_owned(),
                1 => "once at the moment".to_owned(),
                count => format!("{count} times at the moment"),
            };
            writeln!(f, "  {:<12} {text}", "connected")?;
        }
        write!(f, "{}", if self.allowed { "yes" } else { "no" })
    }
}

/// Steps so far; an error ends them.
struct Steps(Vec<Step>);

impl Steps {
    fn say(&mut self, code: &str, text: impl Into<String>) {
        self.0.push(Step { holds: true, code: code.into(), text: text.into() });
    }
}

impl SecurePublish {
    /// Whether the device that `client` belongs to (its name, its identifier, or a client id of its own) may do that, and why.
    /// A message is taken to be sealed as the rule says, by a current key.
    pub fn explain(&self, client: &str, action: Action, topic: &str) -> Explanation {
        let mut steps = Steps(Vec::new());
        let decided = self.explain_into(&mut steps, client, action, topic);
        let allowed = decided.is_ok();
        if let Err(refused) = decided {
            steps.0.push(Step { holds: false, code: refused.code.into(), text: refused.text });
        }
        Explanation {
            client: client.into(),
            action,
            topic: topic.into(),
            allowed,
            bundle: self.view.bundle().number,
            steps: steps.0,
            connections: None,
        }
    }

    /// [`explain`](Self::explain), and whether the client is connected to this broker: the device in all, or one client id.
    pub fn explain_here(
        &self,
        broker: &BrokerHandle,
        client: &str,
        action: Action,
        topic: &str,
    ) -> Explanation {
        let device = self.view.find(client).map(|(id, _)| id.to_string());
        let mut connections = 0;
        broker.look_at_sessions(|session| {
            let is_meant = session.client_id == client
                || device.as_deref().is_some_and(|id| session.identity.is_some_and(|own| own == id));
            connections += usize::from(is_meant && session.client.is_some());
        });
        Explanation { connections: Some(connections), ..self.explain(client, action, topic) }
    }

    fn explain_into(
        &self,
        steps: &mut Steps,
        client: &str,
        action: Action,
        topic: &str,
    ) -> Result<(), Refused> {
        if self.view.staleness() > self.max_staleness {
            return Err(Refused::stale(ReasonCode::ServerUnavailable));
        }
        steps.say("authority", format!("heard {} seconds ago", self.view.staleness()));
        let device = self.explain_device(steps, client)?;
        match action {
            Action::Publish => self.explain_publish(steps, device, topic),
            Action::Subscribe => self.explain_subscribe(steps, device, topic),
        }
    }

    fn explain_device(&self, steps: &mut Steps, client: &str) -> Result<Option<DeviceId>, Refused> {
        let stem = stem(client);
        let Some((id, peer)) = self.view.find(stem) else {
            return match self.anonymous {
                true => {
                    steps.say("device", format!("`{stem}` is no device: a client without a certificate"));
                    Ok(None)
                }
                false if self.view.has_directory() => Err(unknown()),
                false => Err(no_certificate()),
            };
        };
        if !peer.is_device() {
            let text = format!("`{}` is no device", peer.name);
            return Err(Refused::new("certificate", ReasonCode::NotAuthorized, text));
        }
        self.stands(id)?;
        steps.say("device", describe(&peer, id));
        match self.view.certificate_until(id) {
            Some(until) if until < self.view.now() => {
                let text = "its newest certificate has run out: it renews by itself when it next runs";
                return Err(Refused::new("certificate", ReasonCode::NotAuthorized, text));
            }
            Some(until) => {
                let days = until.saturating_sub(self.view.now()) / 86_400;
                steps.say("certificate", format!("its newest one holds for {days} more days"));
            }
            None => {}
        }
        Ok(Some(id))
    }

    fn explain_publish(
        &self,
        steps: &mut Steps,
        device: Option<DeviceId>,
        topic: &str,
    ) -> Result<(), Refused> {
        check_topic(topic).map_err(|error| {
            Refused::new("topic", ReasonCode::TopicNameInvalid, format!("`{topic}`: {error}"))
        })?;
        if is_own_topic(topic) {
            let text = "`$SYS/` is the broker's own";
            return Err(Refused::new("topic", ReasonCode::TopicNameInvalid, text));
        }
        let bundle = self.view.bundle();
        let Some(rule) = rule_at(&bundle, bundle.place_of(topic)) else {
            steps.say("rule", "no rule matches the topic: sealed or plain, whoever is connected");
            return Ok(());
        };
        steps.say("rule", format!("`{}` is the nearest, and is `{}`", rule.filter, rule.mode.name()));
        self.may_publish(device, Some(rule))?;
        steps.say("publishers", who(rule.publishers.as_ref()));
        let target = rule.target_for(topic).map_err(|error| {
            Refused::new("topic", ReasonCode::PayloadFormatInvalid, error.to_string())
                .by(rule.filter.as_str())
        })?;
        let wanted = target.map(|target| format!("sealed under `{target}`"));
        let wanted = wanted.unwrap_or_else(|| "sealed under what the publisher likes".into());
        match rule.mode {
            // Who shows no certificate seals nothing.
            Mode::Required if device.is_none() => return Err(plaintext(rule)),
            Mode::Required => steps.say("sealing", format!("{wanted}; anything else is refused")),
            Mode::Warn => steps.say("sealing", format!("{wanted}; anything else passes with a warning")),
            Mode::Open => steps.say("sealing", format!("plain, or {wanted}")),
        }
        Ok(())
    }

    fn explain_subscribe(
        &self,
        steps: &mut Steps,
        device: Option<DeviceId>,
        text: &str,
    ) -> Result<(), Refused> {
        let invalid = |what: String| Refused::new("filter", ReasonCode::TopicFilterInvalid, what);
        let (group, filter) = match SharedFilter::parse(text) {
            Some(Some(shared)) => (Some(shared.group), shared.filter),
            Some(None) => return Err(invalid(format!("`{text}` is no shared subscription"))),
            None => (None, text),
        };
        let filter: Filter = filter.parse().map_err(|error| invalid(format!("`{text}`: {error}")))?;
        self.may_subscribe(device, &filter, group.is_some())?;
        let bundle = self.view.bundle();
        let covering = bundle.rules.iter().filter(|rule| rule.filter.covers(&filter));
        match covering.min_by_key(|rule| rule.filter.precedence()) {
            Some(rule) => {
                steps.say("rule", format!("`{}` is the nearest that covers the filter", rule.filter));
                steps.say("subscribers", who(rule.subscribers.as_ref()));
            }
            None => steps.say("rule", "no rule covers the filter: whoever is connected"),
        }
        let kept_back =
            |rule: &&Rule| rule.filter.overlaps(&filter) && !self.satisfies(device, &rule.subscribers);
        for rule in bundle.rules.iter().filter(kept_back) {
            steps.say("left out", format!("messages by the rule `{}` are not delivered to it", rule.filter));
        }
        Ok(())
    }
}

/// The device that a client id of its own begins with.
pub(super) fn stem(client: &str) -> &str {
    client.split('/').next().unwrap_or_default()
}

fn describe(peer: &Arc<Peer>, id: DeviceId) -> String {
    format!("{} ({id}), {}", peer.name, peer.attributes)
}

fn who(policy: Option<&smqtt_core::policy::Policy>) -> String {
    policy
        .map_or_else(|| "whoever is connected".into(), |policy| format!("its attributes satisfy `{policy}`"))
}
