//! The load: publishers and subscribers on plain sockets in one thread of a process of its own.
//!
//! Packets are made beforehand and patched, many go out in one write, and what comes back is counted. Every message has
//! a number, so that one that is lost, repeated or overtaken is found out. One thread is enough for millions of
//! deliveries a second; how busy it was is part of the answer.

use std::io::{self, BufRead, ErrorKind, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use rustls::ClientConfig;

use super::orders::{Answer, Order, Setup, Streamed, To};
use super::sealed::Sealed;
use super::socket::Socket;
use super::wire::{self, Form, Got, Stamp, Template};
use crate::mqtt::cpu;

/// What topics begin with, where anybody may publish anything, and where only what is sealed.
const OPEN: &str = "bench/open";
const SEALED: &str = "bench/seal";
/// Read at a time.
const SCRATCH_BYTES: usize = 256 << 10;
/// Nothing on a loopback takes that long unless it is lost.
pub(super) const LOST_AFTER: Duration = Duration::from_secs(10);
/// Filters of one SUBSCRIBE.
const FILTERS_AT_ONCE: usize = 100;
/// Messages that a publisher writes at once, at most; not fewer than this while the window is open, or the load would
/// follow the broker's smallest steps.
const CHUNK: u64 = 64;

/// Runs as a load until standard input ends.
///
/// # Errors
/// Standard input or output is gone. What goes wrong with the broker is answered.
pub fn main() -> io::Result<()> {
    let mut lines = io::stdin().lock().lines();
    let Some(setup) = lines.next().transpose()? else { return Ok(()) };
    let setup: Setup = serde_json::from_str(&setup)?;
    raise_files_max();
    let mut load = match Load::connect(setup) {
        Ok(load) => load,
        Err(error) => return answer(&Answer::Failed(format!("cannot connect: {error}"))),
    };
    answer(&Answer::Ready)?;
    for line in lines {
        let done = match serde_json::from_str(&line?)? {
            Order::Stream { warm_up_seconds, seconds } => {
                load.stream(warm_up_seconds, seconds).map(Answer::Streamed)
            }
            Order::Latency { count, pause_us } => load.latencies(count, pause_us).map(Answer::Latencies),
        };
        match done {
            Ok(done) => answer(&done)?,
            Err(error) => return answer(&Answer::Failed(error.to_string())),
        }
    }
    Ok(())
}

fn answer(answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&line)?;
    out.flush()
}

/// As many open files as the system lets a process have: each connection is one.
pub fn raise_files_max() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Without it, fewer connections than asked for can be made, and that is said then.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// CPU time of this process.
fn own_cpu() -> f64 {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

/// One socket.
struct End {
    stream: Socket,
    form: Form,
    /// The beginning of a packet.
    rest: Vec<u8>,
    out: Vec<u8>,
    /// How much of it is written.
    written: usize,
}

impl End {
    fn new(stream: Socket, form: Form) -> io::Result<Self> {
        stream.set_nonblocking()?;
        Ok(Self { stream, form, rest: Vec::new(), out: Vec::new(), written: 0 })
    }

    /// Writes what can be written.
    fn flush(&mut self) -> io::Result<()> {
        while self.written < self.out.len() {
            match self.stream.write(&self.out[self.written..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.written = 0;
        match self.stream.flush() {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(()),
        }
    }

    /// Reads all that is there.
    fn read(&mut self, scratch: &mut [u8], mut take: impl FnMut(Got, &mut Vec<u8>)) -> io::Result<()> {
        loop {
            let Self { stream, rest, out, form, .. } = self;
            match wire::read(*form, stream, rest, scratch, |got| take(got, out)) {
                Ok(0) => {
                    return Err(io::Error::new(ErrorKind::UnexpectedEof, "the broker closed a connection"));
                }
                // Less than there was room for: that was all.
                Ok(count) if self.stream.reads_all() && count < SCRATCH_BYTES / 2 => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

struct Publisher {
    end: End,
    sent: u64,
    acknowledged: u64,
}

struct Subscriber {
    end: End,
    got: u64,
    /// Number that comes next, of each publisher.
    next: Vec<u64>,
}

struct Load {
    setup: Setup,
    poll: Poll,
    publishers: Vec<Publisher>,
    subscribers: Vec<Subscriber>,
    templates: Vec<Template>,
    /// What a sealed stream begins with, for each topic: the message that brings the header.
    first: Vec<Template>,
    wrong: u64,
    _idle: Vec<Socket>,
}

impl Load {
    fn connect(setup: Setup) -> io::Result<Self> {
        let Setup { qos, to, .. } = setup;
        let name = &setup.name;
        let way = Way::of(&setup)?;
        let under = if way.sealed.is_some() { SEALED } else { OPEN };
        let mut idle = Vec::with_capacity(setup.idle);
        for n in 0..setup.idle {
            let filters = (0..setup.idle_filters).map(|f| format!("{under}/idle/{name}/c{n}/f{f}"));
            idle.push(way.join(&format!("{name}-idle-{n}"), true, &filters.collect::<Vec<_>>(), qos)?);
        }
        let topics: Vec<String> = match to {
            To::All => (0..setup.publishers).map(|n| format!("{under}/{name}/p{n}")).collect(),
            To::One { filters, .. } => (0..setup.subscribers)
                .flat_map(|n| (0..filters).map(move |f| format!("{under}/{name}/s{n}/f{f}")))
                .collect(),
        };
        let mut subscribers = Vec::with_capacity(setup.subscribers);
        for n in 0..setup.subscribers {
            let filters = match to {
                To::All if topics.len() > 1 => &[format!("{under}/{name}/+")][..],
                To::All => &topics[..],
                To::One { filters, .. } => &topics[n * filters..(n + 1) * filters],
            };
            let end = End::new(way.join(&format!("{name}-sub-{n}"), !setup.kept, filters, qos)?, way.form)?;
            subscribers.push(Subscriber { end, got: 0, next: vec![0; setup.publishers] });
        }
        let mut publishers = Vec::with_capacity(setup.publishers);
        for n in 0..setup.publishers {
            let end = End::new(way.join(&format!("{name}-pub-{n}"), true, &[], qos)?, way.form)?;
            publishers.push(Publisher { end, sent: 0, acknowledged: 0 });
        }
        let (templates, first) = way.templates(&topics, &setup)?;
        let poll = Poll::new()?;
        let ends = publishers.iter().map(|p| &p.end).chain(subscribers.iter().map(|s| &s.end));
        for (n, end) in ends.enumerate() {
            let fd = end.stream.as_fd().as_raw_fd();
            poll.registry().register(
                &mut SourceFd(&fd),
                Token(n),
                Interest::READABLE | Interest::WRITABLE,
            )?;
        }
        Ok(Self { setup, poll, publishers, subscribers, templates, first, wrong: 0, _idle: idle })
    }

    fn stream(&mut self, warm_up_seconds: f64, seconds: f64) -> io::Result<Streamed> {
        let mut scratch = vec![0; SCRATCH_BYTES];
        let mut events = Events::with_capacity(1024);
        let wrong_before = self.wrong;
        self.run_for(warm_up_seconds, &mut events, &mut scratch)?;
        let before = self.now();
        self.run_for(seconds, &mut events, &mut scratch)?;
        let after = self.now();
        self.drain(&mut events, &mut scratch)?;
        Ok(Streamed {
            deliveries: after.deliveries - before.deliveries,
            seconds: after.at.duration_since(before.at).as_secs_f64(),
            broker_cpu_seconds: before.broker_cpu.zip(after.broker_cpu).map(|(before, after)| after - before),
            load_cpu_seconds: after.own_cpu - before.own_cpu,
            wrong: self.wrong - wrong_before,
        })
    }

    fn now(&self) -> Moment {
        Moment {
            at: Instant::now(),
            deliveries: self.got(),
            broker_cpu: self.setup.broker.and_then(cpu::time).map(|time| time.as_secs_f64()),
            own_cpu: own_cpu(),
        }
    }

    /// Messages that reached a subscriber so far.
    fn got(&self) -> u64 {
        self.subscribers.iter().map(|subscriber| subscriber.got).sum()
    }

    fn run_for(&mut self, seconds: f64, events: &mut Events, scratch: &mut [u8]) -> io::Result<()> {
        let (begun, before) = (Instant::now(), self.got());
        // A stream without a delivery would tell nothing, however short it was meant to be.
        let nothing = |load: &Self| load.got() == before && begun.elapsed() < LOST_AFTER;
        while begun.elapsed().as_secs_f64() < seconds || nothing(self) {
            self.publish()?;
            self.wait(events, scratch)?;
        }
        Ok(())
    }

    /// Waits for what is still under way. What does not come is lost.
    fn drain(&mut self, events: &mut Events, scratch: &mut [u8]) -> io::Result<()> {
        let mut progress = (Instant::now(), 0);
        loop {
            let under_way: u64 = (0..self.publishers.len()).map(|n| self.under_way(n)).sum();
            let unacknowledged: u64 =
                self.publishers.iter().map(|publisher| publisher.sent - publisher.acknowledged).sum();
            let left = under_way + if self.setup.qos > 0 { unacknowledged } else { 0 };
            if left == 0 {
                return Ok(());
            }
            if left != progress.1 {
                progress = (Instant::now(), left);
            }
            if progress.0.elapsed() > LOST_AFTER {
                let text = format!("{left} messages did not come");
                return Err(io::Error::new(ErrorKind::TimedOut, text));
            }
            self.wait(events, scratch)?;
        }
    }

    /// Messages of a publisher that are not yet where they go.
    fn under_way(&self, publisher: usize) -> u64 {
        let sent = self.publishers[publisher].sent;
        let arrived = match self.setup.to {
            // The slowest subscriber counts.
            To::All => {
                self.subscribers.iter().map(|subscriber| subscriber.next[publisher]).min().unwrap_or(sent)
            }
            // There is one publisher.
            To::One { .. } => self.got(),
        };
        sent.saturating_sub(arrived)
    }

    /// Writes what the windows let through.
    fn publish(&mut self) -> io::Result<()> {
        let Setup { qos, to, window, inflight, .. } = self.setup;
        let window = (window / self.publishers.len() as u64).max(1);
        let chunk = CHUNK.min(if qos > 0 { inflight.min(window) } else { window } / 2).max(1);
        for n in 0..self.publishers.len() {
            let mut room = window.saturating_sub(self.under_way(n));
            let publisher = &mut self.publishers[n];
            if qos > 0 {
                room = room.min(inflight.saturating_sub(publisher.sent - publisher.acknowledged));
            }
            while room >= chunk && publisher.end.out.is_empty() {
                for _ in 0..chunk {
                    let template = match to {
                        To::All => n,
                        To::One { filters, run } => {
                            template(publisher.sent, self.setup.subscribers, filters, run)
                        }
                    };
                    let stamp = Stamp { publisher: n as u16, number: publisher.sent };
                    // From 1 on; what is under way is far less than there are.
                    let packet_id = (publisher.sent % 65_535) as u16 + 1;
                    let first = self.first.get(template).filter(|_| publisher.sent == 0);
                    let message = first.unwrap_or(&self.templates[template]);
                    message.put(stamp, packet_id, &mut publisher.end.out);
                    publisher.sent += 1;
                }
                room -= chunk;
                publisher.end.flush()?;
            }
        }
        Ok(())
    }

    /// Waits for something to read, or room to write, and deals with it.
    fn wait(&mut self, events: &mut Events, scratch: &mut [u8]) -> io::Result<()> {
        match self.poll.poll(events, Some(Duration::from_millis(10))) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            other => other?,
        }
        let one_each = matches!(self.setup.to, To::One { .. });
        let wrong = &mut self.wrong;
        for event in &*events {
            let token = event.token().0;
            let readable = event.is_readable() || event.is_read_closed();
            if let Some(publisher) = self.publishers.get_mut(token) {
                let Publisher { end, acknowledged, .. } = publisher;
                if readable {
                    end.read(scratch, |got, _| *acknowledged += u64::from(got == Got::Puback))?;
                }
                end.flush()?;
            } else {
                let Subscriber { end, got, next } = &mut self.subscribers[token - self.publishers.len()];
                if readable {
                    end.read(scratch, |what, out| {
                        let Got::Publish { stamp, packet_id } = what else { return };
                        let expected = &mut next[usize::from(stamp.publisher)];
                        // Of a publisher that does not publish to this one alone, numbers are missing.
                        let right =
                            if one_each { stamp.number >= *expected } else { stamp.number == *expected };
                        *wrong += u64::from(!right);
                        *expected = stamp.number + 1;
                        *got += 1;
                        out.extend(packet_id.into_iter().flat_map(wire::puback));
                    })?;
                }
                end.flush()?;
            }
        }
        Ok(())
    }

    /// One message after the other from the first publisher to the first subscriber.
    fn latencies(&mut self, count: u32, pause_us: u64) -> io::Result<Vec<u64>> {
        let mut scratch = vec![0; SCRATCH_BYTES];
        let qos = self.setup.qos;
        let (Some(publisher), Some(subscriber)) = (self.publishers.first_mut(), self.subscribers.first_mut())
        else {
            return Ok(Vec::new());
        };
        let mut took = Vec::with_capacity(count as usize);
        for _ in 0..count {
            std::thread::sleep(Duration::from_micros(pause_us));
            let stamp = Stamp { publisher: 0, number: publisher.sent };
            let packet_id = (publisher.sent % 65_535) as u16 + 1;
            self.templates[0].put(stamp, packet_id, &mut publisher.end.out);
            publisher.sent += 1;
            let begun = Instant::now();
            publisher.end.flush()?;
            let before = subscriber.got;
            while subscriber.got == before {
                let Subscriber { end, got, next } = subscriber;
                wait_readable(&end.stream)?;
                end.read(&mut scratch, |what, out| {
                    let Got::Publish { stamp: of, packet_id } = what else { return };
                    self.wrong += u64::from(of != stamp);
                    next[0] = of.number + 1;
                    *got += 1;
                    out.extend(packet_id.into_iter().flat_map(wire::puback));
                })?;
            }
            took.push(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
            subscriber.end.flush()?;
            while qos > 0 && publisher.acknowledged < publisher.sent {
                wait_readable(&publisher.end.stream)?;
                let Publisher { end, acknowledged, .. } = publisher;
                end.read(&mut scratch, |got, _| *acknowledged += u64::from(got == Got::Puback))?;
            }
        }
        Ok(took)
    }
}

/// A point of a stream.
struct Moment {
    at: Instant,
    deliveries: u64,
    broker_cpu: Option<f64>,
    own_cpu: f64,
}

/// Which topic the message of this number goes to: subscribers in turn for a run each, and each through its filters in
/// turn.
fn template(number: u64, subscribers: usize, filters: usize, run: u64) -> usize {
    let (runs, in_run) = (number / run, number % run);
    let (rounds, subscriber) = (runs / subscribers as u64, runs % subscribers as u64);
    let filter = (rounds * run + in_run) % filters as u64;
    subscriber as usize * filters + filter as usize
}

fn wait_readable(stream: &Socket) -> io::Result<()> {
    let mut fds = [PollFd::new(stream, PollFlags::IN)];
    let timeout = Timespec { tv_sec: LOST_AFTER.as_secs() as i64, tv_nsec: 0 };
    match poll(&mut fds, Some(&timeout)) {
        Ok(0) => Err(io::Error::new(ErrorKind::TimedOut, "a message did not come")),
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// How a load reaches its broker, and in which form.
struct Way {
    address: SocketAddr,
    form: Form,
    tls: Option<Arc<ClientConfig>>,
    sealed: Option<Sealed>,
}

impl Way {
    fn of(setup: &Setup) -> io::Result<Self> {
        let Some(keyring) = setup.keyring.as_deref().map(Sealed::load).transpose()? else {
            let form = Form::plain(setup.payload_bytes);
            return Ok(Self { address: setup.address, form, tls: None, sealed: None });
        };
        let form = Form { v5: true, stamp_from_end: Sealed::stamp_from_end(setup.payload_bytes) };
        Ok(Self { address: setup.address, form, tls: Some(keyring.tls()?), sealed: Some(keyring) })
    }

    /// Messages of each topic, and what the first ones look like if they differ.
    fn templates(&self, topics: &[String], setup: &Setup) -> io::Result<(Vec<Template>, Vec<Template>)> {
        let Some(sealed) = &self.sealed else {
            let plain = |topic: &String| Template::plain(topic, setup.qos, setup.payload_bytes);
            return Ok((topics.iter().map(plain).collect(), Vec::new()));
        };
        let mut both = (Vec::new(), Vec::new());
        for topic in topics {
            let (compact, full) = sealed.seal(topic, setup.payload_bytes)?;
            both.0.push(Template::new(self.form, topic, setup.qos, &compact));
            both.1.push(Template::new(self.form, topic, setup.qos, &full));
        }
        Ok(both)
    }

    /// Connects, and subscribes to `filters`.
    fn join(&self, client_id: &str, clean: bool, filters: &[String], qos: u8) -> io::Result<Socket> {
        let mut stream = Socket::connect(self.address, self.tls.as_ref())?;
        stream.write_all(&wire::connect(self.form, client_id, clean))?;
        stream.flush()?;
        let refused = |what: String| io::Error::other(what);
        match self.next(&mut stream)? {
            Got::Connack(0) => {}
            other => return Err(refused(format!("CONNECT was answered with {other:?}"))),
        }
        for some in filters.chunks(FILTERS_AT_ONCE) {
            stream.write_all(&wire::subscribe(self.form, 1, some.iter().map(String::as_str), qos))?;
            stream.flush()?;
            match self.next(&mut stream)? {
                Got::Suback(true) => {}
                other => return Err(refused(format!("SUBSCRIBE was answered with {other:?}"))),
            }
        }
        Ok(stream)
    }

    /// The next packet, which is all that comes.
    fn next(&self, stream: &mut Socket) -> io::Result<Got> {
        let (mut rest, mut scratch, mut found) = (Vec::new(), [0; 4096], None);
        while found.is_none() {
            if wire::read(self.form, stream, &mut rest, &mut scratch, |got| found = Some(got))? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        found.ok_or_else(|| ErrorKind::UnexpectedEof.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_subscriber_gets_runs_and_every_filter_its_turn() {
        let numbers: Vec<usize> = (0..8).map(|n| template(n, 2, 1, 2)).collect();
        assert_eq!(numbers, [0, 0, 1, 1, 0, 0, 1, 1]);
        let numbers: Vec<usize> = (0..8).map(|n| template(n, 2, 3, 2)).collect();
        assert_eq!(numbers, [0, 1, 3, 4, 2, 0, 5, 3]);
        let mut seen: Vec<usize> = (0..4 * 5 * 3).map(|n| template(n, 4, 5, 3)).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..20).flat_map(|n| [n; 3]).collect::<Vec<_>>());
    }
}
