//! Going through all that a broker holds, for whoever must apply a new rule to what is there already.

use std::{net::SocketAddr, sync::Arc, sync::atomic::Ordering};

use hashbrown::HashMap;

use super::{
    core::Core,
    events::Whose,
    handle::{BrokerHandle, Stored},
    handshake,
    hook::Client,
    message::Message,
    session::{Session, SessionState, Subscribed},
};
use crate::mqtt::{ReasonCode, SharedFilter, Text, Version};

/// Retained messages that are looked at before others have their turn.
const PAGE: usize = 512;

/// A session, as [`BrokerHandle::look_at_sessions`] and [`BrokerHandle::disconnect_where`] show it.
#[non_exhaustive]
pub struct SessionInfo<'a> {
    /// Client id.
    pub client_id: &'a Text,
    /// Whose it is.
    pub identity: Option<&'a Text>,
    /// The present connection, if there is one.
    pub client: Option<&'a Client>,
    subscriptions: &'a HashMap<Text, Subscribed>,
}

impl<'a> SessionInfo<'a> {
    fn of(session: &'a Session, state: &'a SessionState) -> Self {
        Self {
            client_id: &session.client_id,
            identity: session.owner.as_ref(),
            client: state.link.as_ref().map(|link| &*link.client),
            subscriptions: &state.subscriptions,
        }
    }

    /// Its filters, without the `$share/{group}/` of shared subscriptions.
    pub fn filters(&self) -> impl Iterator<Item = &str> {
        self.subscriptions.keys().map(|filter| match SharedFilter::parse(filter) {
            Some(Some(shared)) => shared.filter,
            _ => filter.as_str(),
        })
    }
}

impl BrokerHandle {
    /// Shows every session, connected or stored. `look` must not ask the broker anything.
    pub fn look_at_sessions(&self, mut look: impl FnMut(&SessionInfo<'_>)) {
        for session in self.core.sessions() {
            look(&SessionInfo::of(&session, &session.lock()));
        }
    }

    /// [`disconnect`](Self::disconnect) for every session that `which` picks; gives their client ids. `which` must not ask
    /// the broker anything.
    pub fn disconnect_where(
        &self,
        which: impl Fn(&SessionInfo<'_>) -> bool,
        reason: ReasonCode,
        text: &str,
        stored: Stored,
    ) -> Vec<Text> {
        self.core.revocations.fetch_add(1, Ordering::SeqCst);
        let mut cut = Vec::new();
        for session in self.core.sessions() {
            let mut state = session.lock();
            if !which(&SessionInfo::of(&session, &state)) {
                continue;
            }
            if stored == Stored::Keep {
                state.kick(reason, text);
            }
            drop(state);
            if stored == Stored::Discard {
                self.core.discard(&session, reason, text);
            }
            cut.push(session.client_id.clone());
        }
        cut
    }

    /// Removes the retained messages that `refused` picks; gives how many. Others have their turn in between, so what comes
    /// meanwhile may be looked at or not.
    pub async fn remove_retained(&self, mut refused: impl FnMut(&Message) -> bool + Send) -> usize {
        let (mut next, mut removed) = (Some(0), 0);
        while let Some(from) = next {
            let (page, then) = self.core.retained_page(from, PAGE);
            for message in page {
                removed += usize::from(refused(&message) && self.core.forget_retained(&message));
            }
            next = then;
            tokio::task::yield_now().await;
        }
        removed
    }

    /// Waits until all that was changed until now is on disk, where there is one; whether it is.
    pub async fn settled(&self) -> bool {
        self.core.store.settled().await
    }

    /// Asks the hooks again about every shared subscription, of clients that are away too, and removes what they refuse:
    /// what a member of a group may not have would reach nobody.
    pub async fn review_shared(&self) {
        for (number, session) in self.core.sessions().into_iter().enumerate() {
            let client = {
                let state = session.lock();
                let shared = state.subscriptions.keys().any(|filter| is_shared(filter));
                shared.then(|| state.link.as_ref().map(|link| link.client.clone()))
            };
            if let Some(client) = client {
                let client = client.unwrap_or_else(|| absent(&self.core, &session));
                handshake::ask_again(&self.core, &client, &session, is_shared);
            }
            if number % PAGE == 0 {
                tokio::task::yield_now().await;
            }
        }
    }
}

fn is_shared(filter: &str) -> bool {
    matches!(SharedFilter::parse(filter), Some(Some(_)))
}

/// A client that is away, as far as hooks can know it.
fn absent(core: &Core, session: &Session) -> Arc<Client> {
    let whose = Whose::new(&session.client_id, session.owner.as_ref());
    Arc::new(Client {
        // No connection has that number.
        connection: 0,
        peer: SocketAddr::from(([0, 0, 0, 0], 0)),
        version: Version::V5,
        client_id: session.client_id.clone(),
        identity: session.owner.clone(),
        user_properties: Vec::new(),
        attachments: core.hooks.revive(&whose),
    })
}
