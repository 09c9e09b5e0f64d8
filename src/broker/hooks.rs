//! Asks and tells the hooks of a broker.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    counts::Counts,
    events::{Disconnection, Dropped, Whose},
    hook::{
        Admission, Client, ConnectRequest, ConnectVerdict, DeliverVerdict, Denial, Hook, Point,
        SubscribeRequest, Verdict,
    },
    message::{Attachment, Delivery, Message, Publication},
    metrics::Metrics,
};
use crate::mqtt::ReasonCode;

/// The hooks of a broker, in order. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Hooks(Arc<Asked>);

/// Who is called at each point. A hook that panics brings nothing down: what it was asked it refuses.
struct Asked {
    all: Vec<Arc<dyn Hook>>,
    publish: Vec<Arc<dyn Hook>>,
    deliver: Vec<Arc<dyn Hook>>,
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
            deliver: at(Point::Deliver),
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
                Some(Verdict::Deny(denial)) => return Err(denial),
                Some(Verdict::Defer) => {}
                None => return Err(Denial::new(ReasonCode::ImplementationSpecificError, "a hook failed")),
            }
        }
        if allowed { Ok(()) } else { Err(Denial::new(ReasonCode::NotAuthorized, "not allowed by any hook")) }
    }

    pub(crate) async fn connect(&self, request: &ConnectRequest) -> Result<Admission, Denial> {
        let mut allowed = self.0.allow_by_default;
        let mut admission = Admission::default();
        for hook in &self.0.all {
            match hook.connect(request).await {
                ConnectVerdict::Allow(given) => {
                    allowed = true;
                    admission.identity = admission.identity.or(given.identity);
                    admission.client_id = admission.client_id.or(given.client_id);
                    admission.attachment = admission.attachment.or(given.attachment);
                    admission.user_properties.extend(given.user_properties);
                }
                ConnectVerdict::Deny(denial) => return Err(denial),
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

    pub(crate) fn publish(&self, client: &Client, publication: &mut Publication) -> Result<(), Denial> {
        self.decide(&self.0.publish, |hook| hook.publish(client, publication))
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

    pub(crate) fn recall(&self, message: &Message, keepsake: &Bytes) -> Option<Attachment> {
        self.0.all.iter().find_map(|hook| hook.recall(message, keepsake))
    }

    pub(crate) fn revive(&self, client: &Whose<'_>) -> Option<Attachment> {
        self.0.all.iter().find_map(|hook| hook.revive(client))
    }

    pub(crate) fn disconnect(&self, client: &Client, end: Disconnection) {
        tell(&self.0.all, |hook| hook.disconnect(client, end));
    }
}

fn tell(hooks: &[Arc<dyn Hook>], mut tell: impl FnMut(&dyn Hook)) {
    for hook in hooks {
        caught(hook.as_ref(), &mut tell);
    }
}

/// Calls a hook; `None` if it panicked. Many points are called by threads that serve everybody.
fn caught<T>(hook: &dyn Hook, call: impl FnOnce(&dyn Hook) -> T) -> Option<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| call(hook)))
        .inspect_err(|_| tracing::error!(hook = hook.name(), "a hook panicked"))
        .ok()
}
