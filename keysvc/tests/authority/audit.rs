//! The audit log seen from outside: whatever is changed in it shows.

use smqtt_core::api::{AuditRecord, Checkpoint};
use smqtt_core::audit::{AuditFault, Verified, Verifier, chain};
use smqtt_core::identity::Fingerprint;
use smqtt_core::token::Token;
use smqtt_keysvc::Config;

use crate::common::*;

struct Log {
    rows: Vec<AuditRecord>,
    checkpoints: Vec<Checkpoint>,
}

impl Log {
    async fn fetch(server: &Running) -> Self {
        let admin = server.admin();
        let rows = admin.get("/v1/audit").await.json();
        Self { rows, checkpoints: admin.get("/v1/audit/checkpoints").await.json() }
    }

    fn verify(&self, roots: &[Vec<u8>]) -> Result<Verified, AuditFault> {
        let mut verifier = Verifier::new(&self.checkpoints, roots)?;
        self.rows.iter().try_for_each(|row| verifier.row(row))?;
        verifier.finish()
    }
}

/// A log of some 200 rows, the last of them signed for.
async fn server_with_log() -> (Running, Log) {
    let server = Running::start().await;
    let admin = server.admin();
    for round in 0..12 {
        for n in 0..8 {
            server.token(&format!("d{round}-{n}"), &["x"]).await;
            admin.delete("/v1/rules?filter=none").await;
        }
        admin.post("/v1/epoch/rotate", &()).await;
        server.enrol(&format!("e{round}"), &["x"]).await;
        server.clock.advance(61);
        server.authority.housekeep().await.unwrap();
    }
    let log = Log::fetch(&server).await;
    assert!(log.rows.len() > 100 && log.checkpoints.len() >= 12);
    assert_eq!(log.checkpoints.last().unwrap().number, log.rows.last().unwrap().number);
    (server, log)
}

/// Numbers that look random and are the same every time (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end as u64) as usize
    }
}

/// Hashes anew from row `from` on, as whoever can write the store would.
fn rechain(rows: &mut [AuditRecord], from: usize) {
    let mut previous = match from {
        0 => [0; 32],
        n => rows[n - 1].hash.parse::<Fingerprint>().unwrap().0,
    };
    for (n, row) in rows.iter_mut().enumerate().skip(from) {
        row.number = n as u64 + 1;
        previous = chain(&previous, row.number, row.at, &row.actor, &row.action, &row.subject);
        row.hash = Fingerprint(previous).to_string();
    }
}

fn edit_text(random: &mut Random, text: &mut String) {
    let mut chars: Vec<char> = text.chars().collect();
    match random.below(3) {
        0 if !chars.is_empty() => drop(chars.remove(random.below(chars.len()))),
        1 if !chars.is_empty() => {
            let at = random.below(chars.len());
            chars[at] = if chars[at] == '0' { '1' } else { '0' };
        }
        _ => chars.insert(random.below(chars.len() + 1), 'x'),
    }
    *text = chars.into_iter().collect();
}

/// One change, and what it was; half of those to rows with the chain put right again.
fn edit(random: &mut Random, log: &mut Log) -> String {
    let n = random.below(log.rows.len());
    let what = random.below(9);
    match what {
        0 => edit_text(random, &mut log.rows[n].actor),
        1 => edit_text(random, &mut log.rows[n].action),
        2 => edit_text(random, &mut log.rows[n].subject),
        3 => log.rows[n].at ^= 1 << random.below(40),
        4 => drop(log.rows.remove(n)),
        5 => {
            let other = (n + 1 + random.below(log.rows.len() - 1)) % log.rows.len();
            log.rows.swap(n, other);
        }
        6 => {
            let copy = log.rows[random.below(log.rows.len())].clone();
            log.rows.insert(n, copy);
        }
        // The end cut off, and some of the checkpoints with it, but not the last.
        7 => {
            log.rows.truncate(n);
            return format!("truncated to {n}");
        }
        _ => {
            let n = random.below(log.checkpoints.len());
            let checkpoint = &mut log.checkpoints[n];
            match random.below(4) {
                0 => checkpoint.number ^= 1 << random.below(8),
                1 => checkpoint.at ^= 1 << random.below(20),
                2 => edit_text(random, &mut checkpoint.hash),
                _ => {
                    let hash = log.rows[random.below(log.rows.len())].hash.clone();
                    if hash == checkpoint.hash {
                        checkpoint.number += 1;
                    }
                    checkpoint.hash = hash;
                }
            }
            return format!("checkpoint {n}");
        }
    }
    let fixed = random.below(2) == 0;
    if fixed {
        rechain(&mut log.rows, 0);
    }
    format!("edit {what} at {n}, rechained: {fixed}")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_edit_of_the_log_is_found() {
    let (server, log) = server_with_log().await;
    let roots = server.roots();
    let whole = log.verify(&roots).unwrap();
    assert_eq!((whole.first, whole.last, whole.signed), (1, log.rows.len() as u64, log.rows.len() as u64));
    // 10,000 with SMQTT_AUDIT_EDITS=10000.
    let edits = std::env::var("SMQTT_AUDIT_EDITS").map_or(500, |edits| edits.parse().unwrap());
    let mut random = Random(1);
    let mut kinds = std::collections::BTreeMap::<String, u32>::new();
    for n in 0..edits {
        let mut edited = Log { rows: log.rows.clone(), checkpoints: log.checkpoints.clone() };
        let what = edit(&mut random, &mut edited);
        if edited.rows == log.rows && edited.checkpoints == log.checkpoints {
            // A row put in the place of its copy.
            continue;
        }
        let fault = edited.verify(&roots).expect_err(&format!("edit {n} was not found: {what}"));
        let kind = format!("{fault:?}").split(['(', ' ']).next().unwrap_or_default().to_owned();
        *kinds.entry(kind).or_insert(0) += 1;
    }
    // Each way in which a log can fail was seen.
    assert!(kinds.len() >= 6, "{kinds:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_of_another_authority_says_nothing() {
    let (server, mut log) = server_with_log().await;
    let (_other, foreign) = server_with_log().await;
    log.checkpoints[0] = foreign.checkpoints[0].clone();
    assert!(matches!(log.verify(&server.roots()), Err(AuditFault::Checkpoint(_))));
    // Nor does a device's signature: its certificate is of another role.
    let device = server.enrol("signer", &[]).await;
    let mut log = Log::fetch(&server).await;
    let key = smqtt_core::crypto::SigningKey::from_pkcs8(device.keys.signing.expose_pkcs8()).unwrap();
    let signer = smqtt_core::header::Signer::new(key, device.certificate()).unwrap();
    let row = log.rows.last().unwrap();
    let hash = row.hash.parse::<Fingerprint>().unwrap().0;
    log.checkpoints.push(smqtt_core::audit::checkpoint(&signer, row.number, server.now(), &hash));
    assert_eq!(log.verify(&server.roots()), Err(AuditFault::Checkpoint(row.number)));
}

#[tokio::test(flavor = "multi_thread")]
async fn old_rows_are_forgotten_up_to_a_checkpoint_and_the_rest_still_holds() {
    let config = Config { audit_days: Some(10), ..Config::default() };
    let server = Running::with(config).await;
    for day in 0..30 {
        server.token(&format!("d{day}"), &["x"]).await;
        server.clock.advance(DAY);
        server.authority.housekeep().await.unwrap();
    }
    let mut log = Log::fetch(&server).await;
    let first = log.rows[0].number;
    assert!(first > 10 && log.rows.len() >= 10, "begins with {first}");
    assert!(log.rows[0].at < server.now() - 9 * DAY);
    let verified = log.verify(&server.roots()).unwrap();
    assert_eq!(verified.first, first);
    assert!(matches!(server.authority.verify_audit().await, Ok(Ok(last)) if last == verified.last));
    // Not by anybody else, and not further than it was signed for.
    log.rows.remove(0);
    assert!(log.verify(&server.roots()).is_err());
    let unsigned = log.rows.iter().position(|row| log.checkpoints.iter().all(|c| c.number != row.number));
    if let Some(n) = unsigned {
        log.rows.drain(..=n);
        assert!(matches!(log.verify(&server.roots()), Err(AuditFault::Beginning(_))));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_fetches_checkpoints_gets_one_over_the_last_row() {
    let server = Running::start().await;
    for name in ["a", "b"] {
        server.token(name, &[]).await;
        let log = Log::fetch(&server).await;
        let verified = log.verify(&server.roots()).unwrap();
        assert_eq!((verified.signed, verified.unsigned_since), (verified.last, None));
    }
    let made = Log::fetch(&server).await.checkpoints.len();
    assert_eq!(Log::fetch(&server).await.checkpoints.len(), made, "over one row there is one");
    // Where nothing can be written there are those from before.
    server.token("c", &[]).await;
    server.authority.measure_space_with(|| Some(0));
    let _ = server.authority.housekeep().await;
    let log = Log::fetch(&server).await;
    let verified = log.verify(&server.roots()).unwrap();
    assert_eq!((log.checkpoints.len(), verified.unsigned()), (made, Some((verified.last, verified.last))));
}

/// What somebody who can write the store does while the authority is stopped.
async fn edited_while_stopped(server: Running, sql: &str) -> Running {
    let (dir, clock, config) = server.stop().await;
    let store = rusqlite::Connection::open(dir.path().join("data/authority/authority.db")).unwrap();
    store.execute_batch(sql).unwrap();
    drop(store);
    Running::again(dir, clock, config).await
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_cut_off_at_the_end_stay_missing_though_the_log_goes_on() {
    let server = Running::start().await;
    server.token("thief", &["x"]).await;
    // Before anybody signed for it.
    let server = edited_while_stopped(
        server,
        "DELETE FROM audit WHERE number = (SELECT max(number) FROM audit);
         DELETE FROM checkpoints",
    )
    .await;
    for n in 0..3 {
        server.token(&format!("d{n}"), &["x"]).await;
        server.clock.advance(61);
        server.authority.housekeep().await.unwrap();
    }
    let log = Log::fetch(&server).await;
    let row = log.rows.iter().find(|row| row.action == "audit-altered").unwrap().number;
    assert_eq!(log.verify(&server.roots()), Err(AuditFault::Altered(row)));
    assert_eq!(server.authority.verify_audit().await.unwrap(), Err(row));
    assert_eq!(log.rows.iter().filter(|row| row.action == "audit-altered").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_emptied_or_cut_back_to_an_end_it_once_had_is_found_out() {
    let server = Running::start().await;
    server.token("thief", &["x"]).await;
    let (dir, clock, config) = server.stop().await;
    let path = dir.path().join("data/authority/authority.db");
    let head: Vec<u8> = {
        let store = rusqlite::Connection::open(&path).unwrap();
        let sql = "SELECT bytes FROM documents WHERE name = 'audit-head'";
        store.query_row(sql, [], |row| row.get(0)).unwrap()
    };
    let server = Running::again(dir, clock, config).await;
    let ended = last_row(&server).await;
    server.token("accomplice", &["x"]).await;
    let hex: String = head.iter().map(|byte| format!("{byte:02x}")).collect();
    let cut = format!(
        "DELETE FROM audit WHERE number > {ended}; DELETE FROM checkpoints WHERE number > {ended};
         UPDATE documents SET bytes = x'{hex}' WHERE name = 'audit-head'"
    );
    let server = edited_while_stopped(server, &cut).await;
    assert!(server.authority.verify_audit().await.unwrap().is_err(), "cut back");
    let server = Running::start().await;
    server.token("thief", &["x"]).await;
    let empty = "DELETE FROM audit; DELETE FROM checkpoints; DELETE FROM documents WHERE name = 'audit-head'";
    let server = edited_while_stopped(server, empty).await;
    assert!(server.authority.verify_audit().await.unwrap().is_err(), "emptied");
    server.token("d", &["x"]).await;
    assert!(Log::fetch(&server).await.rows.iter().any(|row| row.action == "audit-altered"));
}

async fn last_row(server: &Running) -> u64 {
    Log::fetch(server).await.rows.last().unwrap().number
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_cut_off_at_a_checkpoint_is_not_taken_for_one_that_was_pruned() {
    let (server, log) = server_with_log().await;
    let upto = log.checkpoints[5].number;
    let cut =
        format!("DELETE FROM audit WHERE number <= {upto}; DELETE FROM checkpoints WHERE number < {upto}");
    let server = edited_while_stopped(server, &cut).await;
    let log = Log::fetch(&server).await;
    assert_eq!(log.verify(&server.roots()), Err(AuditFault::CutOff(upto + 1)));
    assert_eq!(server.authority.verify_audit().await.unwrap(), Err(upto));
    // To say that the authority did it, somebody has to write at the end, which is not theirs.
    let row = format!(
        "INSERT INTO audit SELECT number + 1, at, 'authority', 'forget-audit', 'rows to {upto}', hash
         FROM audit ORDER BY number DESC LIMIT 1"
    );
    let server = edited_while_stopped(server, &row).await;
    server.token("d", &["x"]).await;
    assert!(Log::fetch(&server).await.rows.iter().any(|row| row.action == "audit-altered"));
    assert!(server.authority.verify_audit().await.unwrap().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_issued_on_record() {
    let server = Running::start().await;
    let device = server.enrol_with_policy("a", &["x"], "ward=3").await;
    server.admin().post("/v1/epoch/rotate", &()).await;
    assert_eq!(server.client(&device).get("/v1/keys").await.status.as_u16(), 200);
    let rows: Vec<AuditRecord> = server.admin().get("/v1/audit").await.json();
    let issued: Vec<_> = rows.iter().filter(|row| row.action == "issue-keys").collect();
    assert_eq!(issued.len(), 2);
    assert_eq!(issued[0].actor, format!("a {}", device.id()));
    assert_eq!(issued[1].subject, "fabeo-cp 1,2 fabeo-kp 1,2");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_used_token_hides_no_alarm_of_another() {
    let server = Running::start().await;
    let anonymous = server.anonymous();
    let mut tokens = Vec::new();
    for name in ["noise", "stolen"] {
        let token = server.token(name, &[]).await;
        let used = anonymous.post("/v1/enrol", &DeviceKeys::generate().request(&token)).await;
        assert_eq!(used.status.as_u16(), 200);
        tokens.push(token);
    }
    let other = DeviceKeys::generate();
    for _ in 0..130 {
        anonymous.post("/v1/enrol", &other.request(&tokens[0])).await.problem(409, "token-used");
    }
    anonymous.post("/v1/enrol", &other.request(&tokens[1])).await.problem(409, "token-used");
    let rows: Vec<AuditRecord> = server.admin().get("/v1/audit").await.json();
    let told = |token: &Token| {
        let id = hex(&token.id);
        rows.iter()
            .filter(|row| row.action == "refused enrol: token-used" && row.subject.contains(&id))
            .count()
    };
    assert_eq!((told(&tokens[0]), told(&tokens[1])), (20, 1));
}
