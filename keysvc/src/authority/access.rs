//! Access tokens: leave for a program to make some requests for some time, by `Authorization: Bearer` instead of a
//! certificate. The secret is told once and kept as its SHA-256.
//!
//! ```text
//! smqtt-access.ID.SECRET      32 and 64 hexadecimal digits
//! ```

use std::sync::Arc;

use smqtt_core::api::{Access, AccessRequest, NewAccess};
use smqtt_core::crypto::{equal, random, sha256};
use smqtt_core::identity::{DeviceId, Fingerprint, Role, check_name};
use zeroize::Zeroizing;

use super::caller::Known;
use super::{Authority, Caller, Listed, Operation, Page, Who};
use crate::error::Error;
use crate::store::{AccessRow, Tx};

const PREFIX: &str = "smqtt-access.";
/// The longest life of an access token.
pub(crate) const TTL_SECONDS_MAX: u64 = 366 * 86_400;
/// Most access tokens at a time.
const ACCESS_MAX: usize = 1000;
/// Roles that can be had without a certificate.
const ROLES: [Role; 3] = [Role::Admin, Role::Enroller, Role::Auditor];

/// An access token as a request brought it: never its secret.
#[derive(Clone, Copy, Debug)]
pub(super) enum Presented {
    /// What it says of itself.
    Token { id: [u8; 16], proof: [u8; 32] },
    /// Something else.
    Malformed,
}

impl Presented {
    pub(super) fn parse(text: &str) -> Self {
        let parse = || {
            let (id, secret) = text.strip_prefix(PREFIX)?.split_once('.')?;
            let secret = Zeroizing::new(secret.parse::<Fingerprint>().ok()?.0);
            Some(Self::Token { id: id.parse::<DeviceId>().ok()?.0, proof: sha256(&[&*secret]) })
        };
        parse().unwrap_or(Self::Malformed)
    }

    /// The one that it says it is.
    pub(super) fn id(&self) -> Option<[u8; 16]> {
        match self {
            Self::Token { id, .. } => Some(*id),
            Self::Malformed => None,
        }
    }

    /// For the audit log, before anybody looked whether there is such a token.
    pub(super) fn actor(&self) -> Option<String> {
        match self {
            Self::Token { id, .. } => Some(format!("access {}", DeviceId(*id))),
            Self::Malformed => None,
        }
    }
}

impl Authority {
    /// Whose token it is, if it is good for `operation` now.
    pub(super) async fn check_access(
        &self,
        caller: &Caller,
        presented: Presented,
        operation: Operation,
    ) -> Result<Known, Error> {
        let Presented::Token { id, proof } = presented else { return Err(Error::AccessUnknown) };
        let access = self.store.read(move |tx| Ok(tx.access(&id)?)).await?;
        let access = access.filter(|access| equal(&access.secret_hash, &proof));
        let access = access.ok_or(Error::AccessUnknown)?;
        caller.hold_access();
        if self.now() >= access.expires {
            return Err(Error::AccessExpired);
        }
        if matches!(operation.who(), Who::Holders(_)) {
            return Err(Error::CertificateRequired);
        }
        if !operation.roles().contains(&access.role) {
            return Err(Error::Role { role: access.role });
        }
        if !access.operations.is_empty() && !access.operations.iter().any(|name| name == operation.name()) {
            return Err(Error::Scope { operation: operation.name() });
        }
        let actor = format!("{} access {}", access.name, DeviceId(access.id));
        Ok(Known { role: access.role, by_access: true, actor })
    }

    /// Makes an access token. For administrators by certificate: a token that made tokens would never end.
    ///
    /// # Errors
    /// Not allowed, the request makes no sense, there are too many, or the store failed.
    pub async fn make_access(
        self: &Arc<Self>,
        caller: &Caller,
        request: AccessRequest,
    ) -> Result<NewAccess, Error> {
        let admin = self.authorise(caller, Operation::MakeAccess).await?;
        let now = self.now();
        let once = self.once(caller, &admin, Operation::MakeAccess, &request);
        check_name(&request.name).map_err(|error| Error::invalid("name", error))?;
        let role = Role::from_name(&request.role).filter(|role| ROLES.contains(role)).ok_or_else(|| {
            let detail = format!("there is no access token for the role `{}`", request.role);
            Error::invalid("role-name", detail).with_hint("it is `admin`, `enroller` or `auditor`")
        })?;
        check_operations(role, &request.operations)?;
        if !(1..=TTL_SECONDS_MAX).contains(&request.ttl_seconds) {
            let detail = format!(
                "an access token can be good for 1 to {TTL_SECONDS_MAX} seconds, not {}",
                request.ttl_seconds
            );
            return Err(Error::invalid("ttl", detail));
        }
        let (id, secret) = (random::<16>(), Zeroizing::new(random::<32>()));
        let row = AccessRow {
            id,
            secret_hash: sha256(&[&*secret]),
            name: request.name,
            role,
            operations: request.operations,
            created: now,
            creator: admin.actor.clone(),
            expires: now + request.ttl_seconds,
        };
        let expires = row.expires;
        let this = self.clone();
        let make = move |tx: &Tx<'_>| {
            if tx.all_access(now)?.len() >= ACCESS_MAX {
                return Err(Error::Full { what: "access tokens", max: ACCESS_MAX });
            }
            tx.insert_access(&row)?;
            let of = match row.operations.as_slice() {
                [] => String::new(),
                some => format!(" {}", some.join(",")),
            };
            let subject = format!("{} {} ({}){of}", row.name, DeviceId(row.id), row.role.name());
            this.audit(tx, &admin.actor, Operation::MakeAccess.name(), &subject)?;
            tracing::info!(name = row.name, role = row.role.name(), "made an access token");
            let id = DeviceId(id);
            let token = Zeroizing::new(format!("{PREFIX}{id}.{}", Fingerprint(*secret)));
            Ok(NewAccess { id: id.to_string(), access_token: token.to_string(), expires })
        };
        self.write_once(once, make).await
    }

    /// The access tokens that have not expired, by identifier.
    ///
    /// # Errors
    /// Not allowed, or the store failed.
    pub async fn list_access(&self, caller: &Caller, page: Page) -> Result<Listed<Access>, Error> {
        self.authorise(caller, Operation::ListAccess).await?;
        let now = self.now();
        let (after, limit) =
            (self.begins_after(Operation::ListAccess, &page)?, Self::limit(&page, ACCESS_MAX)?);
        let rows = self.store.read(move |tx| Ok(tx.all_access(now)?)).await?;
        let rows = rows.into_iter().filter(|row| row.id[..] > after[..]).take(limit + 1).collect();
        Ok(self.listed(Operation::ListAccess, rows, limit, |row: &AccessRow| row.id.to_vec()).map(api))
    }

    /// Ends an access token: the next request with it is refused.
    ///
    /// # Errors
    /// Not allowed, no such token, or the store failed.
    pub async fn remove_access(self: &Arc<Self>, caller: &Caller, id: String) -> Result<Access, Error> {
        let admin = self.authorise(caller, Operation::RemoveAccess).await?;
        let none = || Error::NoSuchAccess { id: id.chars().take(64).collect() };
        let wanted = id.parse::<DeviceId>().map_err(|_| none())?.0;
        let this = self.clone();
        let removed = self.store.write_reserved(move |tx| {
            let Some(row) = tx.access(&wanted)? else { return Ok(None) };
            tx.delete_access(&wanted)?;
            let subject = format!("{} {}", row.name, DeviceId(row.id));
            this.audit(tx, &admin.actor, Operation::RemoveAccess.name(), &subject)?;
            Ok(Some(row))
        });
        removed.await?.map(api).ok_or_else(none)
    }
}

/// What the role may, and by token.
fn check_operations(role: Role, names: &[String]) -> Result<(), Error> {
    let may = |operation: &&Operation| matches!(operation.who(), Who::Roles(roles) if roles.contains(&role));
    for (n, name) in names.iter().enumerate() {
        if names[..n].contains(name) {
            return Err(Error::invalid("operations", format!("`{name}` is there twice")));
        }
        if !Operation::ALL.iter().filter(may).any(|operation| operation.name() == name) {
            let all: Vec<_> = Operation::ALL.iter().filter(may).map(|operation| operation.name()).collect();
            let name: String = name.chars().take(64).collect();
            let detail = format!("`{name}` is nothing that a token of the role `{}` may do", role.name());
            return Err(Error::invalid("operations", detail).with_hint(all.join(", ")));
        }
    }
    Ok(())
}

fn api(row: AccessRow) -> Access {
    Access {
        id: DeviceId(row.id).to_string(),
        name: row.name,
        role: row.role.name().to_owned(),
        operations: row.operations,
        created: row.created,
        creator: row.creator,
        expires: row.expires,
    }
}
