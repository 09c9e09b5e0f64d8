//! Enrolment and renewal: a device's keys become a certificate and user secret keys.

use std::sync::{Arc, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use smqtt_core::api::{EnrolRequest, Enrolment, RenewRequest, Waiting};
use smqtt_core::crypto::{equal, random, sha256};
use smqtt_core::identity::{CERTIFICATE_BYTES_MAX, DeviceId, Identity, Role, check_new_name};
use zeroize::Zeroizing;

use super::keys::Plan;
use super::profiles::{given_by, in_all, named, profile_of};
use super::{Authority, Caller, Operation};
use crate::error::Error;
use crate::hpke::SealTo;
use crate::pki::{CSR_BYTES_MAX, CsrError, Host, Issued, Leaf, Point, Usage, csr_key, local_hosts};
use crate::store::{DeviceRow, GivenRow, StoreError, TokenRow, Tx, UseRow};

/// For how long after its expiry a token still answers whoever used it: a lost answer must not burn it.
const RETRY_SECONDS: u64 = 86_400;

/// The keys of a device, parsed and checked.
pub(super) struct DeviceKeys {
    public_key: Point,
    /// `None` for whoever has none, and so gets no user secret keys, or keeps the one it has.
    hpke_key: Option<SealTo>,
}

impl DeviceKeys {
    fn parse(csr: &str, hpke_key: &str) -> Result<Self, Error> {
        let csr = base64(csr, CSR_BYTES_MAX).ok_or_else(|| Error::invalid("csr", CsrError::Malformed))?;
        let public_key = csr_key(&csr).map_err(|error| Error::invalid("csr", error))?;
        let hpke_key = base64(hpke_key, size_of::<Point>()).and_then(|bytes| SealTo::new(&bytes));
        let hpke_key = hpke_key.ok_or_else(|| {
            let hint = "65 bytes in base64: 4, then the coordinates";
            Error::invalid("hpke-key", "the HPKE key is not an uncompressed point of P-256").with_hint(hint)
        })?;
        if hpke_key.as_bytes() == public_key {
            let hint = "make a key pair for each";
            return Err(Error::invalid("hpke-key", "one key for signing and for HPKE").with_hint(hint));
        }
        Ok(Self { public_key, hpke_key: Some(hpke_key) })
    }

    /// Of a signing request, DER, alone.
    pub(super) fn of_request(csr: &[u8]) -> Result<Self, Error> {
        let public_key = csr_key(csr).map_err(|error| Error::invalid("csr", error))?;
        Ok(Self { public_key, hpke_key: None })
    }

    /// The HPKE key as it is stored: nothing for none.
    fn hpke_bytes(&self) -> &[u8] {
        self.hpke_key.as_ref().map_or(&[], SealTo::as_bytes)
    }
}

/// A device as a transaction left it, and what it will be told.
pub(super) struct Enrolled {
    device: DeviceRow,
    pub(super) certificate: Vec<u8>,
    plan: Plan,
}

/// What a transaction made of whoever presented a token.
pub(super) enum Outcome {
    Enrolled(Box<Enrolled>),
    Waits(Waiting),
}

/// The answer to whoever presented a token.
pub enum EnrolAnswer {
    /// It is a device.
    Enrolled(Box<Enrolment>),
    /// A person has to approve.
    Waits(Waiting),
}

/// How long whoever waits for approval is to wait before it asks again: a tenth of what it waited, within these bounds.
const RETRY_AFTER_SECONDS: std::ops::RangeInclusive<u64> = 1..=60;
/// How many numbers are tried for a name that nobody has.
const NAMES_TRIED_MAX: u32 = 1000;

impl Authority {
    /// Makes a device of whoever has a token. The same keys get the same device again, should the answer have been
    /// lost; other keys never.
    ///
    /// # Errors
    /// [`Error`], saying why not.
    pub async fn enrol(
        self: &Arc<Self>,
        caller: &Caller,
        request: EnrolRequest,
    ) -> Result<EnrolAnswer, Error> {
        let secret = Zeroizing::new(request.secret);
        let (Some(id), Some(secret)) = (hex16(&request.token_id), hex16(&secret).map(Zeroizing::new)) else {
            return Err(Error::invalid("token", "token id and secret are 32 hexadecimal digits each"));
        };
        let proof = sha256(&[&*secret]);
        let keys = || DeviceKeys::parse(&request.csr, &request.hpke_key);
        let outcome = self.present(caller, Operation::Enrol, (id, proof), keys, request.serial).await?;
        Ok(match outcome {
            Outcome::Enrolled(enrolled) => EnrolAnswer::Enrolled(self.enrolment(*enrolled).await?.into()),
            Outcome::Waits(waiting) => EnrolAnswer::Waits(waiting),
        })
    }

    /// What becomes of whoever has the token of this id, proven by its secret's hash: the one way in, however it is asked for.
    pub(super) async fn present(
        self: &Arc<Self>,
        caller: &Caller,
        operation: Operation,
        (id, proof): ([u8; 16], [u8; 32]),
        keys: impl FnOnce() -> Result<DeviceKeys, Error>,
        serial: Option<String>,
    ) -> Result<Outcome, Error> {
        // Whoever has no token is not worth the work of checking a signature.
        let read = self.store.read(move |tx| find_token(tx, &id, &proof).map(drop)).await;
        let result = match read {
            Ok(()) => self.enrol_with(caller, id, proof, keys()?, serial).await,
            Err(error) => Err(error),
        };
        match result {
            Err(error) if !matches!(error, Error::Store(_)) => {
                let token = DeviceId(id);
                if matches!(error, Error::TokenUsed) {
                    tracing::warn!(%token, "a token is presented by another device");
                }
                let (address, subject) = (caller.address().to_string(), format!("token {token}"));
                Err(self.deny(address, operation.name(), subject, error).await)
            }
            result => result,
        }
    }

    async fn enrol_with(
        self: &Arc<Self>,
        caller: &Caller,
        id: [u8; 16],
        proof: [u8; 32],
        keys: DeviceKeys,
        serial: Option<String>,
    ) -> Result<Outcome, Error> {
        let (this, now, address) = (self.clone(), self.now(), caller.address().to_string());
        let work = move |tx: &Tx<'_>| {
            let token = find_token(tx, &id, &proof)?;
            if let Some(used) = tx.token_use(&id, &keys.public_key)? {
                return this.enrol_again(tx, &token, &used, &keys, now);
            }
            check_serial(tx, &token, serial.as_deref())?;
            if token.used >= token.uses_max {
                return Err(Error::TokenUsed);
            }
            token.is_open(now)?;
            let name = free_name(tx, &token, serial.as_deref(), now)?;
            if !tx.use_token(&id)? {
                return Err(Error::TokenUsed);
            }
            let mut used = UseRow {
                token: id,
                public_key: keys.public_key.to_vec(),
                hpke_key: keys.hpke_bytes().to_vec(),
                name,
                serial,
                address,
                asked: now,
                device: None,
                denied: None,
            };
            if token.approval {
                tx.insert_use(&used)?;
                let subject = format!("{} ({}) key {}", used.name, token.role.name(), key_text(&used));
                this.audit(tx, &used.address, "ask-to-enrol", &subject)?;
                tracing::info!(name = used.name, "asks to enrol");
                return Ok(Outcome::Waits(waiting(&used, now)));
            }
            let (device, certificate) = this.admit(tx, token, &used, now)?;
            used.device = Some(device.id);
            tx.insert_use(&used)?;
            let plan = Plan::issue(&this, tx, &device, now)?;
            Ok(Outcome::Enrolled(Enrolled { device, certificate, plan }.into()))
        };
        self.store.write(work).await
    }

    /// Makes a device of whoever presented a token: its row, its certificate, the line in the audit log.
    pub(super) fn admit(
        self: &Arc<Self>,
        tx: &Tx<'_>,
        token: TokenRow,
        used: &UseRow,
        now: u64,
    ) -> Result<(DeviceRow, Vec<u8>), Error> {
        let public_key: Point =
            used.public_key.as_slice().try_into().map_err(|_| StoreError::Corrupt("token_uses"))?;
        let given = given_by(tx, &token)?;
        let (attributes, policy) = in_all(tx, &given, token.role)?;
        let mut device = DeviceRow {
            id: DeviceId(random()),
            name: used.name.clone(),
            role: token.role,
            serial: used.serial.clone(),
            attributes,
            policy,
            profile: given.profile.clone(),
            group: given.group.clone(),
            hosts: token.hosts,
            hpke_key: used.hpke_key.clone(),
            enrolled: now,
            certificate_expires: 0,
            revision: 0,
            suspension: None,
            revocation: None,
            is_reset: false,
        };
        let issued = self.certify(&device, &public_key, self.certificate_seconds(tx, &given)?, now);
        device.certificate_expires = issued.not_after;
        tx.insert_device(&device)?;
        tx.set_given(device.id, &given)?;
        device.revision = tx.counter("revision")?;
        self.tell(tx, device.id)?;
        tx.insert_certificate(device.id, &public_key, &issued)?;
        let subject = format!("{} {} ({}){}", device.name, device.id, device.role.name(), named(&given));
        self.audit(tx, &used.address, "enrol", &subject)?;
        tracing::info!(device = %device.id, name = device.name, role = device.role.name(), "enrolled");
        Ok((device, issued.der))
    }

    /// The answer again, for whoever used the token with these keys or waits to.
    fn enrol_again(
        &self,
        tx: &Tx<'_>,
        token: &TokenRow,
        used: &UseRow,
        keys: &DeviceKeys,
        now: u64,
    ) -> Result<Outcome, Error> {
        // A signing request is no secret: with it alone nobody may have the keys sealed to a key of their own.
        if used.hpke_key != keys.hpke_bytes() {
            return Err(Error::TokenUsed);
        }
        let Some(device) = used.device else {
            if used.denied.is_some() {
                return Err(Error::Denied);
            }
            token.is_open(now)?;
            return Ok(Outcome::Waits(waiting(used, now)));
        };
        if now >= token.expires.saturating_add(RETRY_SECONDS) {
            return Err(Error::TokenExpired);
        }
        let device = tx.device(device)?.ok_or(Error::UnknownCaller)?;
        device.stands()?;
        let certificate = tx.certificate(device.id, &keys.public_key)?.ok_or(Error::TokenExpired)?;
        let plan = Plan::issue(self, tx, &device, now)?;
        Ok(Outcome::Enrolled(Enrolled { device, certificate, plan }.into()))
    }

    /// A new certificate for whoever the old one names. For whoever enrolled, and for a while after it expired if
    /// the key is the same.
    ///
    /// # Errors
    /// [`Error`], saying why not.
    pub async fn renew(self: &Arc<Self>, caller: &Caller, request: RenewRequest) -> Result<Enrolment, Error> {
        let keys = || DeviceKeys::parse(&request.csr, &request.hpke_key);
        let enrolled = self.renew_with(caller, Operation::Renew, keys).await?;
        self.enrolment(enrolled).await
    }

    /// The same, however it is asked for.
    pub(super) async fn renew_with(
        self: &Arc<Self>,
        caller: &Caller,
        operation: Operation,
        keys: impl FnOnce() -> Result<DeviceKeys, Error>,
    ) -> Result<Enrolled, Error> {
        let now = self.now();
        let at = self.renewal_time(caller, now).await;
        let known = self.authorise_holder(caller, operation, at).await?;
        let keys = keys()?;
        if at != now && keys.public_key != known.public_key {
            let error =
                Error::invalid("csr", "after its expiry a certificate is renewed for the same key only");
            let error = error.with_hint("enrol again with a new token");
            return Err(self.deny(known.actor, operation.name(), String::new(), error).await);
        }
        let (this, id) = (self.clone(), known.device.id);
        let renew = move |tx: &Tx<'_>| {
            let mut device = tx.device(id)?.ok_or(Error::UnknownCaller)?;
            device.stands()?;
            let issued = this.certify(
                &device,
                &keys.public_key,
                this.certificate_seconds(tx, &tx.given(&device)?)?,
                now,
            );
            if keys.hpke_key.is_some() {
                device.hpke_key = keys.hpke_bytes().to_vec();
            }
            device.certificate_expires = issued.not_after;
            tx.renew_device(id, &device.hpke_key, issued.not_after)?;
            device.revision = tx.counter("revision")?;
            this.tell(tx, id)?;
            tx.insert_certificate(id, &keys.public_key, &issued)?;
            this.audit(tx, &known.actor, "renew", "")?;
            tracing::info!(device = %id, "renewed");
            let plan = Plan::issue(&this, tx, &device, now)?;
            Ok(Enrolled { device, certificate: issued.der, plan })
        };
        let renewed = self.store.write(renew).await?;
        self.count_renewal(caller);
        Ok(renewed)
    }

    /// When the caller's certificate has to be valid: now, or, if the device's last one expired not too long ago, then. A
    /// restored authority may not know the last one: then it is the one that the caller has.
    async fn renewal_time(&self, caller: &Caller, now: u64) -> u64 {
        let Some(id) = caller.device() else { return now };
        let known =
            self.store.read(move |tx| Ok(tx.device(id)?.map(|device| device.certificate_expires))).await;
        match known {
            Ok(Some(known)) => {
                let expires = known.max(caller.certificate_expires().unwrap_or(known));
                let late = now > expires && now - expires <= self.config.renewal_window_seconds();
                if late { expires } else { now }
            }
            _ => now,
        }
    }

    /// How long a certificate is valid for whoever was given this.
    fn certificate_seconds(&self, tx: &Tx<'_>, given: &GivenRow) -> Result<u64, Error> {
        let days = profile_of(tx, given)?.and_then(|profile| profile.certificate_days);
        Ok(days.map_or(self.config.certificate_seconds(), |days| days * 86_400))
    }

    fn certify(&self, device: &DeviceRow, key: &Point, seconds: u64, now: u64) -> Issued {
        let identity = Identity {
            tenant: self.secrets.roots().tenant(),
            role: device.role,
            id: device.id,
            name: device.name.clone(),
        };
        let mut hosts = Vec::new();
        let mut usage = Usage::Client;
        if device.role == Role::Broker {
            usage = Usage::ServerAndClient;
            hosts = local_hosts();
            let own = device.hosts.iter().filter_map(|host| Host::parse(host));
            own.for_each(|host| {
                if !hosts.contains(&host) {
                    hosts.push(host)
                }
            });
        }
        let leaf = Leaf { identity: &identity, public_key: key, usage, hosts: &hosts, now, seconds };
        let issued = self.secrets.roots().issuing().issue(&leaf);
        debug_assert!(issued.der.len() <= CERTIFICATE_BYTES_MAX);
        issued
    }

    async fn enrolment(self: &Arc<Self>, enrolled: Enrolled) -> Result<Enrolment, Error> {
        let keys = self.derive(enrolled.plan, true).await?;
        let in_trust = self.roots();
        Ok(Enrolment {
            id: enrolled.device.id.to_string(),
            name: enrolled.device.name,
            role: enrolled.device.role.name().to_owned(),
            certificate: STANDARD.encode(enrolled.certificate),
            root: STANDARD.encode(self.root()),
            roots: match &in_trust[..] {
                [_] => Vec::new(),
                all => all.iter().map(|root| STANDARD.encode(root)).collect(),
            },
            params: self.params().into_iter().map(|params| STANDARD.encode(params)).collect(),
            bundle: STANDARD.encode(&self.bundle.borrow().bytes),
            keys,
            policy: enrolled.device.policy.as_ref().map(ToString::to_string),
            revision: enrolled.device.revision,
            broker: self.broker_url.read().unwrap_or_else(PoisonError::into_inner).clone(),
        })
    }
}

/// The token of this id, if the proof is that of its secret.
fn find_token(tx: &Tx<'_>, id: &[u8; 16], proof: &[u8; 32]) -> Result<TokenRow, Error> {
    let token = tx.token(id)?.ok_or(Error::TokenUnknown)?;
    if equal(&token.secret_hash, proof) { Ok(token) } else { Err(Error::TokenUnknown) }
}

impl TokenRow {
    /// Whether anybody may still enrol with it, its uses aside.
    pub(super) fn is_open(&self, now: u64) -> Result<(), Error> {
        match self.removed {
            Some(_) => Err(Error::TokenRemoved),
            None if now >= self.expires => Err(Error::TokenExpired),
            None => Ok(()),
        }
    }
}

/// Whether the token is for this serial, and nobody had it yet.
fn check_serial(tx: &Tx<'_>, token: &TokenRow, serial: Option<&str>) -> Result<(), Error> {
    let serials = tx.serials(&token.id)?;
    match serial {
        None if serials.is_empty() => Ok(()),
        None => Err(Error::invalid("serial", "this token is for devices of certain serials")
            .with_hint("enrol with `--serial` and the device's own")),
        Some(_) if serials.is_empty() => {
            Err(Error::invalid("serial", "this token knows no serials").with_hint("enrol without `--serial`"))
        }
        Some(serial) if serials.iter().all(|listed| listed != serial) => Err(Error::SerialUnknown),
        Some(serial) => match tx.use_of_serial(&token.id, serial)? {
            Some(_) => Err(Error::TokenUsed),
            None => Ok(()),
        },
    }
}

/// The name for whoever uses a token next.
fn free_name(tx: &Tx<'_>, token: &TokenRow, serial: Option<&str>, now: u64) -> Result<String, Error> {
    let is_free = |name: &str| {
        if tx.active_device(name)?.is_some() || tx.is_kept(name, &token.id, now)? {
            return Ok(false);
        }
        tx.deny_in_vain(name, now)?;
        Ok::<_, Error>(!tx.is_waiting(name)?)
    };
    let fixed = match serial {
        _ if token.uses_max == 1 => Some(token.name.clone()),
        Some(serial) => Some(format!("{}-{serial}", token.name)),
        None => None,
    };
    if let Some(name) = fixed {
        // The token may be older than this check of what it names.
        check_new_name(&name).map_err(|error| Error::invalid("name", error))?;
        return if is_free(&name)? { Ok(name) } else { Err(Error::NameTaken { name }) };
    }
    let first = tx.count_uses(&token.id)?.saturating_add(1);
    for number in first..first.saturating_add(NAMES_TRIED_MAX) {
        let name = format!("{}-{number}", token.name);
        if is_free(&name)? {
            return Ok(name);
        }
    }
    Err(Error::NameTaken { name: format!("{}-{first}", token.name) })
}

fn waiting(used: &UseRow, now: u64) -> Waiting {
    let tenth = now.saturating_sub(used.asked) / 10;
    Waiting {
        name: used.name.clone(),
        key: key_text(used),
        retry_after_seconds: tenth.clamp(*RETRY_AFTER_SECONDS.start(), *RETRY_AFTER_SECONDS.end()),
    }
}

/// What a person compares of a signing key.
pub(super) fn key_text(used: &UseRow) -> String {
    sha256(&[&used.public_key])[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn base64(text: &str, bytes_max: usize) -> Option<Vec<u8>> {
    (text.len() <= bytes_max.div_ceil(3) * 4).then(|| STANDARD.decode(text).ok())?
}

pub(super) fn hex16(text: &str) -> Option<[u8; 16]> {
    text.parse::<DeviceId>().ok().map(|id| id.0)
}
