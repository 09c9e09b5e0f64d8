//! Enrolment tokens, and whoever used one or waits to.

use rusqlite::{OptionalExtension, Row, params};
use smqtt_core::attribute::Attributes;
use smqtt_core::identity::{DeviceId, Role};
use smqtt_core::policy::Policy;

use super::{Result, Tx, attributes, list, list_to_text, policy, role};

/// A token: everything but its secret.
#[derive(Clone, Debug)]
pub(crate) struct TokenRow {
    pub(crate) id: [u8; 16],
    pub(crate) secret_hash: [u8; 32],
    /// Of the one device, or what the names of several begin with.
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) attributes: Attributes,
    /// Of its key-policy keys.
    pub(crate) policy: Option<Policy>,
    pub(crate) hosts: Vec<String>,
    pub(crate) made: u64,
    pub(crate) expires: u64,
    /// How many devices can enrol with it.
    pub(crate) uses_max: u32,
    /// How many have, or wait to.
    pub(crate) used: u32,
    /// Whether a person has to approve.
    pub(crate) approval: bool,
    pub(crate) removed: Option<u64>,
}

/// Whoever presented a token.
#[derive(Clone, Debug)]
pub(crate) struct UseRow {
    pub(crate) token: [u8; 16],
    pub(crate) public_key: Vec<u8>,
    pub(crate) hpke_key: Vec<u8>,
    pub(crate) name: String,
    pub(crate) serial: Option<String>,
    pub(crate) address: String,
    pub(crate) asked: u64,
    /// What it became; `None` while it waits, and if it was denied.
    pub(crate) device: Option<DeviceId>,
    pub(crate) denied: Option<u64>,
}

const TOKEN: &str = "id, secret_hash, name, role, attributes, hosts, expires, policy, made, uses_max, used, \
                     approval, removed";
const USE: &str = "token, public_key, hpke_key, name, serial, address, asked, device, denied";

impl Tx<'_> {
    /// Adds a token of this maker, as the audit log has it.
    pub(crate) fn insert_token(&self, token: &TokenRow, maker: &str) -> Result<()> {
        let sql =
            format!("INSERT INTO tokens ({TOKEN}, maker) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)");
        self.connection.prepare_cached(&sql)?.execute(params![
            token.id,
            token.secret_hash,
            token.name,
            token.role.name(),
            token.attributes.encode(),
            list_to_text(&token.hosts),
            token.expires,
            token.policy.as_ref().map(Policy::encode),
            token.made,
            token.uses_max,
            token.used,
            token.approval,
            token.removed,
            maker,
        ])?;
        Ok(())
    }

    pub(crate) fn token(&self, id: &[u8; 16]) -> Result<Option<TokenRow>> {
        let sql = format!("SELECT {TOKEN} FROM tokens WHERE id = ?");
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut rows = statement.query([id])?;
        rows.next()?.map(token_row).transpose()
    }

    /// Tokens after identifier `after`, sorted by it.
    pub(crate) fn tokens(&self, after: &[u8], max: usize) -> Result<Vec<TokenRow>> {
        let sql = format!("SELECT {TOKEN} FROM tokens WHERE id > ? ORDER BY id LIMIT ?");
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut rows = statement.query(params![after, max])?;
        let mut tokens = Vec::new();
        while let Some(row) = rows.next()? {
            tokens.push(token_row(row)?);
        }
        Ok(tokens)
    }

    /// Takes back a token: nobody enrols with it any more. Whoever waits does so in vain.
    pub(crate) fn remove_token(&self, id: &[u8; 16], at: u64) -> Result<()> {
        let sql = "UPDATE tokens SET removed = ? WHERE id = ? AND removed IS NULL";
        self.connection.prepare_cached(sql)?.execute(params![at, id])?;
        Ok(())
    }

    /// Takes back the tokens for this name that nobody used, of one role or of any. How many there were.
    pub(crate) fn remove_unused_tokens(&self, name: &str, of: Option<Role>, at: u64) -> Result<usize> {
        let sql = "UPDATE tokens SET removed = ?1 WHERE name = ?2 AND used = 0 AND removed IS NULL \
                   AND expires > ?1 AND (?3 IS NULL OR role = ?3)";
        Ok(self.connection.prepare_cached(sql)?.execute(params![at, name, of.map(Role::name)])?)
    }

    /// Takes back the tokens that can still be used of this maker, and of the access tokens that it made. How many.
    pub(crate) fn remove_tokens_of(&self, maker: &str, at: u64) -> Result<usize> {
        let sql = "UPDATE tokens SET removed = ?1 \
                   WHERE used < uses_max AND removed IS NULL AND expires > ?1 AND (maker = ?2 OR maker IN \
                   (SELECT name || ' access ' || lower(hex(id)) FROM access WHERE creator = ?2))";
        Ok(self.connection.prepare_cached(sql)?.execute(params![at, maker])?)
    }

    /// Whether another token than this is one of a reset that can still be used: the name is kept for it.
    pub(crate) fn is_kept(&self, name: &str, from: &[u8; 16], now: u64) -> Result<bool> {
        let sql = "SELECT EXISTS (SELECT 1 FROM tokens JOIN devices ON devices.name = tokens.name \
                   WHERE tokens.name = ?1 AND tokens.id <> ?2 AND uses_max = 1 AND used = 0 AND removed IS NULL \
                   AND expires > ?3 AND devices.reset = tokens.made)";
        Ok(self.connection.prepare_cached(sql)?.query_row(params![name, from, now], |row| row.get(0))?)
    }

    /// Counts one more use of a token, if there is one left: the one place where that is decided.
    pub(crate) fn use_token(&self, id: &[u8; 16]) -> Result<bool> {
        let sql = "UPDATE tokens SET used = used + 1 WHERE id = ? AND used < uses_max AND removed IS NULL";
        Ok(self.connection.prepare_cached(sql)?.execute([id])? == 1)
    }

    // Serials

    pub(crate) fn insert_serial(&self, token: &[u8; 16], serial: &str) -> Result<()> {
        let sql = "INSERT INTO token_serials VALUES (?, ?)";
        self.connection.prepare_cached(sql)?.execute(params![token, serial])?;
        Ok(())
    }

    /// The serials of a token, sorted; none where any device may use it.
    pub(crate) fn serials(&self, token: &[u8; 16]) -> Result<Vec<String>> {
        let sql = "SELECT serial FROM token_serials WHERE token = ? ORDER BY serial";
        let mut statement = self.connection.prepare_cached(sql)?;
        let serials = statement.query_map([token], |row| row.get(0))?;
        Ok(serials.collect::<rusqlite::Result<_>>()?)
    }

    // Uses

    pub(crate) fn insert_use(&self, used: &UseRow) -> Result<()> {
        let sql = format!("INSERT INTO token_uses ({USE}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)");
        self.connection.prepare_cached(&sql)?.execute(params![
            used.token,
            used.public_key,
            used.hpke_key,
            used.name,
            used.serial,
            used.address,
            used.asked,
            used.device.map(|id| id.0),
            used.denied,
        ])?;
        Ok(())
    }

    /// What whoever has this signing key made of a token.
    pub(crate) fn token_use(&self, token: &[u8; 16], public_key: &[u8]) -> Result<Option<UseRow>> {
        self.one_use("token = ? AND public_key = ?", params![token, public_key])
    }

    /// What was made of a token with this serial, if that was not denied.
    pub(crate) fn use_of_serial(&self, token: &[u8; 16], serial: &str) -> Result<Option<UseRow>> {
        self.one_use("token = ? AND serial = ? AND denied IS NULL", params![token, serial])
    }

    /// Whoever waits, or else asked last, under this name with a token that wants approval.
    pub(crate) fn asked_approval(&self, name: &str) -> Result<Option<UseRow>> {
        let which = "name = ? AND token IN (SELECT id FROM tokens WHERE approval) \
                     ORDER BY device IS NULL AND denied IS NULL DESC, asked DESC LIMIT 1";
        self.one_use(which, params![name])
    }

    fn one_use(&self, which: &str, values: &[&dyn rusqlite::ToSql]) -> Result<Option<UseRow>> {
        let sql = format!("SELECT {USE} FROM token_uses WHERE {which}");
        Ok(self.connection.prepare_cached(&sql)?.query_row(values, use_row).optional()?)
    }

    /// Everything that was made of a token, the first use first.
    pub(crate) fn uses(&self, token: &[u8; 16]) -> Result<Vec<UseRow>> {
        let sql = format!("SELECT {USE} FROM token_uses WHERE token = ? ORDER BY asked, public_key");
        let mut statement = self.connection.prepare_cached(&sql)?;
        let uses = statement.query_map([token], use_row)?;
        Ok(uses.collect::<rusqlite::Result<_>>()?)
    }

    pub(crate) fn count_uses(&self, token: &[u8; 16]) -> Result<u32> {
        let sql = "SELECT count(*) FROM token_uses WHERE token = ?";
        Ok(self.connection.prepare_cached(sql)?.query_row([token], |row| row.get(0))?)
    }

    /// Those who wait for approval and can still have it, by name.
    pub(crate) fn waiting(&self, now: u64, max: usize) -> Result<Vec<UseRow>> {
        let sql = format!(
            "SELECT {USE} FROM token_uses WHERE device IS NULL AND denied IS NULL AND token IN \
             (SELECT id FROM tokens WHERE expires > ? AND removed IS NULL) ORDER BY name LIMIT ?"
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        let uses = statement.query_map(params![now, max], use_row)?;
        Ok(uses.collect::<rusqlite::Result<_>>()?)
    }

    /// Denies who waits under this name in vain, for a token that is over: the name is for others.
    pub(crate) fn deny_in_vain(&self, name: &str, now: u64) -> Result<()> {
        let sql = "UPDATE token_uses SET denied = ?2 WHERE name = ?1 AND device IS NULL AND denied IS NULL \
                   AND token IN (SELECT id FROM tokens WHERE expires <= ?2 OR removed IS NOT NULL)";
        self.connection.prepare_cached(sql)?.execute(params![name, now])?;
        Ok(())
    }

    /// Whether somebody waits under this name.
    pub(crate) fn is_waiting(&self, name: &str) -> Result<bool> {
        let which = "name = ? AND device IS NULL AND denied IS NULL";
        Ok(self.one_use(which, params![name])?.is_some())
    }

    /// Says what somebody who waited became.
    pub(crate) fn grant_use(&self, used: &UseRow, device: DeviceId) -> Result<()> {
        let sql = "UPDATE token_uses SET device = ? WHERE token = ? AND public_key = ?";
        self.connection.prepare_cached(sql)?.execute(params![device.0, used.token, used.public_key])?;
        Ok(())
    }

    /// Turns somebody who waited away; somebody else may use the token instead.
    pub(crate) fn deny_use(&self, used: &UseRow, at: u64) -> Result<()> {
        let sql = "UPDATE token_uses SET denied = ? WHERE token = ? AND public_key = ?";
        self.connection.prepare_cached(sql)?.execute(params![at, used.token, used.public_key])?;
        let sql = "UPDATE tokens SET used = used - 1 WHERE id = ?";
        self.connection.prepare_cached(sql)?.execute([used.token])?;
        Ok(())
    }
}

fn token_row(row: &Row<'_>) -> Result<TokenRow> {
    Ok(TokenRow {
        id: row.get(0)?,
        secret_hash: row.get(1)?,
        name: row.get(2)?,
        role: role(row, 3)?,
        attributes: attributes(row, 4)?,
        hosts: list(row, 5)?,
        expires: row.get(6)?,
        policy: policy(row, 7)?,
        made: row.get(8)?,
        uses_max: row.get(9)?,
        used: row.get(10)?,
        approval: row.get(11)?,
        removed: row.get(12)?,
    })
}

fn use_row(row: &Row<'_>) -> rusqlite::Result<UseRow> {
    Ok(UseRow {
        token: row.get(0)?,
        public_key: row.get(1)?,
        hpke_key: row.get(2)?,
        name: row.get(3)?,
        serial: row.get(4)?,
        address: row.get(5)?,
        asked: row.get(6)?,
        device: row.get::<_, Option<[u8; 16]>>(7)?.map(DeviceId),
        denied: row.get(8)?,
    })
}
