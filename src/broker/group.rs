//! A group of a shared subscription: which member gets a message (section 4.8.2).
//!
//! Members that are ready take turns. One that is found to be away, or to have no room, is set aside, and costs nothing from
//! then on: its session tells the group when a connection takes it or something leaves its queue. So a message costs a few steps,
//! and one more for each member that is set aside, which each of them paid for when it came back.

use std::sync::{Arc, Weak};

use hashbrown::HashMap;
use parking_lot::Mutex;

use super::{
    limits::Limits,
    session::Session,
    trie::{Entry, Grant},
};

/// How many members that were set aside are asked whether they have room for a message that nobody else takes.
const TRIES: usize = 8;

/// The members of a shared subscription.
#[derive(Debug)]
pub(crate) struct Group {
    /// `$share/NAME/FILTER`.
    pub(crate) filter: Arc<str>,
    /// Locked for a few steps, also by who has locked a session: no session is locked meanwhile.
    members: Mutex<Members>,
}

/// Where a session hears of its group again.
#[derive(Debug)]
pub(crate) struct Aside {
    group: Weak<Group>,
    session_key: u64,
}

impl Aside {
    pub(crate) fn new(group: &Arc<Group>, session_key: u64) -> Self {
        Self { group: Arc::downgrade(group), session_key }
    }

    /// Whether the group is there, and another than that of `other`.
    pub(crate) fn is_beside(&self, other: &Self) -> bool {
        self.group.strong_count() > 0 && !Weak::ptr_eq(&self.group, &other.group)
    }

    /// The session may be ready again.
    pub(crate) fn end(self) {
        if let Some(group) = self.group.upgrade() {
            group.members.lock().bring_back(self.session_key);
        }
    }
}

impl Group {
    pub(crate) fn new(filter: String) -> Self {
        Self { filter: filter.into(), members: Mutex::default() }
    }

    /// Adds or replaces the subscription of a session; whether it is new.
    pub(crate) fn insert(&self, entry: Entry) -> bool {
        self.members.lock().insert(entry)
    }

    /// Removes the subscription of a session; whether there was one.
    pub(crate) fn remove(&self, session_key: u64) -> bool {
        self.members.lock().remove(session_key)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.members.lock().places.is_empty()
    }

    /// Whose turn it is: the next member that is connected and has room for a message that counts for so many bytes. If there
    /// is none, the next of the others, if possible one that has room.
    pub(crate) fn next(self: &Arc<Self>, bytes: usize, limits: &Limits) -> Option<(Arc<Session>, Grant)> {
        let given = |Entry { session, subscribed }| {
            let grant = Grant::new(&subscribed);
            (session, grant)
        };
        loop {
            let Some(member) = self.members.lock().turn(true) else { break };
            if member.session.is_ready(bytes, limits, self) {
                return Some(given(member));
            }
            self.members.lock().set_aside(member.session.key);
        }
        let mut first = None;
        for _ in 0..TRIES {
            let Some(member) = self.members.lock().turn(false) else { break };
            if member.session.has_room(bytes, limits) {
                return Some(given(member));
            }
            first.get_or_insert(member);
        }
        first.map(given)
    }
}

#[derive(Debug, Default)]
struct Members {
    ready: Turns,
    aside: Turns,
    /// Where each session is.
    places: HashMap<u64, Place>,
    /// Turns that were given, for tests.
    #[cfg(test)]
    turns: usize,
}

#[derive(Debug)]
struct Place {
    ready: bool,
    index: usize,
    /// It may have become ready since it was found not to be, before it could be set aside.
    stirred: bool,
}

/// Members that have a turn one after the other.
#[derive(Debug, Default)]
struct Turns {
    members: Vec<Entry>,
    /// Those before this one had their turn in the present round.
    next: usize,
}

impl Members {
    /// The next of those that are ready, or of those that were set aside. Had its turn thereby.
    fn turn(&mut self, ready: bool) -> Option<Entry> {
        let turns = if ready { &mut self.ready } else { &mut self.aside };
        if turns.next >= turns.members.len() {
            turns.next = 0;
        }
        let member = turns.members.get(turns.next)?.clone();
        turns.next += 1;
        #[cfg(test)]
        {
            self.turns += 1;
        }
        Some(member)
    }

    fn insert(&mut self, entry: Entry) -> bool {
        if let Some(place) = self.places.get(&entry.session.key) {
            let turns = if place.ready { &mut self.ready } else { &mut self.aside };
            turns.members[place.index] = entry;
            return false;
        }
        self.put(entry, true);
        true
    }

    fn remove(&mut self, session_key: u64) -> bool {
        self.take(session_key).is_some()
    }

    fn set_aside(&mut self, session_key: u64) {
        let Some(place) = self.places.get_mut(&session_key).filter(|place| place.ready) else { return };
        if !std::mem::take(&mut place.stirred)
            && let Some(entry) = self.take(session_key)
        {
            self.put(entry, false);
        }
    }

    fn bring_back(&mut self, session_key: u64) {
        let Some(place) = self.places.get_mut(&session_key) else { return };
        if place.ready {
            place.stirred = true;
        } else if let Some(entry) = self.take(session_key) {
            self.put(entry, true);
        }
    }

    /// Appends a member: its turn comes in the present round.
    fn put(&mut self, entry: Entry, ready: bool) {
        let turns = if ready { &mut self.ready } else { &mut self.aside };
        let place = Place { ready, index: turns.members.len(), stirred: false };
        self.places.insert(entry.session.key, place);
        turns.members.push(entry);
    }

    /// Takes a member out, in a few steps: others move, but none past the border between those that had their turn and
    /// those that have not.
    fn take(&mut self, session_key: u64) -> Option<Entry> {
        let Place { ready, mut index, .. } = self.places.remove(&session_key)?;
        let turns = if ready { &mut self.ready } else { &mut self.aside };
        let mut moved = [None, None];
        if index < turns.next {
            turns.next -= 1;
            turns.members.swap(index, turns.next);
            moved[0] = Some(index);
            index = turns.next;
        }
        let entry = turns.members.swap_remove(index);
        moved[1] = Some(index);
        for index in moved.into_iter().flatten() {
            let place = turns.members.get(index).and_then(|entry| self.places.get_mut(&entry.session.key));
            place.into_iter().for_each(|place| place.index = index);
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        broker::{
            Timestamp,
            hook::Client,
            message::Message,
            session::{Ending, Link, Subscribed, outgoing::Queued},
        },
        mqtt::{QoS, Version},
    };

    const BYTES: usize = 200;

    fn group(members: &[Arc<Session>]) -> Arc<Group> {
        let group = Arc::new(Group::new("$share/g/a".into()));
        members.iter().for_each(|session| assert!(group.insert(entry(session))));
        group
    }

    fn entry(session: &Arc<Session>) -> Entry {
        Entry { session: session.clone(), subscribed: Subscribed { options: Default::default(), id: None } }
    }

    fn sessions(count: usize) -> Vec<Arc<Session>> {
        let session = |_| Arc::new(Session::new("c".into(), None, &Default::default()));
        (0..count).map(session).collect()
    }

    fn connect(session: &Session) {
        let client = Arc::new(Client {
            connection: 1,
            peer: ([127, 0, 0, 1], 1).into(),
            version: Version::V5,
            client_id: "c".into(),
            identity: None,
            user_properties: Vec::new(),
            attachments: Default::default(),
        });
        let link = Link {
            client,
            control: Default::default(),
            acks: Default::default(),
            unreleased: 0,
            answers: Vec::new(),
            subacks_waiting: 0,
            inflight_max: 1,
            waker: None,
        };
        session.lock().attach(link, None, None);
    }

    fn disconnect(session: &Session) {
        session.lock().detach(Timestamp(0), Ending { discard_will: false }, &limits());
    }

    /// One message has room.
    fn limits() -> Limits {
        Limits { queue_messages_max: 1, ..Limits::default() }
    }

    fn fill(session: &Session) {
        let message = Message::new("a".into(), "x".into(), QoS::AtMostOnce, false).share();
        let (qos, ids) = (QoS::AtMostOnce, None);
        let queued = Queued { seq: 0, message, qos, retain: false, retained: false, ids, shared: None };
        session.lock().outgoing.offer(queued, &limits()).unwrap();
    }

    fn drain(session: &Session) {
        session.lock().outgoing.take(1, 1, &mut Vec::new());
    }

    fn next(group: &Arc<Group>) -> u64 {
        group.next(BYTES, &limits()).expect("there are members").0.key
    }

    fn turns(group: &Group) -> usize {
        std::mem::take(&mut group.members.lock().turns)
    }

    /// Members that are away are looked at once, and not again for each message.
    #[test]
    fn those_who_are_away_cost_nothing() {
        let members = sessions(5_000);
        let group = group(&members);
        let present = [&members[7], &members[2_500], &members[4_999]];
        present.iter().for_each(|session| connect(session));
        next(&group);
        assert!(turns(&group) <= 5_000);
        let mut got: HashMap<u64, usize> = HashMap::new();
        for _ in 0..3_000 {
            *got.entry(next(&group)).or_default() += 1;
        }
        assert!(turns(&group) <= 3_000 + 5_000);
        assert_eq!(got.len(), 3);
        assert!(got.values().all(|count| *count == 1_000), "{got:?}");
        for _ in 0..1_000 {
            next(&group);
        }
        assert_eq!(turns(&group), 1_000);
    }

    #[test]
    fn where_nobody_is_there_those_who_are_away_take_turns() {
        let members = sessions(10);
        let group = group(&members);
        let mut got: HashMap<u64, usize> = HashMap::new();
        for _ in 0..100 {
            *got.entry(next(&group)).or_default() += 1;
        }
        assert!(got.len() == 10 && got.values().all(|count| *count == 10), "{got:?}");
        assert_eq!(turns(&group), 110);
        // One that has no room is passed over.
        fill(&members[3]);
        (0..100).for_each(|_| assert_ne!(next(&group), members[3].key));
        members.iter().filter(|member| member.key != members[3].key).for_each(|member| fill(member));
        // Nobody has. That costs no more than a few steps either.
        turns(&group);
        (0..100).for_each(|_| assert_ne!(next(&group), 0));
        assert_eq!(turns(&group), 100 * TRIES);
        let none: Option<_> = Arc::new(Group::new("$share/g/a".into())).next(BYTES, &limits());
        assert!(none.is_none());
    }

    /// It became ready after it was found not to be, and before it was set aside for that.
    #[test]
    fn whoever_is_ready_in_that_very_moment_is_not_forgotten() {
        let members = sessions(2);
        let group = group(&members);
        connect(&members[0]);
        let key = members[1].key;
        assert!(!members[1].is_ready(BYTES, &limits(), &group));
        connect(&members[1]);
        group.members.lock().set_aside(key);
        let got = [next(&group), next(&group)];
        assert!(got.contains(&key), "{got:?}");
    }

    /// Members come, go, fill and drain at random. Whoever is ready gets its turn before anybody has two, a message goes to one that
    /// is ready if there is any, and the steps are as many as the messages and what happened.
    #[test]
    fn turns_are_fair_whatever_happens() {
        let mut random = 1u64;
        let mut below = move |count: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) as usize % count
        };
        #[derive(Default, Clone, Copy)]
        struct State {
            member: bool,
            connected: bool,
            full: bool,
            /// Turns of others since it is ready or had its own.
            waits: usize,
        }
        let members = sessions(12);
        let group = group(&[]);
        let mut states = [State::default(); 12];
        let (mut happened, mut messages) = (0, 0);
        for _ in 0..100_000 {
            let index = below(12);
            let (session, state) = (&members[index], &mut states[index]);
            let before = state.member && state.connected && !state.full;
            match below(16) {
                0 => {
                    state.member = !state.member;
                    match state.member {
                        true => assert!(group.insert(entry(session))),
                        false => assert!(group.remove(session.key)),
                    }
                    happened += 1;
                }
                1 => {
                    state.connected = !state.connected;
                    match state.connected {
                        true => connect(session),
                        false => {
                            disconnect(session);
                            state.full = false;
                        }
                    }
                    happened += 1;
                }
                2 | 3 => {
                    match state.full {
                        true => drain(session),
                        false => fill(session),
                    }
                    state.full = !state.full;
                    happened += 1;
                }
                _ => {
                    messages += 1;
                    let ready = |state: &State| state.member && state.connected && !state.full;
                    let Some((session, _)) = group.next(BYTES, &limits()) else {
                        assert!(states.iter().all(|state| !state.member));
                        continue;
                    };
                    let chosen = members.iter().position(|member| member.key == session.key).unwrap();
                    assert!(states[chosen].member);
                    if states.iter().any(ready) {
                        assert!(ready(&states[chosen]));
                        states.iter_mut().for_each(|state| state.waits += 1);
                        states[chosen].waits = 0;
                        // At most a round that is under way and a whole one.
                        assert!(states.iter().filter(|state| ready(state)).all(|state| state.waits < 24));
                    }
                    continue;
                }
            }
            let state = &mut states[index];
            if before != (state.member && state.connected && !state.full) {
                state.waits = 0;
            }
        }
        let turns = turns(&group);
        assert!(turns <= messages * 2 + happened * 2, "{turns} for {messages} and {happened}");
    }
}
