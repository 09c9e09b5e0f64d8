//! Topic rules: set and removed by administrators, carried by the bundle.

use std::collections::BTreeSet;
use std::sync::Arc;

use smqtt_core::api;
use smqtt_core::attribute::{Attributes, Value};
use smqtt_core::identity::Role;
use smqtt_core::policy::{ParseError, Policy, Template};
use smqtt_core::rule::{Mode, RULES_MAX, Rule};

use super::{Authority, Caller};
use crate::error::Error;
use crate::store::{RuleRow, StoreError, Tx};

/// Most bytes of a rule's filter.
const FILTER_BYTES_MAX: usize = 1024;
/// Stands for a topic level while looking at a template.
const ANY_LEVEL: &str = "any level";

impl Authority {
    /// All rules. For whoever enrolled: the bundle carries them anyway.
    ///
    /// # Errors
    /// Not allowed, or the store failed.
    pub async fn rules(&self, caller: &Caller) -> Result<Vec<api::Rule>, Error> {
        self.authorise(caller, &[Role::Device, Role::Broker, Role::Admin], "list rules").await?;
        let rows = self.store.read(|tx| Ok(tx.rules()?)).await?;
        Ok(rows.into_iter().map(api_rule).collect())
    }

    /// Sets the rule of its filter. For administrators.
    ///
    /// # Errors
    /// Not allowed, the rule makes no sense, or the store failed.
    pub async fn set_rule(self: &Arc<Self>, caller: &Caller, rule: api::Rule) -> Result<api::RuleSet, Error> {
        let admin = self.authorise(caller, &[Role::Admin], "set a rule").await?;
        let rule = parse(&rule)?;
        let (this, now) = (self.clone(), self.now());
        self.store
            .write(move |tx| {
                let row = row(&rule);
                let rows = tx.rules()?;
                let warnings = warnings(&rule, &tx.attributes_in_use(now)?);
                if rows.contains(&row) {
                    return Ok(api::RuleSet { bundle: tx.counter("bundle")?, warnings });
                }
                if rows.len() >= RULES_MAX && !rows.iter().any(|other| other.filter == row.filter) {
                    return Err(Error::Full { what: "rules", max: RULES_MAX });
                }
                tx.set_rule(&row)?;
                let bundle = this.publish(tx, now)?;
                let policy = row.policy.as_deref().unwrap_or("no policy");
                let subject = format!("{} {}: {policy}", row.filter, row.mode);
                this.audit(tx, &admin.actor, "set-rule", &subject)?;
                tracing::info!(filter = row.filter, mode = row.mode, bundle, "set a rule");
                Ok(api::RuleSet { bundle, warnings })
            })
            .await
    }

    /// Removes the rule of a filter. For administrators.
    ///
    /// # Errors
    /// Not allowed, no such rule, or the store failed.
    pub async fn delete_rule(
        self: &Arc<Self>,
        caller: &Caller,
        filter: String,
    ) -> Result<api::RuleSet, Error> {
        let admin = self.authorise(caller, &[Role::Admin], "remove a rule").await?;
        let (this, now) = (self.clone(), self.now());
        self.store
            .write(move |tx| {
                if !tx.delete_rule(&filter)? {
                    return Err(Error::NoSuchRule { filter: filter.chars().take(256).collect() });
                }
                let bundle = this.publish(tx, now)?;
                this.audit(tx, &admin.actor, "remove-rule", &filter)?;
                tracing::info!(filter, bundle, "removed a rule");
                Ok(api::RuleSet { bundle, warnings: Vec::new() })
            })
            .await
    }
}

/// The rules in the store, parsed.
pub(super) fn load(tx: &Tx<'_>) -> Result<Vec<Rule>, StoreError> {
    let parsed = |row: RuleRow| parse(&api_rule(row)).map_err(|_| StoreError::Corrupt("rules"));
    tx.rules()?.into_iter().map(parsed).collect()
}

fn parse(rule: &api::Rule) -> Result<Rule, Error> {
    if rule.filter.len() > FILTER_BYTES_MAX {
        return Err(Error::invalid(
            "filter",
            format!("a rule's filter has at most {FILTER_BYTES_MAX} bytes"),
        ));
    }
    let invalid = |key: &str, error: ParseError| {
        let detail = format!("{key}: {error} at column {}", error.column());
        let hint = error.hint();
        match hint {
            Some(hint) => Error::invalid("policy", detail).with_hint(hint),
            None => Error::invalid("policy", detail),
        }
    };
    let policy = |key: &str, text: &Option<String>| {
        let parsed = text.as_deref().map(Policy::parse).transpose();
        parsed.map_err(|error| invalid(key, error))
    };
    let template = rule.policy.as_deref().map(Template::parse).transpose();
    let parsed = Rule {
        filter: rule.filter.parse().map_err(|error| Error::invalid("filter", error))?,
        mode: Mode::from_name(&rule.mode).ok_or_else(|| {
            let detail = format!("there is no mode `{}`", rule.mode);
            Error::invalid("mode", detail).with_hint("it is `open`, `warn` or `required`")
        })?,
        policy: template.map_err(|error| invalid("policy", error))?,
        publishers: policy("publishers", &rule.publishers)?,
        subscribers: policy("subscribers", &rule.subscribers)?,
    };
    parsed.check().map_err(|error| Error::invalid("rule", error))?;
    Ok(parsed)
}

fn row(rule: &Rule) -> RuleRow {
    RuleRow {
        filter: rule.filter.to_string(),
        mode: rule.mode.name().to_owned(),
        policy: rule.policy.as_ref().map(ToString::to_string),
        publishers: rule.publishers.as_ref().map(ToString::to_string),
        subscribers: rule.subscribers.as_ref().map(ToString::to_string),
    }
}

fn api_rule(row: RuleRow) -> api::Rule {
    let RuleRow { filter, mode, policy, publishers, subscribers } = row;
    api::Rule { filter, mode, policy, publishers, subscribers }
}

/// What is allowed but perhaps not meant: attributes that no device has and no open token will give.
fn warnings(rule: &Rule, in_use: &[Attributes]) -> Vec<String> {
    let template = rule.policy.as_ref().and_then(|template| {
        let levels = vec![ANY_LEVEL; template.max_placeholder() as usize];
        template.instantiate(&levels).ok()
    });
    let policies =
        [("policy", &template), ("publishers", &rule.publishers), ("subscribers", &rule.subscribers)];
    let mut warnings = BTreeSet::new();
    for (key, policy) in policies {
        let Some(policy) = policy else { continue };
        let mut named = BTreeSet::new();
        for attribute in policy.attributes() {
            named.insert(attribute.name());
            let any_level = *attribute.value() == Value::Text(ANY_LEVEL.to_owned());
            let had = match any_level {
                true => in_use.iter().any(|set| set.named(attribute.name()).next().is_some()),
                false => in_use.iter().any(|set| set.contains(attribute)),
            };
            if !had && any_level {
                warnings.insert(format!("{key}: no device has an attribute `{}`", attribute.name()));
            } else if !had {
                warnings.insert(format!("{key}: no device has `{attribute}`"));
            }
        }
        // What is left is compared.
        for name in policy.names().into_iter().filter(|name| !named.contains(name)) {
            if !in_use.iter().any(|set| set.int(name).is_some()) {
                warnings.insert(format!("{key}: no device has an integer `{name}`"));
            }
        }
    }
    warnings.into_iter().collect()
}
