//! What is expected: items, alternatives, and whether what came is among them.

use super::client::{Event, Received};
use super::value::{Names, Pattern, Value, words};
use super::wire::{self, Kind, Packet, Type, Version};

/// One thing that may come.
#[derive(Debug, Clone)]
pub enum Item {
    Packet {
        kind: Kind,
        fields: Vec<(&'static str, Pattern)>,
    },
    /// The end of the connection, in version 5.0 perhaps behind a DISCONNECT with one of these reasons, or any.
    Closed {
        reasons: Vec<u32>,
        told: bool,
    },
    /// The end of the connection without a DISCONNECT.
    Ended,
}

/// Several alternatives, each of several items in any order.
#[derive(Debug, Clone)]
pub struct Expected {
    alternatives: Vec<Vec<Item>>,
}

impl Expected {
    /// `ITEM & ITEM | ITEM`.
    pub fn parse(text: &str, names: &Names) -> Result<Self, String> {
        let words = words(text);
        let alternatives = words.split(|word| *word == "|");
        let parsed = alternatives
            .map(|alternative| alternative.split(|word| *word == "&").map(|w| item(w, names)).collect());
        Ok(Self { alternatives: parsed.collect::<Result<_, _>>()? })
    }

    pub fn of(items: Vec<Item>) -> Self {
        Self { alternatives: vec![items] }
    }

    pub fn is_over(&self) -> bool {
        self.alternatives.iter().any(Vec::is_empty)
    }

    /// Takes what came, if it is among what may come. `strict`: what the standard only recommends is demanded.
    pub fn take(
        &mut self,
        event: &Event,
        version: Version,
        strict: bool,
        names: &mut Names,
    ) -> Result<(), String> {
        let mut why = Why::Text("nothing is expected");
        let mut bound = Vec::new();
        self.alternatives.retain_mut(|items| {
            for at in 0..items.len() {
                match items[at].meets(event, version, strict, names) {
                    Ok((is_over, variables)) => {
                        if is_over {
                            items.remove(at);
                        } else if let Item::Closed { told, .. } = &mut items[at] {
                            *told = true;
                        }
                        bound.extend(variables);
                        return true;
                    }
                    Err(reason) => why = reason,
                }
            }
            false
        });
        names.variables.extend(bound);
        if self.alternatives.is_empty() { Err(why.told(event)) } else { Ok(()) }
    }
}

/// Why something is not what was expected. Put into words for the last one alone: there may be thousands.
#[derive(Debug, Clone, Copy)]
enum Why {
    Text(&'static str),
    No(Kind),
    /// This field is something else.
    Field(&'static str),
}

impl Why {
    fn told(self, event: &Event) -> String {
        match (self, event) {
            (Self::Text(text), _) => text.into(),
            (Self::No(kind), Event::Packet(_)) => format!("no {}", kind.name()),
            (Self::No(kind), Event::Closed) => format!("closed instead of {}", kind.name()),
            (Self::Field(name), Event::Packet(received)) => {
                let shown: Vec<String> = received.packet.all(name).map(Value::to_string).collect();
                let shown = if shown.is_empty() { "not there".into() } else { shown.join(" ") };
                format!("{name} is {shown}")
            }
            (Self::Field(name), Event::Closed) => name.into(),
        }
    }
}

/// What variables hold from now on.
type Bound = Vec<(String, Value)>;

impl Item {
    /// Whether the item is over thereby.
    fn meets(
        &self,
        event: &Event,
        version: Version,
        strict: bool,
        names: &Names,
    ) -> Result<(bool, Bound), Why> {
        match (self, event) {
            (Self::Closed { reasons, told }, Event::Closed) => {
                let must_tell = strict && version == Version::V5 && !reasons.is_empty() && !told;
                if must_tell {
                    Err(Why::Text("closed without a DISCONNECT that says why"))
                } else {
                    Ok((true, Vec::new()))
                }
            }
            (Self::Closed { reasons, told: false }, Event::Packet(Received { packet, .. }))
                if packet.kind == Kind::DISCONNECT =>
            {
                let reason = packet.number("reason").unwrap_or(0);
                let fits = if reasons.is_empty() { reason >= 0x80 } else { reasons.contains(&reason) };
                if fits { Ok((false, Vec::new())) } else { Err(Why::Field("reason")) }
            }
            (Self::Packet { kind, fields }, Event::Packet(Received { packet, .. }))
                if *kind == packet.kind =>
            {
                fits(packet, fields, version, names).map(|bound| (true, bound))
            }
            (Self::Packet { kind, .. }, _) => Err(Why::No(*kind)),
            (Self::Ended, Event::Closed) => Ok((true, Vec::new())),
            (Self::Closed { .. } | Self::Ended, Event::Packet(_)) => Err(Why::Text("still open")),
        }
    }
}

/// `KIND field=value …`, or `closed 0x81|0x82`, or `ended`.
fn item(words: &[&str], names: &Names) -> Result<Item, String> {
    let (first, rest) = words.split_first().ok_or("nothing expected")?;
    if *first == "ended" {
        return Ok(Item::Ended);
    }
    if *first == "closed" {
        let reasons = rest.iter().flat_map(|word| word.split('|')).map(super::value::number);
        return Ok(Item::Closed { reasons: reasons.collect::<Result<_, _>>()?, told: false });
    }
    let kind = Kind::named(first).ok_or(format!("no packet: {first}"))?;
    packet(kind, rest, names)
}

/// A packet with these fields.
pub fn packet(kind: Kind, words: &[&str], names: &Names) -> Result<Item, String> {
    let mut fields = Vec::new();
    for word in words {
        let (name, value) = word.split_once('=').ok_or(format!("no field=value: {word}"))?;
        let (name, holds) = wire::field(kind, name).ok_or(format!("no field of {}: {name}", kind.name()))?;
        fields.push((name, names.pattern(value, holds)?));
    }
    Ok(Item::Packet { kind, fields })
}

/// Whether a packet has these fields, and what the variables hold then.
fn fits(
    packet: &Packet,
    fields: &[(&'static str, Pattern)],
    version: Version,
    names: &Names,
) -> Result<Bound, Why> {
    let kind = packet.kind;
    let mut bound = Vec::new();
    for (at, (name, pattern)) in fields.iter().enumerate() {
        if version == Version::V3 && wire::is_of_v5(kind, name) {
            continue;
        }
        // Of what comes more than once everything is compared, when the first is looked at.
        if matches!(*name, "user" | "subscription-identifier")
            && !matches!(pattern, Pattern::Any | Pattern::Absent)
        {
            if fields[..at].iter().all(|(before, _)| before != name) && !are_all(packet, name, fields) {
                return Err(Why::Field(name));
            }
            continue;
        }
        match (pattern, packet.get(name)) {
            (Pattern::Any, Some(_)) | (Pattern::Absent, None) => {}
            (Pattern::OneOf(these), Some(value)) if these.contains(value) => {}
            (Pattern::Range(low, high), Some(Value::Number(n))) if (low..=high).contains(&n) => {}
            (Pattern::Variable(variable), value) => {
                let value = value.cloned().or_else(|| default(kind, name)).ok_or(Why::Field(name))?;
                match names.variables.get(variable) {
                    Some(known) if *known != value => return Err(Why::Field(name)),
                    Some(_) => {}
                    None => bound.push((variable.clone(), value)),
                }
            }
            _ => return Err(Why::Field(name)),
        }
    }
    let named = |name: &str| fields.iter().any(|(known, _)| *known == name);
    for name in ["dup", "qos", "retain"] {
        if kind == Kind::PUBLISH && !named(name) && packet.number(name) != Some(0) {
            return Err(Why::Field(name));
        }
    }
    let worst = if kind == Kind::CONNACK { 0 } else { 0x7F };
    let is_refused = packet.number("reason").is_some_and(|reason| reason > worst);
    if is_refused && kind != Kind::DISCONNECT && kind != Kind::AUTH && !named("reason") {
        return Err(Why::Field("reason"));
    }
    Ok(bound)
}

/// What a property that is left out means.
fn default(kind: Kind, name: &str) -> Option<Value> {
    let number = match name {
        "receive-maximum" => 65_535,
        "topic-alias-maximum" => 0,
        "maximum-packet-size" => 268_435_460,
        "maximum-qos" => 2,
        "retain-available" | "wildcard-subscription-available" => 1,
        "subscription-identifiers-available" | "shared-subscription-available" => 1,
        _ => return None,
    };
    (kind == Kind::CONNACK).then_some(Value::Number(number))
}

/// User properties come in order, subscription identifiers in any.
fn are_all(packet: &Packet, name: &str, fields: &[(&'static str, Pattern)]) -> bool {
    let mut found: Vec<Value> = packet.all(name).cloned().collect();
    let wanted = fields.iter().filter(|(known, _)| *known == name);
    let mut wanted: Vec<Value> = wanted
        .filter_map(
            |(_, pattern)| if let Pattern::OneOf(these) = pattern { these.first().cloned() } else { None },
        )
        .collect();
    if name == "subscription-identifier" {
        found.sort();
        wanted.sort();
    }
    found == wanted
}

/// What a script writes of a packet that is sent.
pub fn sent(kind: Kind, words: &[&str], names: &Names) -> Result<Packet, String> {
    let mut packet = Packet::new(kind);
    for word in words {
        let (name, value) = word.split_once('=').ok_or(format!("no field=value: {word}"))?;
        let (name, holds) = wire::field(kind, name).ok_or(format!("no field of {}: {name}", kind.name()))?;
        let holds = if matches!(holds, Type::Codes) { Type::U8 } else { holds };
        packet.fields.push((name, names.value(value, holds)?));
    }
    Ok(packet)
}
