//! Enrolment tokens: leave for a device to enrol, or for several. The secret is told once and kept as its SHA-256.

use std::collections::BTreeSet;
use std::sync::Arc;

use smqtt_core::api::{NewToken, TokenInfo, TokenRequest, TokenUse};
use smqtt_core::attribute::{AttributeError, Attributes};
use smqtt_core::crypto::{random, sha256};
use smqtt_core::identity::{DeviceId, NAME_CHARS_MAX, Role, check_name, check_new_name};
use smqtt_core::policy::{ParseError, Policy};
use smqtt_core::token::Token;

use super::caller::Known;
use super::keys::texts;
use super::profiles::{given_by, in_all, named, profile_of};
use super::{Authority, Caller, Listed, Operation, Page};
use crate::config::HOSTS_MAX;
use crate::error::Error;
use crate::pki::Host;
use crate::store::{GivenRow, TokenRow, Tx, UseRow};

/// The longest life of a token.
pub(super) const TTL_SECONDS_MAX: u64 = 366 * 86_400;
/// Most devices of one token.
const COUNT_MAX: u32 = 10_000;
/// Most serials of one token.
const SERIALS_MAX: usize = 1000;
/// Most tokens in one answer.
pub(crate) const PAGE_MAX: usize = 1000;
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
        let once = self.once(caller, &maker, Operation::MakeToken, &request);
        // What the profile said then counts, though it may be gone.
        if let Some(answer) = self.answered(once.as_ref()).await? {
            return Ok(answer);
        }
        let wanted = Wanted::parse(&request)?;
        if let Err(error) = may_make(&maker, wanted.role) {
            let subject = format!("{} ({})", request.name, wanted.role.name());
            return Err(self.deny(maker.actor, Operation::MakeToken.name(), subject, error).await);
        }
        let (role, shared) = (wanted.role, (request.profile.clone(), request.group.clone()));
        if !matches!(role, Role::Device | Role::Bridge) && (shared.0.is_some() || shared.1.is_some()) {
            let detail = format!("a role `{}` has neither profile nor group", role.name());
            return Err(Error::invalid("profile", detail));
        }
        let shared = GivenRow { profile: shared.0, group: shared.1, ..GivenRow::default() };
        let profile = {
            let shared = shared.clone();
            self.store.read(move |tx| profile_of(tx, &shared)).await?
        };
        let ttl = request.ttl_seconds.or(profile.and_then(|profile| profile.token_ttl_seconds));
        let token = self.draw_token(ttl, now)?;
        let row = TokenRow {
            id: token.id,
            secret_hash: sha256(&[&token.secret]),
            name: request.name,
            role: wanted.role,
            attributes: wanted.attributes,
            policy: wanted.policy,
            hosts: request.hosts,
            made: now,
            expires: token.expires,
            uses_max: wanted.count,
            used: 0,
            approval: request.approval,
            removed: None,
        };
        let this = self.clone();
        let make = move |tx: &Tx<'_>| {
            if row.uses_max == 1 && tx.active_device(&row.name)?.is_some() {
                return Err(Error::NameTaken { name: row.name });
            }
            // Only its like: an enroller takes back no token for a broker this way, either.
            let replaced = match request.replace {
                true => tx.remove_unused_tokens(&row.name, Some(row.role), now)?,
                false => 0,
            };
            if row.uses_max == 1 && tx.is_kept(&row.name, &row.id, now)? {
                return Err(Error::NameTaken { name: row.name });
            }
            // What it would have in all is looked at now, so that no device fails over it.
            let given = GivenRow { attributes: row.attributes.clone(), policy: row.policy.clone(), ..shared };
            in_all(tx, &given, row.role)?;
            tx.insert_token(&row, &maker.actor)?;
            tx.set_token_given(&row.id, given.profile.as_deref(), given.group.as_deref())?;
            request.serials.iter().try_for_each(|serial| tx.insert_serial(&row.id, serial))?;
            let policy = row.policy.as_ref().map_or(String::new(), |policy| format!(" policy {policy}"));
            let batch = match (row.uses_max, row.approval) {
                (1, false) => String::new(),
                (count, false) => format!(" for {count}"),
                (count, true) => format!(" for {count} to be approved"),
            };
            let instead = match replaced {
                0 => String::new(),
                count => format!(" in place of {count}"),
            };
            let (name, role, shared) = (&row.name, row.role.name(), named(&given));
            let attributes = match row.attributes.is_empty() {
                true => String::new(),
                false => format!(" {}", row.attributes),
            };
            // By its identifier other rows about the token are known.
            let id = DeviceId(token.id).to_string();
            let subject = format!("{name} ({role}){attributes}{policy}{batch}{instead}{shared} token {id}");
            this.audit(tx, &maker.actor, "make-token", &subject)?;
            tracing::info!(name = row.name, role = row.role.name(), "made a token");
            Ok(NewToken { id, token: token.expose().to_string(), expires: token.expires })
        };
        self.write_once(once, make).await
    }

    /// Tokens, by identifier, 1,000 at most, forgotten ones left out. For administrators and enrollers.
    ///
    /// # Errors
    /// Not allowed, or the store failed.
    pub async fn tokens(&self, caller: &Caller, page: Page) -> Result<Listed<TokenInfo>, Error> {
        self.authorise(caller, Operation::ListTokens).await?;
        let (after, limit) =
            (self.begins_after(Operation::ListTokens, &page)?, Self::limit(&page, PAGE_MAX)?);
        let now = self.now();
        let read = move |tx: &Tx<'_>| {
            let rows = tx.tokens(&after, limit + 1)?;
            rows.into_iter().map(|row| Ok((row.id, info(tx, row, now)?))).collect()
        };
        let infos: Vec<([u8; 16], TokenInfo)> = self.store.read(read).await?;
        Ok(self.listed(Operation::ListTokens, infos, limit, |(id, _)| id.to_vec()).map(|(_, info)| info))
    }

    /// A token, its serials, and who presented it. For administrators and enrollers.
    ///
    /// # Errors
    /// Not allowed, no such token, or the store failed.
    pub async fn token(&self, caller: &Caller, id: String) -> Result<TokenInfo, Error> {
        self.authorise(caller, Operation::ShowToken).await?;
        let (bytes, now) = (token_id(&id)?, self.now());
        self.store
            .read(move |tx| {
                let row = tx.token(&bytes)?.ok_or(Error::NoSuchToken { id })?;
                let (serials, uses) = (tx.serials(&bytes)?, tx.uses(&bytes)?);
                Ok(TokenInfo {
                    serials,
                    uses: uses.into_iter().map(one_use).collect(),
                    ..info(tx, row, now)?
                })
            })
            .await
    }

    /// Takes a token back: nobody enrols with it any more, and whoever waits does so in vain. Those who enrolled stay. Asked
    /// again, it answers the same. For administrators; for enrollers those of devices.
    ///
    /// # Errors
    /// Not allowed, no such token, or the store failed.
    pub async fn remove_token(self: &Arc<Self>, caller: &Caller, id: String) -> Result<TokenInfo, Error> {
        let who = self.authorise(caller, Operation::RemoveToken).await?;
        let (this, bytes, now) = (self.clone(), token_id(&id)?, self.now());
        let (actor, subject) = (who.actor.clone(), format!("token {}", DeviceId(bytes)));
        let done = self
            .store
            .write_reserved(move |tx| {
                let mut row = tx.token(&bytes)?.ok_or(Error::NoSuchToken { id })?;
                for_devices(who.role, row.role)?;
                if row.removed.is_none() {
                    tx.remove_token(&bytes, now)?;
                    row.removed = Some(now);
                    let subject = format!("{} ({})", row.name, DeviceId(bytes));
                    this.audit(tx, &who.actor, Operation::RemoveToken.name(), &subject)?;
                    tracing::info!(name = row.name, token = %DeviceId(bytes), "took a token back");
                }
                info(tx, row, now)
            })
            .await;
        self.or_refused(actor, Operation::RemoveToken, subject, done).await
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

/// Whether somebody may have others enrol in this role. Whoever could make more of their own kind would be revoked in vain, and an
/// access token that made people would not end when it expires.
pub(super) fn may_make(maker: &Known, role: Role) -> Result<(), Error> {
    for_devices(maker.role, role)?;
    match role {
        Role::Enroller | Role::Auditor if maker.by_access => Err(Error::CertificateRequired),
        _ => Ok(()),
    }
}

/// An enroller has to do with devices alone.
pub(super) fn for_devices(who: Role, role: Role) -> Result<(), Error> {
    if who == Role::Enroller && role != Role::Device { Err(Error::Role { role: who }) } else { Ok(()) }
}

fn token_id(id: &str) -> Result<[u8; 16], Error> {
    let parsed = id.parse::<DeviceId>().map(|id| id.0);
    parsed.map_err(|_| Error::NoSuchToken { id: id.chars().take(64).collect() })
}

fn info(tx: &Tx<'_>, row: TokenRow, now: u64) -> Result<TokenInfo, Error> {
    let status = match () {
        () if row.removed.is_some() => "removed",
        () if row.used >= row.uses_max => "used",
        () if now >= row.expires => "expired",
        () => "open",
    };
    let given = given_by(tx, &row)?;
    Ok(TokenInfo {
        id: DeviceId(row.id).to_string(),
        name: row.name,
        role: row.role.name().to_owned(),
        attributes: texts(&given.attributes),
        policy: given.policy.as_ref().map(ToString::to_string),
        profile: given.profile,
        group: given.group,
        status: status.to_owned(),
        count: row.uses_max,
        used: row.used,
        approval: row.approval,
        made: row.made,
        expires: row.expires,
        serials: Vec::new(),
        uses: Vec::new(),
    })
}

fn one_use(used: UseRow) -> TokenUse {
    let status = match (used.device, used.denied) {
        (Some(_), _) => "enrolled",
        (None, Some(_)) => "denied",
        (None, None) => "waiting",
    };
    TokenUse { name: used.name, serial: used.serial, status: status.to_owned(), asked: used.asked }
}

/// What the request asks for, parsed.
struct Wanted {
    count: u32,
    role: Role,
    attributes: Attributes,
    policy: Option<Policy>,
}

impl Wanted {
    fn parse(request: &TokenRequest) -> Result<Self, Error> {
        check_new_name(&request.name).map_err(|error| Error::invalid("name", error))?;
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
        let count = count_of(request)?;
        Ok(Self { count, role, attributes, policy })
    }
}

/// For how many devices a token is, if its serials and the names that will come of it are fit for that.
fn count_of(request: &TokenRequest) -> Result<u32, Error> {
    let serials = &request.serials;
    if serials.len() > SERIALS_MAX {
        return Err(Error::invalid("serials", format!("more than {SERIALS_MAX} serials"))
            .with_hint("make a token for each part of the list"));
    }
    let mut seen = BTreeSet::new();
    for serial in serials {
        check_name(serial).map_err(|_| {
            let detail = format!("`{}` cannot be a serial", serial.chars().take(80).collect::<String>());
            let hint = "a serial has letters, digits, `.`, `_` or `-`, and begins with a letter or digit";
            Error::invalid("serials", detail).with_hint(hint)
        })?;
        if !seen.insert(serial) {
            return Err(Error::invalid("serials", format!("the serial `{serial}` is there twice")));
        }
    }
    let count = request.count.unwrap_or(serials.len().max(1) as u32);
    if !(1..=COUNT_MAX).contains(&count) {
        return Err(Error::invalid("count", format!("a token is for 1 to {COUNT_MAX} devices, not {count}")));
    }
    if !serials.is_empty() && count as usize > serials.len() {
        let detail = format!("{count} devices cannot have {} serials", serials.len());
        return Err(
            Error::invalid("count", detail).with_hint("leave the count away: it is one for each serial")
        );
    }
    if count > 1 || serials.len() > 1 {
        let longest = serials.iter().map(String::len).max().unwrap_or(COUNT_MAX.to_string().len());
        if request.name.len() + 1 + longest > NAME_CHARS_MAX {
            let detail = format!("names of more than {NAME_CHARS_MAX} characters would come of it");
            return Err(
                Error::invalid("name", detail).with_hint("the devices are named NAME-SERIAL or NAME-1")
            );
        }
    }
    Ok(count)
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
