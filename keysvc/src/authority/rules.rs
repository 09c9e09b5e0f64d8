//! Topic rules: set and removed by administrators, carried by the bundle.

use std::collections::BTreeSet;
use std::sync::Arc;

use smqtt_core::api;
use smqtt_core::attribute::{Attribute, Attributes, Value};
use smqtt_core::policy::{Labelling, Policy, Template};
use smqtt_core::rule::{Mode, RULES_MAX, Rule, RuleError};

use super::tokens::policy_error;
use super::{Authority, Caller, Operation};
use crate::error::Error;
use crate::store::{RuleRow, StoreError, Tx};

/// Most bytes of a rule's filter.
const FILTER_BYTES_MAX: usize = 1024;
/// Most bytes of all rules, as the API writes them. In a bundle they are up to twice that, so that whatever the rules there is room
/// for revocations.
const RULES_BYTES_MAX: usize = 1 << 20;
/// Stands for a topic level while looking at a template.
const ANY_LEVEL: &str = "any level";

impl Authority {
    /// All rules. For whoever enrolled: the bundle carries them anyway.
    ///
    /// # Errors
    /// Not allowed, or the store failed.
    pub async fn rules(&self, caller: &Caller) -> Result<Vec<api::Rule>, Error> {
        self.authorise(caller, Operation::ListRules).await?;
        self.store.read(|tx| Ok(shown(tx)?)).await
    }

    /// Sets the rule of its filter. For administrators.
    ///
    /// # Errors
    /// Not allowed, the rule makes no sense, or the store failed.
    pub async fn set_rule(self: &Arc<Self>, caller: &Caller, rule: api::Rule) -> Result<api::RuleSet, Error> {
        let admin = self.authorise(caller, Operation::SetRule).await?;
        let rule = parse(&rule)?;
        let (this, now, expected) = (self.clone(), self.now(), caller.expected.clone());
        self.store
            .write(move |tx| {
                expected.check(Some(&shown(tx)?))?;
                let mut warnings = warnings(&rule, &tx.attributes_in_use(now)?);
                if let Some(labels) = &rule.labels {
                    warnings.extend(label_warnings(labels, &tx.policies_in_use(now)?));
                }
                let bundle = match this.put_rule(tx, &rule, &admin.actor)? {
                    true => this.publish(tx, now)?,
                    false => tx.counter("bundle")?,
                };
                Ok(api::RuleSet { bundle, warnings })
            })
            .await
    }

    /// Sets a rule in this transaction. Says whether it was another one before; then the bundle is to be published.
    pub(super) fn put_rule(&self, tx: &Tx<'_>, rule: &Rule, actor: &str) -> Result<bool, Error> {
        let (row, rows) = (row(rule), tx.rules()?);
        if rows.contains(&row) {
            return Ok(false);
        }
        if rows.len() >= RULES_MAX && !rows.iter().any(|other| other.filter == row.filter) {
            return Err(Error::Full { what: "rules", max: RULES_MAX });
        }
        let others =
            rows.iter().filter(|other| other.filter != row.filter).map(RuleRow::length).sum::<usize>();
        if others + row.length() > RULES_BYTES_MAX {
            return Err(Error::Full { what: "bytes of rules", max: RULES_BYTES_MAX });
        }
        tx.set_rule(&row)?;
        let under = match (&row.policy, &row.labels) {
            (Some(policy), _) => policy.clone(),
            (None, Some(labels)) => format!("labels {labels}"),
            (None, None) => "no policy".to_owned(),
        };
        self.audit(tx, actor, "set-rule", &format!("{} {}: {under}", row.filter, row.mode))?;
        tracing::info!(filter = row.filter, mode = row.mode, "set a rule");
        Ok(true)
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
        let admin = self.authorise(caller, Operation::RemoveRule).await?;
        let (this, now, expected) = (self.clone(), self.now(), caller.expected.clone());
        self.store
            .write(move |tx| {
                expected.check(Some(&shown(tx)?))?;
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

/// The rules as the API shows them.
fn shown(tx: &Tx<'_>) -> Result<Vec<api::Rule>, StoreError> {
    Ok(tx.rules()?.into_iter().map(api_rule).collect())
}

/// The rules in the store, parsed.
pub(super) fn load(tx: &Tx<'_>) -> Result<Vec<Rule>, StoreError> {
    let parsed = |row: RuleRow| parse(&api_rule(row)).map_err(|_| StoreError::Corrupt("rules"));
    tx.rules()?.into_iter().map(parsed).collect()
}

pub(super) fn parse(rule: &api::Rule) -> Result<Rule, Error> {
    if rule.filter.len() > FILTER_BYTES_MAX {
        return Err(Error::invalid(
            "filter",
            format!("a rule's filter has at most {FILTER_BYTES_MAX} bytes"),
        ));
    }
    let policy = |key: &str, text: &Option<String>| {
        let parsed = text.as_deref().map(Policy::parse).transpose();
        parsed.map_err(|error| policy_error(key, &error))
    };
    let template = rule.policy.as_deref().map(Template::parse).transpose();
    let labels = rule.labels.as_deref().map(Labelling::parse).transpose();
    let parsed = Rule {
        filter: rule.filter.parse().map_err(|error| Error::invalid("filter", error))?,
        mode: Mode::from_name(&rule.mode).ok_or_else(|| {
            let detail = format!("there is no mode `{}`", rule.mode);
            Error::invalid("mode", detail).with_hint("it is `open`, `warn` or `required`")
        })?,
        policy: template.map_err(|error| policy_error("policy", &error))?,
        labels: labels.map_err(|error| policy_error("labels", &error))?,
        publishers: policy("publishers", &rule.publishers)?,
        subscribers: policy("subscribers", &rule.subscribers)?,
    };
    match parsed.check() {
        Ok(()) => Ok(parsed),
        Err(RuleError::Labels(error)) => {
            let invalid = Error::invalid("rule", format!("labels: {error}"));
            Err(invalid.with_hint(error.hint().unwrap_or("name fewer labels")))
        }
        Err(error) => Err(Error::invalid("rule", error)),
    }
}

fn row(rule: &Rule) -> RuleRow {
    RuleRow {
        filter: rule.filter.to_string(),
        mode: rule.mode.name().to_owned(),
        policy: rule.policy.as_ref().map(ToString::to_string),
        labels: rule.labels.as_ref().map(ToString::to_string),
        publishers: rule.publishers.as_ref().map(ToString::to_string),
        subscribers: rule.subscribers.as_ref().map(ToString::to_string),
    }
}

fn api_rule(row: RuleRow) -> api::Rule {
    let RuleRow { filter, mode, policy, labels, publishers, subscribers } = row;
    api::Rule { filter, mode, policy, labels, publishers, subscribers }
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

/// The same for labels: those that the policy of no key asks for, and labels that together open for no key.
fn label_warnings(labels: &Labelling, in_use: &[Policy]) -> Vec<String> {
    let asked = |attribute: &Attribute| {
        in_use.iter().any(|policy| {
            let compared = matches!(attribute.value(), Value::Int(_)) && policy.compares(attribute.name());
            compared || policy.attributes().contains(attribute)
        })
    };
    let unasked = labels.attributes().filter(|attribute| !asked(attribute));
    let mut warnings: BTreeSet<String> =
        unasked.map(|attribute| format!("labels: no key asks for `{attribute}`")).collect();
    for name in labels.placeholder_names() {
        if !in_use.iter().any(|policy| policy.names().contains(name)) {
            warnings.insert(format!("labels: no key asks for an attribute `{name}`"));
        }
    }
    let whole = labels.instantiate(&[]).ok();
    if warnings.is_empty() && whole.is_some_and(|whole| !in_use.iter().any(|p| p.satisfied_by(&whole))) {
        warnings.insert(format!("labels: the policy of no key holds for `{labels}`"));
    }
    warnings.into_iter().collect()
}
