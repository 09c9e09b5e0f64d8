//! mosquitto_pub, mosquitto_sub and mosquitto_rr with what their options can, in both versions.

use std::process::Command;

use super::common::open::Open;
use super::common::peers::is_there;
use super::common::process::{Ended, Running, run};

const VERSIONS: [&str; 2] = ["311", "5"];

/// The programs, and the broker that they talk to.
struct Tools(Open);

impl Tools {
    /// `None`: they are not installed.
    fn find() -> Option<Self> {
        let there = ["mosquitto_pub", "mosquitto_sub", "mosquitto_rr"].into_iter().all(is_there);
        there.then(|| Self(Open::start(&["--plain", "127.0.0.1:0"])))
    }

    fn command(&self, program: &str, version: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(self.0.options("mqtt")).args(["-V", version]).args(arguments);
        command
    }

    fn publish(&self, version: &str, arguments: &[&str]) {
        self.publish_input(version, arguments, "");
    }

    fn publish_input(&self, version: &str, arguments: &[&str], input: &str) {
        run(&mut self.command("mosquitto_pub", version, arguments), input.as_bytes()).success();
    }

    /// Runs until it ends by itself, with what it prints.
    fn subscribe_to_the_end(&self, version: &str, arguments: &[&str]) -> String {
        let ended: Ended = run(&mut self.command("mosquitto_sub", version, arguments), b"");
        ended.success()
    }

    /// Goes on; subscribed when this returns.
    fn subscribe(&self, version: &str, arguments: &[&str]) -> Subscriber {
        // What it says for debugging would otherwise wait for a message.
        let mut command = Command::new("stdbuf");
        command.args(["-oL", "mosquitto_sub", "-d", "-V", version]).args(self.0.options("mqtt"));
        let format = ["-F", FORMAT];
        let given = arguments.contains(&"-F");
        command.args(if given { &[][..] } else { &format }).args(arguments);
        let running = Running::spawn(&mut command);
        running.out.line("Subscribed (mid:");
        Subscriber(running)
    }
}

/// What of a message is printed, after a word that tells it from what is said for debugging.
const FORMAT: &str = "got %t %q %r %p";

struct Subscriber(Running);

impl Subscriber {
    /// The first `count` messages.
    fn got(&self, count: usize) -> Vec<String> {
        self.0.out.wait(&format!("{count} messages"), super::common::DEADLINE, |text| {
            let complete = &text[..text.rfind('\n').map_or(0, |at| at + 1)];
            let got: Vec<String> =
                complete.lines().filter_map(|line| line.strip_prefix("got ")).map(str::to_owned).collect();
            (got.len() >= count).then_some(got)
        })
    }
}

#[test]
fn messages_come_at_the_lower_qos_of_the_two() {
    let Some(tools) = Tools::find() else { return };
    for version in VERSIONS {
        for granted in ["0", "1", "2"] {
            let topic = format!("qos/{version}/{granted}");
            let subscriber = tools.subscribe(version, &["-q", granted, "-t", &topic]);
            let mut expected = Vec::new();
            for sent in ["0", "1", "2"] {
                tools.publish(version, &["-t", &topic, "-q", sent, "-m", sent]);
                expected.push(format!("{topic} {} 0 {sent}", granted.min(sent)));
            }
            assert_eq!(subscriber.got(3), expected);
        }
    }
}

#[test]
fn retained_messages_are_kept_shown_alone_left_out_and_removed() {
    let Some(tools) = Tools::find() else { return };
    for version in VERSIONS {
        let topic = |name: &str| format!("retained/{version}/{name}");
        let all = topic("#");
        for name in ["a", "b", "c"] {
            tools.publish(version, &["-t", &topic(name), "-q", "1", "-r", "-m", name]);
        }
        let kept = ["a", "b", "c"].map(|name| format!("{} 0 1 {name}", topic(name)));
        let sorted = |mut got: Vec<String>| {
            got.sort();
            got
        };
        assert_eq!(sorted(tools.subscribe(version, &["-t", &all]).got(3)), kept);

        // Shows no stale ones.
        let fresh = tools.subscribe(version, &["-R", "-t", &all]);
        tools.publish(version, &["-t", &topic("a"), "-m", "now"]);
        assert_eq!(fresh.got(1), [format!("{} 0 0 now", topic("a"))]);

        // Shows no others, and ends with the first of them.
        let only = tools.subscribe(version, &["--retained-only", "-t", &all]);
        let got = sorted(only.got(3));
        tools.publish(version, &["-t", &topic("a"), "-m", "now"]);
        assert_eq!((got, only.0.end().success().matches("got ").count()), (kept.to_vec(), 3));

        // Takes away what it gets, and -n with -r what it names.
        tools.publish(version, &["-t", &topic("c"), "-r", "-n"]);
        let watcher = tools.subscribe(version, &["-R", "-t", &all]);
        let _remover = tools.subscribe(version, &["--remove-retained", "-t", &all]);
        assert_eq!(sorted(watcher.got(2)), ["a", "b"].map(|name| format!("{} 0 0 ", topic(name))));
        let none = tools.subscribe(version, &["-t", &all]);
        tools.publish(version, &["-t", &topic("d"), "-m", "now"]);
        assert_eq!(none.got(1), [format!("{} 0 0 now", topic("d"))]);
    }
}

#[test]
fn a_session_waits_for_who_wants_it_and_for_nobody_else() {
    let Some(tools) = Tools::find() else { return };
    for version in VERSIONS {
        let topic = format!("session/{version}");
        let base = ["-i", &topic, "-q", "1", "-t", &topic];
        let expiry = |secs| if version == "5" { vec!["-x", secs] } else { vec![] };
        let stays = [&base[..], &["-c"], &expiry("60")].concat();
        let stays_long = [&base[..], &["--disable-clean-session"], &expiry("4294967295")].concat();
        tools.subscribe_to_the_end(version, &[&stays[..], &["-E"]].concat());
        for options in [&stays, &stays_long] {
            for payload in ["one", "two"] {
                tools.publish(version, &["-t", &topic, "-q", "1", "-m", payload]);
            }
            let got = tools.subscribe_to_the_end(version, &[&options[..], &["-C", "2"]].concat());
            assert_eq!(got, "one\ntwo\n", "{version}");
        }
        // A clean start ends it; in 5.0 so does an expiry of 0, once its connection is gone.
        let ends = if version == "5" { [&base[..], &["-c", "-x", "0"]].concat() } else { base.to_vec() };
        tools.subscribe_to_the_end(version, &[&ends[..], &["-E"]].concat());
        tools.publish(version, &["-t", &topic, "-q", "1", "-m", "lost"]);
        let again = tools.subscribe(version, &stays);
        tools.publish(version, &["-t", &topic, "-q", "1", "-m", "fresh"]);
        assert_eq!(again.got(1), [format!("{topic} 1 0 fresh")]);
    }
}

#[test]
fn the_will_of_who_is_killed_is_published_and_retained() {
    let Some(tools) = Tools::find() else { return };
    for version in VERSIONS {
        let topic = format!("will/{version}");
        let format = ["-F", "got %t %q %r %p %C %P"];
        let watcher = tools.subscribe(version, &[&["-q", "2", "-t", &topic], &format[..]].concat());
        let will =
            ["--will-topic", &topic, "--will-payload", "gone", "--will-qos", "1", "--will-retain", "-t", "x"];
        let more = ["-D", "will", "content-type", "text/plain", "-D", "will", "user-property", "a", "b"];
        let (more, said) = if version == "5" { (&more[..], "text/plain a:b") } else { (&[][..], " ") };
        let mut dying = tools.subscribe(version, &[&will, more].concat());
        dying.0.kill();
        assert_eq!(watcher.got(1), [format!("{topic} 1 0 gone {said}")]);
        let late = tools.subscribe(version, &[&["-q", "2", "-t", &topic], &format[..]].concat());
        assert_eq!(late.got(1), [format!("{topic} 1 1 gone {said}")]);
        // Who says goodbye has no will.
        let leaving = ["--will-topic", &topic, "--will-payload", "left", "-t", "x", "-E"];
        tools.subscribe_to_the_end(version, &leaving);
        tools.publish(version, &["-t", &topic, "-m", "mark"]);
        assert_eq!(watcher.got(2)[1], format!("{topic} 0 0 mark  "));
    }
}

#[test]
fn properties_of_5_0_arrive() {
    let Some(tools) = Tools::find() else { return };
    let format = ["-F", "got %p|%C|%R|%D|%F|%P|%S|%E"];
    let subscribe = ["-q", "2", "-t", "properties", "-D", "subscribe", "subscription-identifier", "7"];
    let subscriber = tools.subscribe("5", &[&subscribe, &format[..]].concat());
    let properties = [
        ["content-type", "text/plain"],
        ["response-topic", "answer"],
        ["correlation-data", "42"],
        ["payload-format-indicator", "1"],
        ["message-expiry-interval", "100"],
        ["topic-alias", "1"],
    ];
    let mut options = vec!["-t", "properties", "-q", "1", "-l"];
    options.extend(properties.iter().flat_map(|[name, value]| ["-D", "publish", name, value]));
    options.extend(["-D", "publish", "user-property", "b", "2", "-D", "publish", "user-property", "a", "1"]);
    // The second message has nothing but the alias for a topic.
    tools.publish_input("5", &options, "one\ntwo\n");
    for (got, payload) in subscriber.got(2).iter().zip(["one", "two"]) {
        let (rest, left) = got.rsplit_once('|').unwrap();
        assert_eq!(rest, format!("{payload}|text/plain|answer|42|1|b:2 a:1|7"));
        assert!((90..=100).contains(&left.parse::<u32>().unwrap()), "{got}");
    }
}

#[test]
fn lines_nothing_and_everything_are_published() {
    let Some(tools) = Tools::find() else { return };
    for version in VERSIONS {
        let topic = format!("input/{version}");
        let subscriber = tools.subscribe(version, &["-q", "1", "-F", "got %l %x", "-t", &topic]);
        tools.publish_input(version, &["-t", &topic, "-q", "1", "-l"], "one\ntwo\nthree\n");
        tools.publish(version, &["-t", &topic, "-q", "1", "-n"]);
        tools.publish_input(version, &["-t", &topic, "-q", "1", "-s"], "a\nb\n");
        tools.publish(version, &["-t", &topic, "-q", "1", "-m", "x", "--repeat", "2"]);
        let expected = ["3 6f6e65", "3 74776f", "5 7468726565", "0 ", "4 610a620a", "1 78", "1 78"];
        assert_eq!(subscriber.got(7), expected);
    }
}

#[test]
fn members_of_a_group_share_what_comes() {
    let Some(tools) = Tools::find() else { return };
    for version in VERSIONS {
        let topic = format!("shared/{version}");
        let filter = format!("$share/group/{topic}");
        let members = [(); 2].map(|()| tools.subscribe(version, &["-q", "1", "-F", "got %p", "-t", &filter]));
        tools.publish_input(version, &["-t", &topic, "-q", "1", "-l"], "1\n2\n3\n4\n");
        let mut got = members.each_ref().map(|member| member.got(2)).concat();
        got.sort();
        assert_eq!(got, ["1", "2", "3", "4"]);
    }
}

#[test]
fn what_was_unsubscribed_does_not_come() {
    let Some(tools) = Tools::find() else { return };
    for version in VERSIONS {
        let [gone, stays] = ["gone", "stays"].map(|name| format!("unsubscribe/{version}/{name}"));
        let subscriber = tools.subscribe(version, &["-q", "1", "-t", &gone, "-t", &stays, "-U", &gone]);
        subscriber.0.out.line("received UNSUBACK");
        for topic in [&gone, &stays] {
            tools.publish(version, &["-t", topic, "-q", "1", "-m", "x"]);
        }
        assert_eq!(subscriber.got(1), [format!("{stays} 1 0 x")]);
    }
}

#[test]
fn a_request_gets_its_response() {
    let Some(tools) = Tools::find() else { return };
    for version in VERSIONS {
        let [request, response] = ["request", "response"].map(|name| format!("rr/{version}/{name}"));
        let responder = tools.subscribe(version, &["-q", "1", "-F", "got %p|%R|%D", "-t", &request]);
        let mut options = vec!["-q", "1", "-t", &request, "-e", &response, "-m", "ask"];
        if version == "5" {
            options.extend(["-D", "publish", "correlation-data", "42"]);
        }
        let asking = Running::spawn(&mut tools.command("mosquitto_rr", version, &options));
        let told = if version == "5" { format!("ask|{response}|42") } else { "ask||".to_owned() };
        assert_eq!(responder.got(1), [told]);
        tools.publish(version, &["-q", "1", "-t", &response, "-m", "answer"]);
        assert_eq!(asking.end().success(), "answer\n");
    }
}
