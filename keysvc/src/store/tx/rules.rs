//! Topic rules.

use rusqlite::params;

use super::{Result, Tx};

/// A rule, as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RuleRow {
    pub(crate) filter: String,
    pub(crate) mode: String,
    pub(crate) policy: Option<String>,
    pub(crate) labels: Option<String>,
    pub(crate) publishers: Option<String>,
    pub(crate) subscribers: Option<String>,
}

impl RuleRow {
    /// Bytes of its texts.
    pub(crate) fn length(&self) -> usize {
        let texts = [&self.policy, &self.labels, &self.publishers, &self.subscribers];
        let texts = texts.into_iter().flatten().chain([&self.filter, &self.mode]);
        texts.map(String::len).sum()
    }
}

impl Tx<'_> {
    pub(crate) fn rules(&self) -> Result<Vec<RuleRow>> {
        let sql = "SELECT filter, mode, policy, labels, publishers, subscribers FROM rules ORDER BY filter";
        let mut statement = self.connection.prepare_cached(sql)?;
        let rules = statement.query_map([], |row| {
            Ok(RuleRow {
                filter: row.get(0)?,
                mode: row.get(1)?,
                policy: row.get(2)?,
                labels: row.get(3)?,
                publishers: row.get(4)?,
                subscribers: row.get(5)?,
            })
        })?;
        Ok(rules.collect::<rusqlite::Result<_>>()?)
    }

    pub(crate) fn set_rule(&self, rule: &RuleRow) -> Result<()> {
        let sql = "INSERT OR REPLACE INTO rules (filter, mode, policy, labels, publishers, subscribers) \
                   VALUES (?, ?, ?, ?, ?, ?)";
        let RuleRow { filter, mode, policy, labels, publishers, subscribers } = rule;
        self.connection.prepare_cached(sql)?.execute(params![
            filter,
            mode,
            policy,
            labels,
            publishers,
            subscribers
        ])?;
        Ok(())
    }

    /// Whether there was one.
    pub(crate) fn delete_rule(&self, filter: &str) -> Result<bool> {
        Ok(self.connection.prepare_cached("DELETE FROM rules WHERE filter = ?")?.execute([filter])? > 0)
    }
}
