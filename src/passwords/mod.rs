//! Names with passwords or tokens, for clients without a certificate.
//!
//! Whoever is let in is `user:NAME`, which no device is called (a device is the number in its certificate), so neither can
//! take the other's sessions; and it has no attributes, so a rule that asks for some keeps it out.

mod accounts;

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use argon2::{Argon2, PasswordVerifier, password_hash::phc::PasswordHash};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Semaphore;

pub use accounts::{
    Accounts, AccountsError, FILE_BYTES_MAX, HASH_KIBIBYTES_MAX, HASH_LANES_MAX, HASH_PASSES_MAX,
    NAME_BYTES_MAX, NameError, password_line, token_line, with_line,
};

use crate::broker::{
    Admission, BrokerHandle, Client, ConnectRequest, ConnectVerdict, Denial, Hook, HookFuture, Limit, Limits,
    Origin, Point, Publication, Stored, Verdict,
};
use crate::mqtt::ReasonCode;
use accounts::{Secret, is_token};

/// What stands before a name where it is an identity.
const USER: &str = "user:";

/// Lets in who knows a password or token. Cheap to clone.
///
/// A password costs a moment and megabytes to check, which must neither stop the broker nor be had by strangers without
/// bound: half the processors check at a time, off the asynchronous threads, [so many clients](Limits::password_checks_waiting_max) wait, and whoever
/// comes beyond that is told that the broker is busy. A token is checked at once.
#[derive(Clone)]
pub struct Passwords(Arc<Shared>);

struct Shared {
    accounts: RwLock<Arc<Accounts>>,
    turns: Arc<Semaphore>,
    waiting: Mutex<Waiting>,
    waiting_max: usize,
    waiting_per_address_max: usize,
}

#[derive(Default)]
struct Waiting {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

impl Passwords {
    /// Lets in these.
    pub fn new(accounts: Accounts) -> Self {
        Self::with_limits(accounts, &Limits::default())
    }

    /// Lets in these, within other limits than the defaults: those of `limits` that are about passwords.
    pub fn with_limits(accounts: Accounts, limits: &Limits) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, |n| n.get());
        Self(Arc::new(Shared {
            accounts: RwLock::new(Arc::new(accounts)),
            turns: Arc::new(Semaphore::new((processors / 2).max(1))),
            waiting: Mutex::default(),
            waiting_max: limits.password_checks_waiting_max,
            waiting_per_address_max: limits.password_checks_waiting_per_address_max,
        }))
    }

    /// Lets in these from now on. Whoever is gone is cut, and its stored session goes too; whoever has another password or
    /// token must connect again with that.
    pub fn replace(&self, accounts: Accounts, broker: &BrokerHandle) {
        let accounts = Arc::new(accounts);
        let before = std::mem::replace(&mut *self.0.accounts.write(), accounts.clone());
        self.forget_strangers(broker);
        let text = "the password was changed";
        broker.disconnect_identities(ReasonCode::NotAuthorized, text, Stored::Keep, |identity| {
            identity.strip_prefix(USER).is_some_and(|name| accounts.differ_about(&before, name))
        });
    }

    /// Cuts whoever is not among those that are let in, and forgets its session: also of those who went while no broker ran.
    pub fn forget_strangers(&self, broker: &BrokerHandle) {
        let accounts = self.accounts();
        let text = "this user was removed";
        broker.disconnect_identities(ReasonCode::NotAuthorized, text, Stored::Discard, |identity| {
            identity.strip_prefix(USER).is_some_and(|name| !accounts.contains(name))
        });
    }

    fn accounts(&self) -> Arc<Accounts> {
        self.0.accounts.read().clone()
    }

    async fn judge(&self, request: &ConnectRequest) -> Result<Admission, Denial> {
        let (Some(name), Some(password)) = (&request.user_name, &request.password) else {
            return Err(Denial::new(ReasonCode::NotAuthorized, "a user name and a password are needed"));
        };
        let accounts = self.accounts();
        let known = accounts.get(name);
        let right = match known {
            Some(Secret::Token(hash)) if is_token(hash, password) => true,
            // A wrong name or token takes the way of a wrong password.
            _ => {
                let (hash, counts) = match known {
                    Some(Secret::Password(hash)) => (Some(&**hash), true),
                    _ => (accounts.decoy(), false),
                };
                match hash {
                    Some(hash) => self.verify(request.peer.ip(), hash, password).await? && counts,
                    None => false,
                }
            }
        };
        if !right {
            let text = "no such user, or another password";
            return Err(Denial::new(ReasonCode::BadUserNameOrPassword, text));
        }
        Ok(Admission { identity: Some(format!("{USER}{name}").into()), ..Admission::default() })
    }

    /// Whether the hash is of this password, when its turn comes.
    async fn verify(&self, from: IpAddr, hash: &PasswordHash, password: &Bytes) -> Result<bool, Denial> {
        let busy = || Denial::new(ReasonCode::ServerBusy, "too many passwords to check: try again");
        let place = Place::take(&self.0, from).map_err(|limit| busy().beyond(limit))?;
        let turn = self.0.turns.clone().acquire_owned().await.map_err(|_| busy())?;
        let (hash, password) = (hash.clone(), password.clone());
        let checked = tokio::task::spawn_blocking(move || {
            // Until the memory is free again, also if nobody waits for the answer any more.
            let _turn = turn;
            Argon2::default().verify_password(&password, &hash).is_ok()
        });
        let checked = checked.await;
        drop(place);
        checked.map_err(|_| busy())
    }
}

/// A place among those that wait.
struct Place {
    shared: Arc<Shared>,
    address: IpAddr,
}

impl Place {
    fn take(shared: &Arc<Shared>, from: IpAddr) -> Result<Self, Limit> {
        let address = match from.to_canonical() {
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
            v4 => v4,
        };
        let mut waiting = shared.waiting.lock();
        let of_address = waiting.by_address.get(&address).copied().unwrap_or(0);
        if waiting.all >= shared.waiting_max {
            return Err(Limit::PasswordChecks);
        }
        if of_address >= shared.waiting_per_address_max {
            return Err(Limit::PasswordChecksPerAddress);
        }
        waiting.all += 1;
        waiting.by_address.insert(address, of_address + 1);
        Ok(Self { shared: shared.clone(), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut waiting = self.shared.waiting.lock();
        waiting.all -= 1;
        if let Some(count) = waiting.by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                waiting.by_address.remove(&self.address);
            }
        }
    }
}

impl Hook for Passwords {
    /// No message.
    fn points(&self) -> &'static [Point] {
        &[]
    }

    fn name(&self) -> &'static str {
        "passwords"
    }

    fn connect<'a>(&'a self, request: &'a ConnectRequest) -> HookFuture<'a, ConnectVerdict> {
        Box::pin(async move {
            // Its certificate says who it is.
            if request.certificates.is_some() {
                return ConnectVerdict::Defer;
            }
            match self.judge(request).await {
                Ok(admission) => ConnectVerdict::Allow(admission),
                Err(denial) => ConnectVerdict::Deny(denial),
            }
        })
    }

    /// The will of somebody who is gone is not published.
    fn will(&self, client: &Client, publication: &mut Publication) -> Verdict {
        if publication.origin() != Origin::Will {
            return Verdict::Defer;
        }
        let name = client.identity.as_deref().and_then(|identity| identity.strip_prefix(USER));
        match name {
            Some(name) if !self.accounts().contains(name) => {
                Verdict::deny(ReasonCode::NotAuthorized, "this user was removed")
            }
            _ => Verdict::Defer,
        }
    }
}
