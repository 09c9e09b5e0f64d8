//! Holds the conversation that a test describes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::client::{Client, Event, Received, Route, hex};
use super::expect::{self, Expected, Item};
use super::script::Test;
use super::value::{Names, Pattern, Value, words};
use super::wire::{Kind, Packet, Version};
use super::{raw, wire};

/// A broker, and how tests are held against it.
pub struct Target {
    pub name: &'static str,
    pub route: Route,
    /// What it is, for tests that say where they make no sense.
    pub places: Vec<&'static str>,
    /// Ours: what the standard only recommends is demanded.
    pub strict: bool,
    pub patience: Duration,
    pub sealing: Option<Arc<dyn Sealing>>,
}

/// Payloads that only devices read.
pub trait Sealing: Send + Sync {
    fn seal(&self, topic: &[u8], payload: &[u8]) -> Vec<u8>;
    fn open(&self, topic: &[u8], payload: &[u8]) -> Result<Vec<u8>, String>;
}

/// What went wrong, where.
pub struct Failure {
    pub line: usize,
    pub step: String,
    pub why: String,
    /// What was said before, newest last.
    pub log: Vec<String>,
}

/// What every topic begins with.
pub const TOPIC_ROOT: &str = "conform/";

/// Lines of a conversation that a failure shows.
const LOG_SHOWN: usize = 14;

/// Holds the conversation. `number` tells tests of one run apart, `run` runs against one broker.
pub fn run(test: &Test, version: Version, target: &Target, run: &str, number: usize) -> Result<(), Failure> {
    let clients = format!("{run}{number:04}");
    let topics = format!("{TOPIC_ROOT}{clients}/");
    let names = Names { topics, clients, variables: HashMap::new() };
    let mut run = Run { target, names, version, clients: HashMap::new(), log: Vec::new() };
    let steps = test.steps.iter().filter(|step| step.version.is_none_or(|only| only == version));
    for step in steps {
        if let Err(why) = run.step(&step.text) {
            let log = run.log.split_off(run.log.len().saturating_sub(LOG_SHOWN));
            return Err(Failure { line: step.line, step: step.text.clone(), why, log });
        }
    }
    Ok(())
}

struct Run<'a> {
    target: &'a Target,
    names: Names,
    version: Version,
    clients: HashMap<String, Client>,
    log: Vec<String>,
}

type Done = Result<(), String>;

impl Run<'_> {
    fn step(&mut self, text: &str) -> Done {
        let (who, rest) = text.split_once(' ').ok_or("no step")?;
        let (verb, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        if who == "wait" {
            let seconds: f64 = verb.parse().map_err(|_| "no seconds")?;
            std::thread::sleep(Duration::from_secs_f64(seconds));
            return Ok(());
        }
        match verb {
            "opens" => self.open(who, rest),
            ">" | ">>" => self.say(who, rest, verb == ">>"),
            "<" => {
                let expected = Expected::parse(rest, &self.names)?;
                self.expect(&[who], expected, false)
            }
            "connects" => self.connect(who, rest, 1),
            "resumes" => self.connect(who, rest, 0),
            "subscribes" => self.subscribe(who, rest),
            "unsubscribes" => self.unsubscribe(who, rest),
            "publishes" => self.publish(who, rest),
            "gets" | "get" if rest == "nothing" => self.nothing(who),
            "gets" | "get" => {
                let expected = self.messages(rest)?;
                let who: Vec<&str> = who.split(',').collect();
                self.expect(&who, expected, true)
            }
            "pings" => self.ping(who),
            "disconnects" => {
                self.say(who, &format!("DISCONNECT {rest}"), false)?;
                self.expect(&[who], Expected::parse("closed", &self.names)?, false)
            }
            "drops" => {
                self.clients.remove(who);
                self.log.push(format!("{who} drops the connection"));
                Ok(())
            }
            "closed" => self.closed(who, rest),
            "refused" => {
                let told = format!("CONNACK present=0 reason={rest} & ended");
                let text = if self.target.strict { told } else { format!("{told} | ended") };
                self.expect(&[who], Expected::parse(&text, &self.names)?, false)
            }
            _ => Err("no such step".into()),
        }
    }

    // ---- connections

    /// A connection on which nothing was said yet. `words` may name the version.
    fn open(&mut self, who: &str, rest: &str) -> Done {
        let version = match words(rest).into_iter().find(|word| word.starts_with("version=")) {
            Some("version=3") => Version::V3,
            Some("version=5") => Version::V5,
            Some(_) => return Err("no such version".into()),
            None => self.version,
        };
        let client =
            Client::open(&self.target.route, version).map_err(|error| format!("no connection: {error}"))?;
        self.clients.insert(who.to_owned(), client);
        self.log.push(format!("{who} opens a connection"));
        Ok(())
    }

    fn client(&mut self, who: &str) -> Result<&mut Client, String> {
        self.clients.get_mut(who).ok_or(format!("{who} has no connection"))
    }

    fn connect(&mut self, who: &str, rest: &str, clean: u8) -> Done {
        self.clients.remove(who);
        let clean = if rest.contains("clean=") { String::new() } else { format!(" clean={clean}") };
        self.say(who, &format!("CONNECT{clean} {rest}"), false)?;
        let present = if clean == " clean=0" {
            " present=1"
        } else if rest.contains("clean=0") {
            ""
        } else {
            " present=0"
        };
        let expected = Expected::parse(&format!("CONNACK{present}"), &self.names)?;
        self.expect(&[who], expected, false)
    }

    fn closed(&mut self, who: &str, rest: &str) -> Done {
        let Some((low, high)) = rest.strip_prefix("after ").and_then(|rest| rest.split_once(" to ")) else {
            let expected = Expected::parse(&format!("closed {rest}"), &self.names)?;
            return self.expect(&[who], expected, false);
        };
        let (high, reasons) = high.split_once(' ').unwrap_or((high, ""));
        let seconds = |text: &str| text.parse::<f64>().map_err(|_| format!("no seconds: {text}"));
        let (low, high) = (seconds(low)?, seconds(high)?);
        let sent_at = self.client(who)?.sent_at;
        let expected = Expected::parse(&format!("closed {reasons}"), &self.names)?;
        let patience = self.target.patience.max(Duration::from_secs_f64(high));
        self.expect_within(patience, &[who], expected, false)?;
        let after = sent_at.elapsed().as_secs_f64();
        if (low..=high).contains(&after) { Ok(()) } else { Err(format!("closed after {after:.2} s")) }
    }

    // ---- what is sent

    /// Sends packets, or bytes, in one write or each byte by itself.
    fn say(&mut self, who: &str, rest: &str, byte_by_byte: bool) -> Done {
        if !self.clients.contains_key(who) {
            self.open(who, rest)?;
        }
        if let Some(text) = rest.strip_prefix("bytes ") {
            let version = self.client(who)?.version;
            let bytes = raw::bytes(text, &self.names, version)?;
            return self.send(who, &bytes, "bytes", byte_by_byte);
        }
        let (mut bytes, mut shown) = (Vec::new(), Vec::new());
        for words in words(rest).split(|word| *word == "&") {
            let (first, words) = words.split_first().ok_or("nothing to send")?;
            let kind = Kind::named(first).ok_or(format!("no packet: {first}"))?;
            let words: Vec<&str> =
                words.iter().filter(|word| !word.starts_with("version=")).copied().collect();
            let packet = expect::sent(kind, &words, &self.names)?;
            let packet = self.complete(who, packet)?;
            bytes.extend(packet.encode(self.client(who)?.version));
            shown.push(packet.to_string());
        }
        self.send(who, &bytes, &shown.join(" & "), byte_by_byte)
    }

    fn send(&mut self, who: &str, bytes: &[u8], shown: &str, byte_by_byte: bool) -> Done {
        self.log.push(format!("{who} > {shown}: {}", hex(bytes)));
        self.client(who)?.send(bytes, byte_by_byte);
        Ok(())
    }

    /// Fills in what a script leaves out, and seals payloads.
    fn complete(&mut self, who: &str, mut packet: Packet) -> Result<Packet, String> {
        let missing = |packet: &Packet, name: &str| packet.get(name).is_none();
        match packet.kind {
            Kind::CONNECT => {
                if missing(&packet, "client-id") {
                    let id = self.names.client_id(who.as_bytes());
                    packet.set("client-id", Value::Bytes(id));
                }
                if missing(&packet, "clean") {
                    packet.set("clean", Value::Number(1));
                }
            }
            Kind::SUBSCRIBE | Kind::UNSUBSCRIBE if missing(&packet, "id") => {
                let id = self.client(who)?.id();
                packet.set("id", Value::Number(id));
            }
            Kind::PUBLISH if missing(&packet, "id") && packet.number("qos").unwrap_or(0) > 0 => {
                let id = self.client(who)?.id();
                packet.set("id", Value::Number(id));
            }
            _ => {}
        }
        if let Some(sealing) = self.target.sealing.clone() {
            self.seal(who, &mut packet, &*sealing)?;
        }
        Ok(packet)
    }

    fn seal(&mut self, who: &str, packet: &mut Packet, sealing: &dyn Sealing) -> Done {
        let (topic, payload, retain) = match packet.kind {
            Kind::PUBLISH => ("topic", "payload", "retain"),
            Kind::CONNECT => ("will-topic", "will-payload", "will-retain"),
            _ => return Ok(()),
        };
        let Some(mut topic) = packet.bytes(topic).map(<[u8]>::to_vec) else { return Ok(()) };
        if let Some(alias) = packet.number("topic-alias") {
            let aliases = &mut self.client(who)?.aliases;
            if topic.is_empty() {
                topic = aliases.get(&alias).cloned().unwrap_or_default();
            } else {
                aliases.insert(alias, topic.clone());
            }
        }
        let bytes = packet.bytes(payload).unwrap_or_default().to_vec();
        // An empty retained message takes the kept one away, sealed or not.
        let clears = bytes.is_empty() && packet.number(retain) == Some(1);
        if topic.starts_with(self.names.topics.as_bytes()) && !clears {
            packet.set(payload, Value::Bytes(sealing.seal(&topic, &bytes)));
        }
        Ok(())
    }

    fn subscribe(&mut self, who: &str, rest: &str) -> Done {
        let words: Vec<String> = words(rest)
            .iter()
            .map(|word| if is_field(word) { (*word).into() } else { format!("filter={word}") })
            .collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let packet = self.complete(who, expect::sent(Kind::SUBSCRIBE, &words, &self.names)?)?;
        let mut granted: Vec<u8> = Vec::new();
        for (name, value) in &packet.fields {
            match *name {
                "filter" => granted.push(0),
                "qos" => {
                    *granted.last_mut().ok_or("a QoS without a filter")? = value.number().unwrap_or(0) as u8
                }
                _ => {}
            }
        }
        self.ask(who, &packet, Kind::SUBACK, &[("codes", Value::Bytes(granted))])
    }

    fn unsubscribe(&mut self, who: &str, rest: &str) -> Done {
        let words: Vec<String> = words(rest).iter().map(|word| format!("filter={word}")).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let packet = self.complete(who, expect::sent(Kind::UNSUBSCRIBE, &words, &self.names)?)?;
        let codes = match self.client(who)?.version {
            Version::V3 => vec![],
            Version::V5 => vec![("codes", Value::Bytes(vec![0; words.len()]))],
        };
        self.ask(who, &packet, Kind::UNSUBACK, &codes)
    }

    fn publish(&mut self, who: &str, rest: &str) -> Done {
        let words = message(rest);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let packet = self.complete(who, expect::sent(Kind::PUBLISH, &words, &self.names)?)?;
        match packet.number("qos").unwrap_or(0) {
            0 => {
                let bytes = packet.encode(self.client(who)?.version);
                self.send(who, &bytes, &packet.to_string(), false)
            }
            1 => self.ask(who, &packet, Kind::PUBACK, &[]),
            _ => {
                self.ask(who, &packet, Kind::PUBREC, &[])?;
                let id = packet.number("id").unwrap_or(0);
                let pubrel = Packet::new(Kind::PUBREL).with("id", Value::Number(id));
                self.ask(who, &pubrel, Kind::PUBCOMP, &[])
            }
        }
    }

    /// Sends a packet and waits for its answer, whatever else comes before it.
    fn ask(&mut self, who: &str, packet: &Packet, answer: Kind, fields: &[(&'static str, Value)]) -> Done {
        let bytes = packet.encode(self.client(who)?.version);
        self.send(who, &bytes, &packet.to_string(), false)?;
        let mut patterns: Vec<_> =
            fields.iter().map(|(name, value)| (*name, Pattern::OneOf(vec![value.clone()]))).collect();
        if let Some(id) = packet.number("id") {
            patterns.push(("id", Pattern::OneOf(vec![Value::Number(id)])));
        }
        self.await_packet(who, answer, patterns)
    }

    // ---- what comes

    /// Waits for a packet; others that come before it stay for later.
    fn await_packet(&mut self, who: &str, kind: Kind, fields: Vec<(&'static str, Pattern)>) -> Done {
        let deadline = Instant::now() + self.target.patience;
        let is_it = |event: &Event| matches!(event, Event::Packet(received) if received.packet.kind == kind);
        let kept = self.client(who)?.inbox.iter().position(is_it);
        let event = match kept {
            Some(at) => self.client(who)?.inbox.remove(at),
            None => loop {
                let Some(event) = self.client(who)?.read(deadline)? else { break None };
                if is_it(&event) {
                    break Some(event);
                }
                let closed = matches!(event, Event::Closed);
                self.client(who)?.inbox.push_back(event);
                if closed {
                    break None;
                }
            },
        };
        let Some(event) = event else {
            return Err(self.missing(&[who], &format!("{} for {who}", kind.name())));
        };
        self.note(who, &event);
        let version = self.client(who)?.version;
        Expected::of(vec![Item::Packet { kind, fields }]).take(&event, version, false, &mut self.names)
    }

    fn expect(&mut self, who: &[&str], expected: Expected, answered: bool) -> Done {
        self.expect_within(self.target.patience, who, expected, answered)
    }

    /// Waits until all that is expected has come, to any of these clients. `answered`: messages are acknowledged.
    fn expect_within(
        &mut self,
        patience: Duration,
        who: &[&str],
        mut expected: Expected,
        answered: bool,
    ) -> Done {
        let mut deadline = Instant::now() + patience;
        let mut turn = 0;
        while !expected.is_over() {
            let one = who[turn % who.len()];
            turn += 1;
            let until = if who.len() == 1 { deadline } else { Instant::now() + Duration::from_millis(5) };
            let Some(event) = self.client(one)?.next(until)? else {
                if Instant::now() >= deadline {
                    return Err(self.missing(who, "anything more"));
                }
                continue;
            };
            if self.is_of_another_test(&event) {
                continue;
            }
            // Thousands of messages take their time.
            deadline = Instant::now() + patience;
            let event = self.opened(one, event)?;
            self.note(one, &event);
            let client = self.client(one)?;
            let version = client.version;
            client.connected |=
                matches!(&event, Event::Packet(received) if received.packet.kind == Kind::CONNACK);
            let ended = matches!(event, Event::Closed);
            expected
                .take(&event, version, self.target.strict, &mut self.names)
                .map_err(|why| format!("{why}; came: {}", shown(&event)))?;
            if ended {
                self.clients.remove(one);
            }
            if answered && let Event::Packet(received) = event {
                self.acknowledge(one, &received.packet)?;
            }
        }
        Ok(())
    }

    fn missing(&mut self, who: &[&str], what: &str) -> String {
        let kept: Vec<String> = who
            .iter()
            .filter_map(|who| self.clients.get(*who))
            .flat_map(|client| {
                let rest =
                    (!client.rest().is_empty()).then(|| format!("part of a packet {}", hex(client.rest())));
                client.inbox.iter().map(shown).chain(rest)
            })
            .collect();
        let kept = if kept.is_empty() { String::new() } else { format!("; there is {}", kept.join(", ")) };
        format!("{what} did not come in {:?}{kept}", self.target.patience)
    }

    /// With its payload in clear.
    fn opened(&mut self, who: &str, mut event: Event) -> Result<Event, String> {
        let Event::Packet(received) = &mut event else { return Ok(event) };
        let Some(sealing) = self.target.sealing.clone().filter(|_| received.packet.kind == Kind::PUBLISH)
        else {
            return Ok(event);
        };
        let mut topic = received.packet.bytes("topic").unwrap_or_default().to_vec();
        if let Some(alias) = received.packet.number("topic-alias") {
            // Aliases of the broker beside those of the client.
            let aliases = &mut self.client(who)?.aliases;
            if topic.is_empty() {
                topic = aliases.get(&(alias | 1 << 16)).cloned().unwrap_or_default();
            } else {
                aliases.insert(alias | 1 << 16, topic.clone());
            }
        }
        let payload = received.packet.bytes("payload").unwrap_or_default().to_vec();
        if topic.starts_with(self.names.topics.as_bytes()) && !payload.is_empty() {
            received.packet.set("payload", Value::Bytes(sealing.open(&topic, &payload)?));
        }
        Ok(event)
    }

    /// PUBACK, or PUBREC, and PUBCOMP when PUBREL has come.
    fn acknowledge(&mut self, who: &str, publish: &Packet) -> Done {
        let Some(id) = publish.number("id") else { return Ok(()) };
        let ack = |kind| Packet::new(kind).with("id", Value::Number(id));
        match publish.number("qos") {
            Some(1) => {
                let bytes = ack(Kind::PUBACK).encode(self.client(who)?.version);
                self.send(who, &bytes, "PUBACK", false)
            }
            _ => {
                self.ask(who, &ack(Kind::PUBREC), Kind::PUBREL, &[])?;
                let bytes = ack(Kind::PUBCOMP).encode(self.client(who)?.version);
                self.send(who, &bytes, "PUBCOMP", false)
            }
        }
    }

    /// `TOPIC "payload" field=value & …`.
    fn messages(&self, text: &str) -> Result<Expected, String> {
        let mut items = Vec::new();
        for words in words(text).split(|word| *word == "&") {
            let words = message(&words.join(" "));
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            items.push(expect::packet(Kind::PUBLISH, &words, &self.names)?);
        }
        Ok(Expected::of(items))
    }

    fn ping(&mut self, who: &str) -> Done {
        self.ask(who, &Packet::new(Kind::PINGREQ), Kind::PINGRESP, &[])
    }

    /// Nothing is on its way to a client: all others were heard to the end, and then this one twice, since a broker may
    /// answer a ping before it looks into its queues.
    fn nothing(&mut self, who: &str) -> Done {
        let others: Vec<String> = self
            .clients
            .iter()
            .filter(|(name, client)| *name != who && client.connected)
            .map(|(name, _)| name.clone())
            .collect();
        for other in others {
            self.ping(&other)?;
        }
        self.ping(who)?;
        self.ping(who)?;
        while let Some(event) = self.client(who)?.inbox.pop_front() {
            if !self.is_of_another_test(&event) {
                return Err(format!("there came {}", shown(&event)));
            }
        }
        Ok(())
    }

    /// Who subscribes to `#` hears of other tests too.
    fn is_of_another_test(&self, event: &Event) -> bool {
        let Event::Packet(Received { packet, .. }) = event else { return false };
        let topic = packet.bytes("topic").unwrap_or_default();
        let own = String::from_utf8_lossy(topic).contains(&self.names.clients);
        packet.kind == Kind::PUBLISH && topic.starts_with(TOPIC_ROOT.as_bytes()) && !own
    }

    fn note(&mut self, who: &str, event: &Event) {
        self.log.push(format!("{who} < {}", shown(event)));
    }
}

fn shown(event: &Event) -> String {
    match event {
        Event::Packet(Received { packet, bytes }) => format!("{packet}: {}", hex(bytes)),
        Event::Closed => "the end of the connection".into(),
    }
}

/// `name=value`, not a topic with a `=` in it.
fn is_field(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        [Kind::PUBLISH, Kind::SUBSCRIBE].into_iter().any(|kind| wire::field(kind, name).is_some())
    })
}

/// A message's topic and payload as fields.
fn message(text: &str) -> Vec<String> {
    let mut names = ["topic", "payload"].into_iter();
    let name = |word: &str| match is_field(word) {
        true => word.to_owned(),
        false => format!("{}={word}", names.next().unwrap_or("?")),
    };
    words(text).into_iter().map(name).collect()
}
