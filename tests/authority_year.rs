//! A year of an authority in fast motion: epochs of a week, devices that renew, sleep, change, are suspended and revoked,
//! keys that are rotated, an outage, a broker that is cut off, a disk that is lost and an authority out of a backup. A model
//! that knows nothing of cryptography says all the while who reads what; every device has to agree, message by message.
//!
//! `SMQTT_YEAR_DEVICES=1000` makes the fleet as large as an operator's; the checks make it smaller.

#[path = "common/lab.rs"]
mod lab;
#[path = "../core/tests/common/random.rs"]
#[allow(dead_code)]
mod random;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use lab::{DAY, Device, Lab, LabBroker, Line, now, until};
use random::Rng;
use smqtt::broker::Config as BrokerConfig;
use smqtt_client::enrol::{EnrolError, enrol, refresh};
use smqtt_client::opener::{Opener, Outcome};
use smqtt_client::replay::Replay;
use smqtt_client::sealer::{Outgoing, SealError, Sealer, Wish};
use smqtt_core::api::{
    BackupMade, CertificateRotated, CertificateRotation, DeviceChange, DeviceChanged, MasterRotated,
    MasterRotation, Resumption, Revocation, RootKeyRotated, Suspension,
};
use smqtt_core::target::Target;
use smqtt_keysvc::{Authority, Config, RecoverySecret, Restore, Since, restore};
use tokio::task::JoinSet;

const DEVICES: usize = 16;
const WEEKS: usize = 52;
const WEEK: u64 = 7 * DAY;
/// Epochs whose keys are given afterwards.
const HISTORY: u64 = 4;
/// Messages in a week.
const MESSAGES: usize = 4;
/// Weeks whose messages are tried by everybody at the end: fewer than a keyring keeps keys of.
const LOOK_BACK: usize = 12;
/// Who refreshes at a time.
const AT_ONCE: usize = 16;
/// Weeks at whose beginning something happens to the authority itself.
const OUTAGE: usize = 20;
const CERTIFICATE: usize = 1;
const ROOT_KEY: usize = 10;
const CUT_OFF: usize = 30;
const BACKUP: usize = 33;
const LOSS: usize = 36;
const MASTER: usize = 40;
const TOPIC: &str = "field/reading";

fn fleet() -> usize {
    std::env::var("SMQTT_YEAR_DEVICES").ok().and_then(|text| text.parse().ok()).unwrap_or(DEVICES)
}

/// What happens, as numbers have it that are the same in every run.
struct Dice(Rng);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0.below(bound)
    }

    fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn attribute(&mut self) -> String {
        match self.below(8) {
            role @ 0..3 => format!("role={}", ["nurse", "doctor", "porter"][role]),
            ward => format!("ward=w{}", ward - 2),
        }
    }

    fn attributes(&mut self) -> BTreeSet<String> {
        let role = format!("role={}", ["nurse", "doctor", "porter"][self.below(3)]);
        [role, format!("ward=w{}", 1 + self.below(5))].into()
    }

    fn policy(&mut self) -> Policy {
        let one = |dice: &mut Self| Box::new(Policy::Has(dice.attribute()));
        match self.below(4) {
            0 => Policy::Has(self.attribute()),
            1 => Policy::And(one(self), one(self)),
            2 => Policy::Or(one(self), one(self)),
            _ => Policy::Or(Box::new(Policy::And(one(self), one(self))), one(self)),
        }
    }
}

/// A policy, and what it means, once more and as plain as can be.
#[derive(Clone, Debug)]
enum Policy {
    Has(String),
    And(Box<Self>, Box<Self>),
    Or(Box<Self>, Box<Self>),
}

impl Policy {
    fn holds(&self, has: &impl Fn(&str) -> bool) -> bool {
        match self {
            Self::Has(attribute) => has(attribute),
            Self::And(a, b) => a.holds(has) && b.holds(has),
            Self::Or(a, b) => a.holds(has) || b.holds(has),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Has(attribute) => attribute.clone(),
            Self::And(a, b) => format!("({} and {})", a.text(), b.text()),
            Self::Or(a, b) => format!("({} or {})", a.text(), b.text()),
        }
    }
}

type Versions = BTreeMap<String, u32>;

fn version(versions: &Versions, attribute: &str) -> u32 {
    versions.get(attribute).copied().unwrap_or(0)
}

/// A message: what it is sealed under, as the model has it.
struct Sealed {
    number: usize,
    week: usize,
    epoch: u64,
    policy: Policy,
    versions: Versions,
    payload: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Active,
    Suspended,
    Revoked,
    /// It slept for so long that its certificate cannot be renewed any more.
    Lost,
    /// It enrolled after the backup that the authority was restored from.
    Unknown,
}

/// A device, and what it may have by the model.
struct Member {
    name: String,
    device: Device,
    attributes: BTreeSet<String>,
    standing: Standing,
    enrolled: usize,
    /// The week in which it wakes up.
    asleep_until: usize,
    /// When its certificate was made last, at the latest.
    certified: u64,
    /// Its attributes changed, or it was resumed, since it fetched keys.
    news: bool,
    /// Of each epoch what it has keys for: attributes with their versions.
    keys: BTreeMap<u64, Vec<Versions>>,
}

impl Member {
    fn reads(&self, message: &Sealed) -> bool {
        let Some(keys) = self.keys.get(&message.epoch) else { return false };
        keys.iter().any(|key| {
            message.policy.holds(&|attribute: &str| {
                key.get(attribute).is_some_and(|v| *v == version(&message.versions, attribute))
            })
        })
    }
}

/// The authority as the model has it.
struct Model {
    epoch: u64,
    versions: Versions,
    /// At the end of each epoch.
    past: BTreeMap<u64, Versions>,
}

impl Model {
    fn versions_of(&self, epoch: u64) -> &Versions {
        self.past.get(&epoch).unwrap_or(&self.versions)
    }

    fn begin(&mut self, epoch: u64) {
        self.past.insert(self.epoch, self.versions.clone());
        self.epoch = epoch;
    }

    /// Raises these; the authority has to have raised the same.
    fn raise<'a>(&mut self, attributes: impl IntoIterator<Item = &'a String>, raised: &[String]) {
        let attributes: BTreeSet<_> = attributes.into_iter().cloned().collect();
        assert_eq!(attributes, raised.iter().cloned().collect());
        for attribute in attributes {
            *self.versions.entry(attribute).or_default() += 1;
        }
    }

    /// Gives a device the keys of an epoch.
    fn give(&self, member: &mut Member, epoch: u64) {
        let versions = self.versions_of(epoch);
        let key = member.attributes.iter().map(|a| (a.clone(), version(versions, a))).collect();
        let keys = member.keys.entry(epoch).or_default();
        if !keys.contains(&key) {
            keys.push(key);
        }
    }

    /// What a device has after it asked: of the epochs since its last keys, as far back as the authority goes, and of the
    /// next one where that is near.
    fn refresh(&self, member: &mut Member, early: bool) {
        let last = member.keys.last_key_value().map_or(0, |(epoch, _)| *epoch);
        let from = if member.news { 0 } else { last.min(self.epoch) };
        for epoch in from.max(self.epoch.saturating_sub(HISTORY))..=self.epoch {
            // Whoever has the keys of the current versions is given no other ones.
            self.give(member, epoch);
        }
        if early {
            self.give(member, self.epoch + 1);
        }
        member.news = false;
    }
}

struct Year {
    lab: Lab,
    config: Config,
    backup: Option<(PathBuf, RecoverySecret)>,
    line: Line,
    dice: Dice,
    model: Model,
    members: Vec<Member>,
    publisher: Device,
    sealer: Sealer,
    messages: Vec<Sealed>,
    tried: usize,
    opened: usize,
}

impl Year {
    async fn begin() -> Self {
        let line = Line::to("").await;
        let config = Config {
            public_url: Some(format!("https://{}", line.address)),
            epoch_seconds: WEEK,
            history_epochs: HISTORY,
            ..Config::default()
        };
        let mut lab = Lab::with(config.clone()).await;
        lab.stop_authority().await;
        line.turn_to(lab.start_authority(None).await.to_string());
        let publisher = lab.enrol("publisher", &["role=publisher"]).await;
        let model = Model { epoch: 1, versions: Versions::new(), past: BTreeMap::new() };
        let mut year = Self {
            lab,
            config,
            backup: None,
            line,
            dice: Dice(Rng(2026)),
            model,
            members: Vec::new(),
            publisher,
            sealer: Sealer::default(),
            messages: Vec::new(),
            tried: 0,
            opened: 0,
        };
        for number in 0..fleet() {
            year.enrol(number, 0).await;
        }
        year
    }

    async fn enrol(&mut self, number: usize, week: usize) {
        let (name, attributes) = (format!("device-{number}"), self.dice.attributes());
        let texts: Vec<&str> = attributes.iter().map(String::as_str).collect();
        let token = self.lab.token(&name, "device", &texts).await;
        let device = Device::new(enrol(&token, &self.lab.device_dir(&name), now()).await.unwrap());
        let mut member = Member {
            name,
            device,
            attributes,
            standing: Standing::Active,
            enrolled: week,
            asleep_until: 0,
            certified: now(),
            news: true,
            keys: BTreeMap::new(),
        };
        self.model.refresh(&mut member, false);
        self.members.push(member);
    }

    /// What the administrator does at the beginning of a week.
    async fn administer(&mut self) {
        let admin = self.lab.admin();
        for at in 0..self.members.len() {
            let member = &mut self.members[at];
            let path = format!("/v1/devices/{}", member.device.id());
            match member.standing {
                Standing::Active if self.dice.percent(1) => {
                    let done: Revocation = admin.post(&format!("{path}/revoke"), &()).await.unwrap();
                    self.model.raise(&member.attributes, &done.raised);
                    member.standing = Standing::Revoked;
                }
                Standing::Active if self.dice.percent(1) => {
                    let done: Suspension = admin.post(&format!("{path}/suspend"), &()).await.unwrap();
                    self.model.raise(&member.attributes, &done.raised);
                    member.standing = Standing::Suspended;
                }
                Standing::Suspended if self.dice.percent(50) => {
                    let _: Resumption = admin.post(&format!("{path}/resume"), &()).await.unwrap();
                    (member.standing, member.news) = (Standing::Active, true);
                }
                Standing::Active if self.dice.percent(3) => {
                    let attributes = self.dice.attributes();
                    let change =
                        DeviceChange { set: attributes.iter().cloned().collect(), ..DeviceChange::default() };
                    let done: DeviceChanged = admin.patch(&path, &change).await.unwrap();
                    let lost: Vec<_> = member.attributes.difference(&attributes).collect();
                    member.news |= attributes != member.attributes;
                    self.model.raise(lost, &done.raised);
                    member.attributes = attributes;
                }
                _ => {}
            }
        }
    }

    /// Whoever is awake asks the authority for what is new.
    async fn refresh(&mut self, week: usize, early: bool) {
        let awake: Vec<usize> =
            (0..self.members.len()).filter(|at| self.members[*at].asleep_until <= week).collect();
        for some in awake.chunks(AT_ONCE) {
            let mut asking = JoinSet::new();
            for at in some {
                let (at, keyring, now) = (*at, self.members[*at].device.keyring.clone(), now());
                asking.spawn(async move { (at, refresh(&keyring, now, Duration::ZERO).await) });
            }
            for (at, answer) in asking.join_all().await {
                let member = &mut self.members[at];
                match (member.standing, answer) {
                    (Standing::Active, Ok(done)) => {
                        if done.certificate {
                            member.certified = now();
                        }
                        self.model.refresh(member, early);
                    }
                    (Standing::Active, Err(EnrolError::RanOut(error))) => {
                        // A month of validity, and another of patience.
                        assert!(
                            now() - member.certified > 60 * DAY,
                            "{} ran out too early: {error:?}",
                            member.name
                        );
                        member.standing = Standing::Lost;
                    }
                    (Standing::Active, Err(error)) => panic!("{}: {error:?}", member.name),
                    (Standing::Revoked, Err(error)) => {
                        assert!(error.is_revoked() || matches!(error, EnrolError::RanOut(_)), "{error:?}");
                    }
                    (Standing::Suspended | Standing::Lost | Standing::Unknown, Err(_)) => {}
                    (standing, Ok(_)) => panic!("{} is {standing:?} and was served", member.name),
                }
            }
        }
        self.publisher.refresh().await.unwrap();
        let epoch = self.publisher.with(|k| k.bundle().epoch.number);
        assert_eq!(epoch, self.model.epoch);
    }

    fn seal(&mut self, week: usize) -> Result<(), SealError> {
        for _ in 0..MESSAGES {
            let (number, policy) = (self.messages.len(), self.dice.policy());
            let target = Target::Policy(policy.text().parse().unwrap());
            let sealer = &mut self.sealer;
            let text = number.to_string();
            let outgoing = self
                .publisher
                .with(|k| sealer.seal(k, TOPIC, text.as_bytes(), Wish::Under(&target), now()))?;
            let Outgoing::Sealed(sealed) = outgoing else { panic!("plaintext") };
            let (epoch, versions, payload) = (self.model.epoch, self.model.versions.clone(), sealed.full());
            self.messages.push(Sealed { number, week, epoch, policy, versions, payload });
        }
        Ok(())
    }

    /// A device tries all messages since a week; each opens or not, as the model says.
    fn try_all(&mut self, at: usize, since: usize) {
        let member = &self.members[at];
        let mut opener = Opener::with(Replay::default());
        for message in self.messages.iter().filter(|message| message.week >= since) {
            let outcome = member.device.with(|k| opener.open(k, TOPIC, &message.payload, true, now()));
            let opened = match &outcome {
                Outcome::Opened(opened) => {
                    assert_eq!(opened.payload, message.number.to_string().as_bytes());
                    true
                }
                Outcome::NotForMe(_) | Outcome::Newer => false,
                other => panic!("{}: {other:?}", member.name),
            };
            assert_eq!(
                opened,
                member.reads(message),
                "{} ({:?}, {:?}) and message {} of epoch {} under {}: {outcome:?}",
                member.name,
                member.standing,
                member.attributes,
                message.number,
                message.epoch,
                message.policy.text(),
            );
            self.tried += 1;
            self.opened += usize::from(opened);
        }
    }

    /// A day before the end of the week, and its end.
    async fn pass(&mut self, week: usize) {
        // In the last hours of it everybody is due for the next epoch's keys.
        self.lab.advance(WEEK - 6 * 3600);
        self.lab.authority.housekeep().await.unwrap();
        if self.dice.percent(60) {
            self.refresh(week, true).await;
        }
        self.lab.advance(6 * 3600);
        self.lab.authority.housekeep().await.unwrap();
        self.publisher.refresh().await.unwrap();
        self.model.begin(self.publisher.with(|k| k.bundle().epoch.number));
    }

    fn send_to_sleep(&mut self, week: usize) {
        for at in 0..self.members.len() {
            if self.members[at].asleep_until <= week && self.dice.percent(5) {
                // Mostly for less than a certificate's life, sometimes for longer than anybody waits.
                let weeks = if self.dice.percent(5) { 10 } else { 1 + self.dice.below(7) };
                self.members[at].asleep_until = week + 1 + weeks;
            }
        }
    }

    /// Two weeks without an authority: whoever has a bundle that holds goes on, then nobody seals any more.
    async fn outage(&mut self, week: usize) {
        self.lab.stop_authority().await;
        self.line.cut();
        self.lab.advance(WEEK);
        let asked = self.publisher.refresh().await;
        assert!(asked.is_err_and(|error| error.is_temporary()));
        self.seal(week).unwrap();
        self.lab.advance(WEEK + 3600);
        assert!(matches!(self.seal(week), Err(SealError::Expired(_))));
        self.line.turn_to(self.lab.start_authority(None).await.to_string());
        self.line.restore();
        // However many epochs were missed, one begins.
        self.lab.authority.housekeep().await.unwrap();
        self.publisher.refresh().await.unwrap();
        let epoch = self.publisher.with(|k| k.bundle().epoch.number);
        assert_eq!(epoch, self.model.epoch + 1);
        self.model.begin(epoch);
    }
}

impl Year {
    async fn back_up(&mut self) {
        let (key, data) = (RecoverySecret::generate(), self.lab.dir.path().join("data"));
        key.public().trust(&data).unwrap();
        let made: BackupMade = self.lab.admin().post("/v1/backup", &serde_json::json!({})).await.unwrap();
        let elsewhere = self.lab.dir.path().join("kept.backup");
        std::fs::copy(data.join("backups").join(made.file), &elsewhere).unwrap();
        self.backup = Some((elsewhere, key));
    }

    /// The authority's disk is lost, but for its journal of which there is a copy. Whom the backup does not know has to enrol
    /// again; everybody else goes on, those who slept through it all with keys of epochs that the backup does not know.
    async fn lose_and_restore(&mut self, week: usize) {
        self.lab.stop_authority().await;
        self.line.cut();
        let (data, lost) = (self.lab.dir.path().join("data"), self.lab.dir.path().join("lost"));
        std::fs::rename(&data, &lost).unwrap();
        let (backup, key) = self.backup.as_ref().unwrap();
        let since = Since::Journal(lost.join("revocations/journal"));
        let what = Restore { backup, key, since, bundles: Vec::new() };
        let restored = restore(what, &data, &self.config, self.lab.clock()).await.unwrap();
        assert_eq!(restored.epoch, self.model.epoch + 1);
        let again = Authority::open(&data, self.config.clone(), self.lab.clock()).unwrap();
        self.line.turn_to(self.lab.start_authority(Some(again)).await.to_string());
        self.line.restore();
        self.model.begin(restored.epoch);
        for member in &mut self.members {
            let known = member.enrolled < BACKUP;
            member.news |= known;
            if !known && member.standing != Standing::Revoked {
                member.standing = Standing::Unknown;
            }
        }
        for _ in 0..self.members.iter().filter(|member| member.standing == Standing::Unknown).count() {
            let number = self.members.len();
            self.enrol(number, week).await;
        }
    }

    /// What is rotated in this week: the root key, or a step on the way to another root or another master secret key.
    async fn rotate(&mut self, week: usize) {
        let admin = self.lab.admin();
        if week == ROOT_KEY {
            let _: RootKeyRotated = admin.post("/v1/rotate/root-key", &serde_json::json!({})).await.unwrap();
        }
        let steps = |week: usize, retire: usize| {
            let steps = [("prepare", 0), ("activate", 1), ("retire", retire)];
            steps.into_iter().find(move |(_, after)| week == *after).map(|(step, _)| step)
        };
        // The last certificate of the old root, its window for renewal, what was sealed under it.
        if let Some(step) = week.checked_sub(CERTIFICATE).and_then(|week| steps(week, 20)) {
            let request = CertificateRotation { step: step.into(), force: false };
            let _: CertificateRotated = admin.post("/v1/rotate/certificate", &request).await.unwrap();
        }
        if let Some(step) = week.checked_sub(MASTER).and_then(|week| steps(week, 2 + HISTORY as usize)) {
            let request = MasterRotation { suite: "fabeo-cp".into(), step: step.into(), force: false };
            let _: MasterRotated = admin.post("/v1/rotate/master", &request).await.unwrap();
        }
    }
}

/// A broker that loses its authority lets nobody in after a quarter of an hour, closes what must be sealed after an hour,
/// and is itself again when it hears of it.
async fn cut_off(year: &Year, broker: &LabBroker, line: &Line) {
    line.cut();
    until(|| broker.view.is_failing()).await;
    assert!(!broker.hook.is_closed());
    year.lab.advance(4000);
    until(|| broker.hook.is_closed()).await;
    line.restore();
    until(|| !broker.hook.is_closed()).await;
}

/// A broker of its own line to the authority.
async fn broker(year: &Year) -> (LabBroker, Line) {
    let address = year.line.address.to_string();
    let line = Line::to(&address).await;
    let mut token = year.lab.token("broker", "broker", &[]).await;
    token.url = format!("https://{}", line.address);
    let device = Device::new(enrol(&token, &year.lab.device_dir("broker"), now()).await.unwrap());
    (year.lab.broker_of(device, BrokerConfig::default(), Vec::new()).await, line)
}

#[tokio::test]
async fn at_the_end_of_a_year_everybody_reads_exactly_what_its_attributes_allow() {
    let mut year = Year::begin().await;
    let (broker, line) = broker(&year).await;
    for week in 0..WEEKS {
        match week {
            BACKUP => year.back_up().await,
            LOSS => {
                year.lose_and_restore(week).await;
                year.publisher.refresh().await.unwrap();
                broker.knows(year.publisher.with(|k| k.bundle().number)).await;
            }
            _ => year.rotate(week).await,
        }
        year.administer().await;
        if week % 4 == 3 {
            // A new one now and then.
            let number = year.members.len();
            year.enrol(number, week).await;
        }
        year.refresh(week, false).await;
        year.seal(week).unwrap();
        year.send_to_sleep(week);
        if week == OUTAGE {
            year.outage(week).await;
        }
        if week == CUT_OFF {
            cut_off(&year, &broker, &line).await;
        }
        for _ in 0..3 {
            let at = year.dice.below(year.members.len());
            if year.members[at].asleep_until <= week {
                year.try_all(at, week.saturating_sub(LOOK_BACK / 2));
            }
        }
        year.pass(week).await;
    }
    // Everybody wakes up.
    year.administer().await;
    year.members.iter_mut().for_each(|member| member.asleep_until = 0);
    year.refresh(WEEKS, false).await;
    year.seal(WEEKS).unwrap();
    (0..year.members.len()).for_each(|at| year.try_all(at, WEEKS - LOOK_BACK));

    let of = |standing| year.members.iter().filter(|member| member.standing == standing).count();
    let standings =
        [Standing::Active, Standing::Suspended, Standing::Revoked, Standing::Lost, Standing::Unknown].map(of);
    println!(
        "{} devices (active, suspended, revoked, lost, unknown: {standings:?}), {} messages, {} tries, {} opened",
        year.members.len(),
        year.messages.len(),
        year.tried,
        year.opened,
    );
    assert!(standings[0] > 0 && standings[2] > 0 && standings[4] > 0, "{standings:?}");
    assert!(year.opened * 20 > year.tried && year.opened < year.tried, "{} of {}", year.opened, year.tried);
    drop(broker.stop().await);
}
