//! Asks and tells the hooks of a broker.

use std::{sync::Arc, task::Poll};

use bytes::Bytes;

use super::{
    counts::Counts,
    events::{Acknowledged, Attempt, Begun, Disconnection, Dropped, Published, SessionEnd, Whose},
    hook::{
        Client, ConnectRequest, ConnectVerdict, DeliverVerdict, Denial, Hook, Point, SubscribeRequest,
        Verdict,
    },
    message::{Attachment, Delivery, Message, Origin, Publication},
    metrics::Metrics,
    session::outgoing::Queued,
};
use crate::mqtt::{ReasonCode, Text, UserProperties};

/// The hooks of a broker, in order. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Hooks(Arc<Asked>);

/// Who is called at each point.
struct Asked {
    all: Vec<Arc<dyn Hook>>,
    publish: Vec<Arc<dyn Hook>>,
    published: Vec<Arc<dyn Hook>>,
    deliver: Vec<Arc<dyn Hook>>,
    acknowledged: Vec<Arc<dyn Hook>>,
    dropped: Vec<Arc<dyn Hook>>,
    counts: Arc<Counts>,
    allow_by_default: bool,
}

impl Hooks {
    pub(crate) fn new(
        hooks: Vec<Box<dyn Hook>>,
        allow_by_default: bool,
        metrics: &Metrics,
        counts: Arc<Counts>,
    ) -> Self {
        let all: Vec<Arc<dyn Hook>> = hooks.into_iter().map(Arc::from).collect();
        tell(&all, |hook| hook.metrics(metrics));
        let at =
            |point| all.iter().filter(|hook| hook.points().contains(&point)).cloned().collect::<Vec<_>>();
        Self(Arc::new(Asked {
            publish: at(Point::Publish),
            published: at(Point::Published),
            deliver: at(Point::Deliver),
            acknowledged: at(Point::Acknowledged),
            dropped: at(Point::Dropped),
            counts,
            all,
            allow_by_default,
        }))
    }

    /// Runs `ask` on each hook until one refuses.
    fn decide(
        &self,
        hooks: &[Arc<dyn Hook>],
        mut ask: impl FnMut(&dyn Hook) -> Verdict,
    ) -> Result<(), Denial> {
        let mut allowed = self.0.allow_by_default;
        for hook in hooks {
            match caught(hook.as_ref(), &mut ask) {
                Some(Verdict::Allow) => allowed = true,
                Some(Verdict::Deny(denial)) => return Err(self.counted(denial)),
                Some(Verdict::Defer) => {}
                None => return Err(failed()),
            }
        }
        if allowed { Ok(()) } else { Err(Denial::new(ReasonCode::NotAuthorized, "not allowed by any hook")) }
    }

    /// Counts the limit that a hook refuses for.
    fn counted(&self, denial: Denial) -> Denial {
        denial.limit.into_iter().for_each(|limit| self.0.counts.hit(limit));
        denial
    }

    pub(crate) async fn connect(&self, request: &ConnectRequest) -> Result<Admitted, Denial> {
        let mut allowed = self.0.allow_by_default;
        let mut admission = Admitted::default();
        for hook in &self.0.all {
            let hook = hook.as_ref();
            let mut asked = caught(hook, |hook| hook.connect(request)).ok_or_else(failed)?;
            let verdict = std::future::poll_fn(|cx| match caught(hook, |_| asked.as_mut().poll(cx)) {
                Some(poll) => poll.map(Some),
                None => Poll::Ready(None),
            });
            match verdict.await.ok_or_else(failed)? {
                ConnectVerdict::Allow(given) => {
                    allowed = true;
                    admission.identity = admission.identity.or(given.identity);
                    admission.client_id = admission.client_id.or(given.client_id);
                    admission.attachments.extend(given.attachment);
                    admission.user_properties.extend(given.user_properties);
                }
                ConnectVerdict::Deny(denial) => return Err(self.counted(denial)),
                ConnectVerdict::Defer => {}
            }
        }
        if allowed {
            Ok(admission)
        } else {
            Err(Denial::new(ReasonCode::NotAuthorized, "not allowed by any hook"))
        }
    }

    pub(crate) fn subscribe(&self, client: &Client, request: &SubscribeRequest<'_>) -> Result<(), Denial> {
        self.decide(&self.0.all, |hook| hook.subscribe(client, request))
    }

    /// Also for wills.
    pub(crate) fn publish(&self, client: &Client, publication: &mut Publication) -> Result<(), Denial> {
        match publication.origin {
            Origin::Publish => self.decide(&self.0.publish, |hook| hook.publish(client, publication)),
            Origin::WillAtConnect | Origin::Will => {
                self.decide(&self.0.all, |hook| hook.will(client, publication))
            }
        }
    }

    pub(crate) fn deliver(&self, client: &Client, delivery: &mut Delivery<'_>) -> DeliverVerdict {
        for hook in &self.0.deliver {
            match caught(hook.as_ref(), |hook| hook.deliver(client, delivery)) {
                Some(DeliverVerdict::Deliver) => {}
                Some(DeliverVerdict::Drop(text)) => return DeliverVerdict::Drop(text),
                None => return DeliverVerdict::Drop("a hook failed".into()),
            }
        }
        DeliverVerdict::Deliver
    }

    /// Whatever a session does not get passes here, once. No lock of a session or of the registry is held.
    pub(crate) fn dropped(&self, dropped: &Dropped<'_>) {
        self.0.counts.message_dropped(dropped.reason);
        tell(&self.0.dropped, |hook| hook.dropped(dropped));
    }

    /// Whether anybody wants to be told of messages that were accepted.
    pub(crate) fn hear_of_published(&self) -> bool {
        !self.0.published.is_empty()
    }

    pub(crate) fn published(&self, published: &Published<'_>) {
        tell(&self.0.published, |hook| hook.published(published));
    }

    pub(crate) fn acknowledged(&self, client: &Client, queued: &Queued) {
        let acknowledged = Acknowledged { message: &queued.message, qos: queued.qos };
        tell(&self.0.acknowledged, |hook| hook.acknowledged(client, &acknowledged));
    }

    pub(crate) fn connected(&self, client: &Client) {
        tell(&self.0.all, |hook| hook.connected(client));
    }

    pub(crate) fn disconnected(&self, client: &Client, end: Disconnection) {
        tell(&self.0.all, |hook| hook.disconnected(client, end));
    }

    pub(crate) fn refused(&self, attempt: &Attempt<'_>, denial: &Denial) {
        tell(&self.0.all, |hook| hook.refused(attempt, denial));
    }

    pub(crate) fn subscribed(&self, client: &Client, request: &SubscribeRequest<'_>) {
        tell(&self.0.all, |hook| hook.subscribed(client, request));
    }

    pub(crate) fn unsubscribed(&self, client: &Client, filter: &str) {
        tell(&self.0.all, |hook| hook.unsubscribed(client, filter));
    }

    pub(crate) fn session_begun(&self, client: &Client, begun: Begun) {
        tell(&self.0.all, |hook| hook.session_begun(client, begun));
    }

    pub(crate) fn session_taken_over(&self, client: &Client, by: &Client) {
        tell(&self.0.all, |hook| hook.session_taken_over(client, by));
    }

    pub(crate) fn session_ended(&self, whose: &Whose<'_>, end: SessionEnd) {
        tell(&self.0.all, |hook| hook.session_ended(whose, end));
    }

    pub(crate) fn recall(&self, message: &Message, keepsake: &Bytes) -> Option<Attachment> {
        let recall = |hook: &Arc<dyn Hook>| caught(hook.as_ref(), |hook| hook.recall(message, keepsake));
        self.0.all.iter().find_map(|hook| recall(hook).flatten())
    }

    pub(crate) fn revive(&self, client: &Whose<'_>) -> Box<[Attachment]> {
        let revive = |hook: &Arc<dyn Hook>| caught(hook.as_ref(), |hook| hook.revive(client));
        self.0.all.iter().filter_map(|hook| revive(hook).flatten()).collect()
    }
}

/// What all hooks together give to a connection.
#[derive(Default)]
pub(crate) struct Admitted {
    pub(crate) identity: Option<Text>,
    pub(crate) client_id: Option<Text>,
    pub(crate) attachments: Vec<Attachment>,
    pub(crate) user_properties: UserProperties,
}

/// In place of an answer.
fn failed() -> Denial {
    Denial::new(ReasonCode::ImplementationSpecificError, "a hook failed")
}

fn tell(hooks: &[Arc<dyn Hook>], mut tell: impl FnMut(&dyn Hook)) {
    for hook in hooks {
        caught(hook.as_ref(), &mut tell);
    }
}

/// Calls a hook; `None` if it panicked. Many points are called by threads that serve everybody.
fn caught<'a, T>(hook: &'a dyn Hook, call: impl FnOnce(&'a dyn Hook) -> T) -> Option<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| call(hook)))
        .inspect_err(|_| tracing::error!(hook = hook.name(), "a hook panicked"))
        .ok()
}
