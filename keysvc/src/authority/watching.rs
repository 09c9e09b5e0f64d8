//! What whoever looks after an authority can see of it: metrics, and whether it does what it is there for.

use std::path::Path;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;

use super::Authority;
use crate::error::Error;
use crate::pki::not_after;
use crate::store::{Room, STORE_FILES, Tally};

impl Authority {
    /// Its metrics, as text for Prometheus. What has to be looked up is looked up once a second at most.
    pub async fn metrics(&self) -> String {
        let now = self.now();
        let is_fresh = {
            let mut looked = self.counts.looked.lock().unwrap_or_else(PoisonError::into_inner);
            looked.replace(now) == Some(now)
        };
        if !is_fresh && let Err(error) = self.look(now).await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "metrics could not be read from the store"
            );
        }
        self.counts.metrics().render()
    }

    async fn look(&self, now: u64) -> Result<(), Error> {
        let found = &self.counts.found;
        found.bundle.set(number(self.bundle.borrow().number));
        found.expires_signer.set(number(not_after(self.secrets.signer().certificate()).unwrap_or(0)));
        found.expires_root.set(number(not_after(self.secrets.roots().issuing().certificate()).unwrap_or(0)));
        found.expires_admin.set(number(super::admin::not_after(&self.admin_dir).unwrap_or(0)));
        let limited = self.limited();
        found.limited_connections.set(number(limited.connections.load(Relaxed)));
        found.limited_addresses.set(number(limited.addresses.load(Relaxed)));
        found.limited_callers.set(number(limited.callers.load(Relaxed)));
        let length = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
        let store: u64 = STORE_FILES.iter().map(|name| length(&self.store.path().with_file_name(name))).sum();
        found.store_bytes.set(number(store));
        let (epoch, tally) = self.store.read(|tx| Ok((tx.current_epoch()?.number, tx.tally()?))).await?;
        let Tally { active, suspended, revoked, audit_rows, audit_bytes, audit_last, checkpoint } = tally;
        found.epoch.set(number(epoch));
        found.devices_active.set(number(active));
        found.devices_suspended.set(number(suspended));
        found.devices_revoked.set(number(revoked));
        found.audit_rows.set(number(audit_rows));
        found.audit_bytes.set(number(audit_bytes));
        let (signed, at) = checkpoint.unwrap_or((0, now));
        found.audit_unsigned.set(number(audit_last.saturating_sub(signed)));
        found.checkpoint_age.set(number(now.saturating_sub(at)));
        Ok(())
    }

    /// Whether it does what it is there for: each part with what is wrong with it.
    pub async fn ready(&self) -> Vec<(&'static str, Result<(), String>)> {
        let check = |holds: bool, problem: &str| if holds { Ok(()) } else { Err(problem.to_owned()) };
        let store = match self.health().await {
            Ok(()) => check(!self.counts.is_failing(), "it cannot be written: every change is refused"),
            Err(_) => Err("it cannot be read".to_owned()),
        };
        let ends = u64::try_from(self.counts.found.expires_server.get()).unwrap_or(0);
        vec![
            ("listeners", check(self.is_serving(), "no connections are accepted")),
            ("store", store),
            (
                "space",
                check(self.store.room() == Room::Enough, "the disk is nearly full: changes are refused"),
            ),
            ("certificate", check(self.now() < ends, "the server's own has expired")),
        ]
    }
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
