//! Enrolment tokens: leave for one device to enrol. The secret is told once and kept as its SHA-256.

use std::sync::Arc;

use smqtt_core::api::{NewToken, TokenRequest};
use smqtt_core::attribute::{AttributeError, Attributes};
use smqtt_core::crypto::{random, sha256};
use smqtt_core::identity::{Role, check_name};
use smqtt_core::policy::{ParseError, Policy};
use smqtt_core::token::Token;

use super::{Authority, Caller, Operation};
use crate::config::HOSTS_MAX;
use crate::error::Error;
use crate::pki::Host;
use crate::store::TokenRow;

/// The longest life of a token.
const TTL_SECONDS_MAX: u64 = 366 * 86_400;
/// Most bytes of a key's policy: a page of the directory must stay within what a broker reads.
pub(super) const POLICY_BYTES_MAX: usize = 4096;
/// The roles that enrol with a token.
const WITH_TOKEN: [Role; 5] = [Role::Device, Role::Broker, Role::Bridge, Role::Enroller, Role::Auditor];

impl Authority {
    /// Makes a token. For administrators; enrollers make tokens for devices alone.
    ///
    /// # Errors
    /// Not allowed, the request makes no sense, the name is taken, or the store failed.
    pub async fn issue_token(
        self: &Arc<Self>,
        caller: &Caller,
        request: TokenRequest,
    ) -> Result<NewToken, Error> {
        let maker = self.authorise(caller, Operation::MakeToken).await?;
        let now = self.now();
        let wanted = Wanted::parse(&request)?;
        if maker.role == Role::Enroller && wanted.role != Role::Device {
            // Whoever could make more of their own kind would be revoked in vain.
            let error = Error::Role { role: maker.role };
            let subject = format!("{} ({})", request.name, wanted.role.name());
            return Err(self.deny(maker.actor, Operation::MakeToken.name(), subject, error).await);
        }
        let token = self.draw_token(request.ttl_seconds, now)?;
        let row = TokenRow {
            id: token.id,
            secret_hash: sha256(&[&token.secret]),
            name: request.name,
            role: wanted.role,
            attributes: wanted.attributes,
            policy: wanted.policy,
            hosts: request.hosts,
            expires: token.expires,
            used: None,
        };
        let this = self.clone();
        self.store
            .write(move |tx| {
                if tx.active_device(&row.name)?.is_some() {
                    return Err(Error::NameTaken { name: row.name });
                }
                tx.insert_token(&row)?;
                let policy = row.policy.as_ref().map_or(String::new(), |policy| format!(" policy {policy}"));
                let subject = format!("{} ({}) {}{policy}", row.name, row.role.name(), row.attributes);
                this.audit(tx, &maker.actor, "make-token", &subject)?;
                tracing::info!(name = row.name, role = row.role.name(), "made a token");
                Ok(())
            })
            .await?;
        Ok(NewToken { token: token.expose().to_string(), expires: token.expires })
    }

    /// A token that nobody has yet, good for so long.
    pub(super) fn draw_token(&self, ttl_seconds: Option<u64>, now: u64) -> Result<Token, Error> {
        let ttl = ttl_seconds.unwrap_or(self.config.token_ttl_seconds);
        if !(1..=TTL_SECONDS_MAX).contains(&ttl) {
            let detail = format!("a token can be good for 1 to {TTL_SECONDS_MAX} seconds, not {ttl}");
            return Err(Error::invalid("ttl", detail));
        }
        let (url, fingerprint) = (self.url.clone(), self.fingerprint());
        Ok(Token { url, fingerprint, id: random(), secret: random(), expires: now + ttl })
    }
}

/// What the request asks for, parsed.
struct Wanted {
    role: Role,
    attributes: Attributes,
    policy: Option<Policy>,
}

impl Wanted {
    fn parse(request: &TokenRequest) -> Result<Self, Error> {
        check_name(&request.name).map_err(|error| Error::invalid("name", error))?;
        let role = match Role::from_name(&request.role) {
            Some(role) if WITH_TOKEN.contains(&role) => role,
            _ => {
                let detail = format!("there is no token for the role `{}`", request.role);
                return Err(Error::invalid("role-name", detail)
                    .with_hint("it is `device`, `broker`, `bridge`, `enroller` or `auditor`"));
            }
        };
        let attributes = parse_attributes(&request.attributes)?;
        if !matches!(role, Role::Device | Role::Bridge) && !attributes.is_empty() {
            let (role, hint) = (role.name(), "it reads no messages: leave its attributes away");
            return Err(
                Error::invalid("attributes", format!("a role `{role}` has no attributes")).with_hint(hint)
            );
        }
        let policy = request.policy.as_deref().map(parse_policy).transpose()?;
        if role != Role::Device && policy.is_some() {
            let (role, hint) = (role.name(), "it reads no messages: leave its policy away");
            return Err(Error::invalid("policy", format!("a role `{role}` has no keys")).with_hint(hint));
        }
        if role != Role::Broker && !request.hosts.is_empty() {
            let (role, hint) = (role.name(), "hosts are for a broker's server certificate");
            return Err(Error::invalid("hosts", format!("a role `{role}` has no hosts")).with_hint(hint));
        }
        if request.hosts.len() > HOSTS_MAX {
            return Err(Error::invalid("hosts", format!("more than {HOSTS_MAX} hosts")));
        }
        if let Some(bad) = request.hosts.iter().find(|host| Host::parse(host).is_none()) {
            let detail = format!("`{bad}` is neither a host's name nor an address");
            return Err(Error::invalid("hosts", detail).with_hint("without scheme and port"));
        }
        Ok(Self { role, attributes, policy })
    }
}

/// The policy that keys will carry.
pub(super) fn parse_policy(text: &str) -> Result<Policy, Error> {
    if text.len() > POLICY_BYTES_MAX {
        let detail = format!("a key's policy has at most {POLICY_BYTES_MAX} bytes, not {}", text.len());
        return Err(Error::invalid("policy", detail).with_hint("give the device a shorter one"));
    }
    Policy::parse(text).map_err(|error| policy_error("policy", &error))
}

/// A policy that does not parse: where, and what to write instead.
pub(super) fn policy_error(key: &str, error: &ParseError) -> Error {
    let detail = format!("{key}: {error} at column {}", error.column());
    match error.hint() {
        Some(hint) => Error::invalid("policy", detail).with_hint(hint),
        None => Error::invalid("policy", detail),
    }
}

/// Attributes written one by one; the error shows which does not parse.
pub(super) fn parse_attributes(texts: &[String]) -> Result<Attributes, Error> {
    let invalid = |detail: String, error: &AttributeError| match error.hint() {
        Some(hint) => Error::invalid("attributes", detail).with_hint(hint),
        None => Error::invalid("attributes", detail),
    };
    for text in texts {
        if let Err(error) = text.parse::<smqtt_core::attribute::Attribute>() {
            return Err(invalid(format!("attribute `{text}`: {error}"), &error));
        }
    }
    Attributes::parse(texts).map_err(|error| invalid(error.to_string(), &error))
}
