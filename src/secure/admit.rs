//! Who is let in.

use std::sync::Arc;
use std::time::Duration;

use smqtt_client::enrol::validity;
use smqtt_client::mqtt::READER_PROPERTY;
use smqtt_core::identity::{DeviceId, Identity, Role, verify_certificate};

use super::hook::SecurePublish;
use super::refused::Refused;
use super::session::{RootTag, Session, root_tag};
use crate::broker::{Admission, Attachment, ConnectRequest, Whose};
use crate::mqtt::{ReasonCode, Text, Version};

/// How long a client may wait for the authority, which perhaps knows it better. Less than clients and
/// [`Limits::connect_timeout`](crate::broker::Limits::connect_timeout) wait.
const DIRECTORY_WAIT: Duration = Duration::from_secs(3);

impl SecurePublish {
    /// As whom a client is let in.
    pub(super) async fn admit(&self, request: &ConnectRequest) -> Result<Admission, Refused> {
        // Who does not hear of revocations lets nobody in.
        if !self.view.is_fresh(self.max_staleness, DIRECTORY_WAIT).await {
            return Err(Refused::stale(ReasonCode::ServerUnavailable));
        }
        let wants = request.client_id.as_str();
        let who = match request.certificates.as_ref().and_then(|chain| chain.first()) {
            Some(leaf) => Some(self.identify(leaf).await?),
            None if self.anonymous => None,
            None => return Err(no_certificate()),
        };
        let device = who.as_ref().map(|(who, ..)| who.id);
        // `name` and `name/anything` belong to the device of that name.
        let stem = wants.split('/').next().unwrap_or_default();
        let own = who.as_ref().is_some_and(|(who, ..)| stem == who.name || who.id.to_string() == stem);
        if !wants.is_empty() && !own {
            if self.view.owner_of(stem).is_none() {
                // Perhaps it enrolled a moment ago.
                let _ = self.ask_directory().await;
            }
            if self.view.owner_of(stem).is_some_and(|owner| Some(owner) != device) {
                let text = format!("the client id `{wants}` belongs to another device");
                return Err(Refused::new("client-id", ReasonCode::ClientIdentifierNotValid, text));
            }
        }
        let property = |(k, v): &(Text, Text)| (k.as_str(), v.as_str()) == READER_PROPERTY;
        let reader = request.version == Version::V5 && request.user_properties.iter().any(property);
        let assigned = who.as_ref().map(|(Identity { name, .. }, ..)| {
            let random: [u8; 8] = smqtt_core::crypto::random();
            Text::from(format!("{name}/{:016x}", u64::from_be_bytes(random)))
        });
        let bridge = who.as_ref().filter(|(who, ..)| who.role == Role::Bridge);
        let bridge = bridge.map(|(who, ..)| self.bridges.get(who.id, self.headers.limits(), self.view.now()));
        let mut session = Session::new(device, reader).bridged(bridge);
        if let Some((_, until, root)) = who {
            session = session.expiring(root, self.expiries.add(until, request.connection));
        }
        // Who asks for compact messages learns that it gets them.
        let answer = reader.then(|| (READER_PROPERTY.0.into(), READER_PROPERTY.1.into()));
        Ok(Admission {
            identity: device.map(|id| Text::from(id.to_string())),
            client_id: assigned,
            attachment: Some(Arc::new(session)),
            user_properties: answer.into_iter().collect(),
        })
    }

    /// Who holds this certificate, until when, and from which root; a device or bridge of the authority that was not revoked.
    async fn identify(&self, leaf: &[u8]) -> Result<(Identity, u64, RootTag), Refused> {
        let refused = |text: String| Refused::new("certificate", ReasonCode::NotAuthorized, text);
        let (roots, now) = (self.view.roots(), self.view.now());
        let verified = verify_certificate(leaf, &roots, now).map_err(|error| refused(error.to_string()))?;
        let issued = |root: &&Vec<u8>| {
            roots.len() == 1 || verify_certificate(leaf, std::slice::from_ref(*root), now).is_ok()
        };
        let root = roots.iter().find(issued).map_or(0, |root| root_tag(root));
        let identity = verified.identity;
        if !matches!(identity.role, Role::Device | Role::Bridge) {
            return Err(refused(format!(
                "a certificate of the role `{}` is no device's",
                identity.role.name()
            )));
        }
        if self.view.peer(identity.id).is_none() {
            let asked = self.ask_directory().await;
            match self.view.peer(identity.id) {
                None if asked => return Err(unknown()),
                None => {
                    tracing::warn!(device = %identity.id, "cannot ask the authority for a device's attributes")
                }
                Some(_) => {}
            }
        }
        self.stands(identity.id)?;
        let (_, until) =
            validity(leaf).ok_or_else(|| refused("it does not say until when it holds".into()))?;
        self.view.saw_certificate(identity.id, until);
        Ok((identity, until, root))
    }

    /// Whether a device still is one.
    pub(super) fn stands(&self, device: DeviceId) -> Result<(), Refused> {
        let inactive = self.view.peer(device).is_some_and(|peer| !peer.active);
        if inactive || self.view.bundle().is_revoked(device) { Err(Refused::revoked()) } else { Ok(()) }
    }

    /// Whether the authority answered, in time to answer the client.
    pub(super) async fn ask_directory(&self) -> bool {
        match tokio::time::timeout(DIRECTORY_WAIT, self.view.refresh_directory()).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::debug!(%error, "the directory is not to be had");
                false
            }
            Err(_) => false,
        }
    }

    /// What [`admit`](Self::admit) left with a client of whom a will is still to be published.
    pub(super) fn readmit(&self, client: &Whose<'_>) -> Option<Attachment> {
        let device = client.identity.and_then(|id| id.parse().ok());
        if device.is_some_and(|device| self.view.bundle().is_revoked(device)) {
            return None;
        }
        Some(Arc::new(Session::new(device, false)))
    }
}

/// A client that shows no certificate.
pub(super) fn no_certificate() -> Refused {
    let text = "a client certificate of the authority is needed";
    Refused::new("no-certificate", ReasonCode::NotAuthorized, text)
}

/// A device that the directory does not have.
pub(super) fn unknown() -> Refused {
    Refused::new("certificate", ReasonCode::NotAuthorized, "the authority does not know this device")
}
