//! What an authority counts, and under which names it shows that.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use smqtt_metrics::{Counter, Counters, Gauge, Histogram, Histograms, Metrics, Readings};

/// Where the buckets of a request's time end: reading, a synced commit, keys, a wait.
const REQUEST_SECONDS: &[f64] = &[0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0];
/// Where those of a commit end.
const COMMIT_SECONDS: &[f64] = &[0.0005, 0.002, 0.01, 0.05, 0.2, 1.0, 5.0];
/// Where those of the number of requests in one commit end.
const COMMIT_REQUESTS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 64.0, 256.0];

/// What an authority counts.
pub(crate) struct Counts {
    metrics: Metrics,
    requests: Counters<2>,
    request_seconds: Histograms<1>,
    refusals: Counters<1>,
    acts: Counters<1>,
    handshakes: Counters<1>,
    export_failures: Counters<1>,
    behind_file: Gauge,
    behind_syslog: Gauge,
    /// Connections that are open.
    pub(crate) connections: Gauge,
    /// 1 while changes are refused for want of space.
    pub(crate) read_only: Gauge,
    /// User secret keys that were derived and sealed to a device.
    pub(crate) keys: Counter,
    commit_seconds: Histogram,
    commit_requests: Histogram,
    commits_failed: Counter,
    failing: AtomicBool,
    /// What is read when somebody looks.
    pub(crate) found: Found,
    /// When that was, seconds since 1970.
    pub(crate) looked: Mutex<Option<u64>>,
}

/// What is as it was found last: mostly when somebody looks.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) epoch: Gauge,
    pub(crate) bundle: Gauge,
    pub(crate) devices_active: Gauge,
    pub(crate) devices_suspended: Gauge,
    pub(crate) devices_revoked: Gauge,
    pub(crate) free: Gauge,
    pub(crate) store_bytes: Gauge,
    pub(crate) audit_rows: Gauge,
    pub(crate) audit_bytes: Gauge,
    pub(crate) audit_unsigned: Gauge,
    pub(crate) checkpoint_age: Gauge,
    pub(crate) limited_connections: Gauge,
    pub(crate) limited_addresses: Gauge,
    pub(crate) limited_callers: Gauge,
    pub(crate) expires_server: Gauge,
    pub(crate) expires_signer: Gauge,
    pub(crate) expires_admin: Gauge,
    pub(crate) expires_root: Gauge,
}

impl Counts {
    /// Counts from nothing; `seal` is what the authority's secrets are sealed under.
    pub(crate) fn new(seal: &'static str) -> Self {
        let counts = Self {
            metrics: Metrics::default(),
            requests: Counters::new(["operation", "status"]),
            request_seconds: Histograms::with_bounds(["operation"], REQUEST_SECONDS),
            refusals: Counters::new(["code"]),
            acts: Counters::new(["act"]),
            handshakes: Counters::new(["result"]),
            export_failures: Counters::new(["sink"]),
            behind_file: Gauge::default(),
            behind_syslog: Gauge::default(),
            connections: Gauge::default(),
            read_only: Gauge::default(),
            keys: Counter::default(),
            commit_seconds: Histogram::new(COMMIT_SECONDS),
            commit_requests: Histogram::new(COMMIT_REQUESTS),
            commits_failed: Counter::default(),
            failing: AtomicBool::new(false),
            found: Found::default(),
            looked: Mutex::default(),
        };
        counts.register(seal);
        counts
    }

    fn register(&self, seal: &'static str) {
        let metrics = &self.metrics;
        let name = "smqtt_authority_requests";
        metrics.register(name, "Requests by operation and class of status", &self.requests);
        let name = "smqtt_authority_request_seconds";
        metrics.register(
            name,
            "From a request's head to its answer, waits for news included",
            &self.request_seconds,
        );
        metrics.register(
            "smqtt_authority_refusals",
            "Answers that are errors, by their code",
            &self.refusals,
        );
        metrics.register("smqtt_authority_acts", "Rows of the audit log, by what was done", &self.acts);
        metrics.register("smqtt_authority_keys_issued", "User secret keys handed out", &self.keys);
        metrics.register("smqtt_authority_handshakes", "TLS handshakes by result", &self.handshakes);
        metrics.register("smqtt_authority_connections", "Connections", &self.connections);
        let name = "smqtt_authority_commit_seconds";
        metrics.register(name, "Time of a commit of the store, sync included", &self.commit_seconds);
        let name = "smqtt_authority_commit_requests";
        metrics.register(name, "Requests that one commit answers", &self.commit_requests);
        let name = "smqtt_authority_commits_failed";
        metrics.register(name, "Commits that failed: nothing of them was done", &self.commits_failed);

        let name = "smqtt_authority_audit_export_failures";
        metrics.register(name, "Exports of the audit log that failed", &self.export_failures);
        let name = "smqtt_authority_audit_export_behind_rows";
        let behind = [("file", self.behind_file.clone()), ("syslog", self.behind_syslog.clone())];
        metrics.register(name, "Rows of the audit log that a sink does not have", &gauges("sink", behind));

        let found = &self.found;
        metrics.register("smqtt_authority_epoch", "Number of the current epoch", &found.epoch);
        metrics.register("smqtt_authority_bundle_number", "Number of the newest bundle", &found.bundle);
        let states = [
            ("active", found.devices_active.clone()),
            ("suspended", found.devices_suspended.clone()),
            ("revoked", found.devices_revoked.clone()),
        ];
        metrics.register("smqtt_authority_devices", "Who enrolled, by standing", &gauges("state", states));
        metrics.register("smqtt_authority_store_bytes", "Bytes of the store's files", &found.store_bytes);
        metrics.register("smqtt_authority_free_bytes", "Bytes free on the disk of the store", &found.free);
        let name = "smqtt_authority_read_only";
        metrics.register(name, "1 while changes are refused for want of space", &self.read_only);
        metrics.register("smqtt_authority_audit_rows", "Rows of the audit log", &found.audit_rows);
        let name = "smqtt_authority_audit_bytes";
        metrics.register(name, "Bytes of the audit log, judged by its last 1,000 rows", &found.audit_bytes);
        let name = "smqtt_authority_audit_unsigned_rows";
        metrics.register(name, "Rows of the audit log after the last checkpoint", &found.audit_unsigned);
        let name = "smqtt_authority_checkpoint_age_seconds";
        metrics.register(name, "Age of the audit log's last checkpoint", &found.checkpoint_age);
        let limited = [
            ("connections", found.limited_connections.clone()),
            ("addresses", found.limited_addresses.clone()),
            ("callers", found.limited_callers.clone()),
        ];
        let help = "Connections and requests that were turned away because there were too many";
        let limited = gauges("what", limited).rising();
        metrics.register("smqtt_authority_rate_limited", help, &limited);
        let ends = [
            ("server", found.expires_server.clone()),
            ("signer", found.expires_signer.clone()),
            ("admin", found.expires_admin.clone()),
            ("root", found.expires_root.clone()),
        ];
        let name = "smqtt_authority_certificate_expiry_timestamp_seconds";
        let help = "When the authority's own certificates end, since 1970";
        metrics.register(name, help, &gauges("certificate", ends));
        let info = Readings::new(["kind"], move |give| give([seal], 1.0));
        metrics.register("smqtt_authority_seal_info", "What its secrets are sealed under", &info);
        let info = Readings::new(["version"], |give| give([env!("CARGO_PKG_VERSION")], 1.0));
        metrics.register("smqtt_authority_build_info", "Version of the authority", &info);
        smqtt_metrics::register_process(metrics);
    }

    /// Where all of it is shown.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// A request was answered; `operation` is none where there is none at its path.
    pub(crate) fn answered(&self, operation: &str, status: u16, refused: Option<&str>, took: Duration) {
        let class = match status {
            ..200 => "1xx",
            200..300 => "2xx",
            300..400 => "3xx",
            400..500 => "4xx",
            500.. => "5xx",
        };
        self.requests.with([operation, class]).inc();
        self.request_seconds.with([operation]).observe(took.as_secs_f64());
        if let Some(code) = refused {
            self.refusals.with([code]).inc();
        }
    }

    /// The counter of rows of the audit log with this action.
    pub(crate) fn act(&self, action: &str) -> Counter {
        // What was refused, and why, is no act.
        self.acts.with([action.split(' ').next().unwrap_or_default()])
    }

    /// A handshake ended so.
    pub(crate) fn handshake(&self, result: &'static str) {
        self.handshakes.with([result]).inc();
    }

    /// The store committed so many requests, or failed to.
    pub(crate) fn committed(&self, requests: usize, took: Duration, done: bool) {
        if done {
            self.commit_seconds.observe(took.as_secs_f64());
            self.commit_requests.observe(requests as f64);
        } else {
            self.commits_failed.inc();
        }
        self.failing.store(!done, Ordering::Relaxed);
    }

    /// An export to this sink failed.
    pub(crate) fn export_failed(&self, sink: &str) {
        self.export_failures.with([sink]).inc();
    }

    /// How many rows this sink is behind.
    pub(crate) fn export_behind(&self, sink: &str) -> &Gauge {
        if sink == "syslog" { &self.behind_syslog } else { &self.behind_file }
    }

    /// Whether the last commit failed.
    pub(crate) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }
}

/// Gauges that differ in the value of one label.
fn gauges<const N: usize>(label: &'static str, each: [(&'static str, Gauge); N]) -> Readings<1> {
    Readings::new([label], move |give| {
        for (value, gauge) in &each {
            give([*value], gauge.get() as f64);
        }
    })
}
