//! The bridge between a broker of ours and mosquitto, both ways, with whatever can be lost in between.

mod common;

use std::collections::BTreeMap;
use std::process::Command;

use common::peers::{Mosquitto, READY, Watcher, is_there};
use common::process::{Running, is_alive, run};
use common::site::{Device, Site, Up, address};
use common::{DEADLINE, until};

const TOPIC: &str = "ward/3/temperature";

/// A site, a mosquitto, and who may bring messages from one to the other.
struct World {
    site: Site,
    far: Mosquitto,
    sensor: Device,
    nurse: Device,
    bridge: Device,
}

impl World {
    /// `None` where mosquitto is not installed.
    fn start() -> Option<Self> {
        Self::with(Mosquitto::start()?)
    }

    /// A mosquitto that keeps what it has to.
    fn durable() -> Option<Self> {
        Self::with(Mosquitto::with(|dir| {
            let dir = dir.display();
            format!(
                "allow_anonymous true\npersistence true\npersistence_location {dir}/\nmax_queued_messages 0\n"
            )
        })?)
    }

    fn with(far: Mosquitto) -> Option<Self> {
        if !is_there("mosquitto_sub") || !is_there("mosquitto_pub") {
            return None;
        }
        let site = Site::start();
        let sensor = site.enrol("sensor-1", &["role=sensor"]);
        let nurse = site.enrol("nurse-1", &["role=nurse", "ward=3"]);
        let bridge = enrol_bridge(&site, "north");
        site.rule_set(
            "ward/+/temperature",
            &["--policy", "role=nurse and ward=$1", "--publishers", "role=sensor"],
        );
        let world = Self { site, far, sensor, nurse, bridge };
        for connect in [world.near(), world.far.options()] {
            mosquitto_pub(&connect, READY, "on", &["-r"]);
        }
        Some(world)
    }

    /// How stock clients reach our broker.
    fn near(&self) -> Vec<String> {
        self.site.plain()
    }

    /// Starts the bridge, and waits until it has subscribed to everything.
    fn bridge(&self, arguments: &[&str]) -> Running {
        self.bridge_as(&self.bridge, arguments)
    }

    fn bridge_as(&self, bridge: &Device, arguments: &[&str]) -> Running {
        let running = self.start_bridge(bridge, &self.far.url(), arguments);
        for (argument, side) in [("--out", "local"), ("--in", "remote")] {
            let count = arguments.iter().filter(|given| **given == argument).count();
            running.err.wait(&format!("{count} subscriptions: {side}"), DEADLINE, |log| {
                let subscribed = |line: &&str| line.contains("subscribed side=") && line.contains(side);
                (log.lines().filter(subscribed).count() >= count).then_some(())
            });
        }
        running
    }

    fn start_bridge(&self, bridge: &Device, remote: &str, arguments: &[&str]) -> Running {
        let mut command = self.site.command();
        command.args(["bridge", "--remote", remote]).args(arguments).env("SMQTT_DIR", &bridge.dir);
        Running::spawn(&mut command)
    }

    /// Publishes sealed and signed behind mosquitto.
    fn publish_there(&self, topic: &str, message: &str, arguments: &[&str]) {
        let far = self.far.url();
        let arguments = [&["--broker", &far, "--sign"], arguments].concat();
        self.site.publish(&self.sensor, topic, message, &arguments).success();
    }
}

fn enrol_bridge(site: &Site, name: &str) -> Device {
    let device = site.device(name);
    let printed = site.run(&["token", "new", name, "zone=north", "--bridge"]).success();
    site.enrol_with(&device, printed.lines().last().unwrap()).success();
    device
}

fn mosquitto_pub(connect: &[String], topic: &str, message: &str, arguments: &[&str]) {
    let mut command = Command::new("mosquitto_pub");
    command.args(connect).args(["-V", "5", "-q", "1", "-t", topic, "-m", message]).args(arguments);
    run(&mut command, b"").success();
}

/// What is retained on a topic, with the flag.
fn retained(connect: &[String], topic: &str) -> String {
    let mut command = Command::new("mosquitto_sub");
    run(command.args(connect).args(["-V", "5", "-t", topic, "-C", "1", "-F", "%r %p"]), b"").success()
}

#[test]
fn sealed_messages_cross_both_ways_untouched() {
    let Some(world) = World::start() else { return };
    let bridge = world.bridge(&["--out", "ward/#", "--in", "ward/#"]);
    let near = Watcher::mosquitto(&world.near(), "5", "ward/#");
    let far = Watcher::mosquitto(&world.far.options(), "5", "ward/#");
    let mut readers = Vec::new();
    for broker in [world.site.up.broker.clone(), world.far.url()] {
        // Each with windows of its own: both get everything.
        let name = format!("nurse-{}", readers.len() + 2);
        let nurse = world.site.enrol(&name, &["role=nurse", "ward=3"]);
        readers.push(world.site.subscribe(&nurse, "ward/+/temperature", &["--broker", &broker]));
    }

    world.site.publish(&world.sensor, TOPIC, "38.5", &[]).success();
    readers.iter().for_each(|reader| drop(reader.out.line(&format!("{TOPIC} sensor-1 38.5"))));
    world.publish_there(TOPIC, "39.5", &[]);
    readers.iter().for_each(|reader| drop(reader.out.line(&format!("{TOPIC} sensor-1 39.5"))));

    let (here, there) = (near.messages(2), far.messages(2));
    assert_eq!(here, there, "the same bytes on both sides");
    assert!(here.iter().all(|(topic, payload)| topic == TOPIC && payload.starts_with(b"\xdaSMQT\x82")));
    // And nothing came back: whatever follows on the same way comes after it.
    world.publish_there(TOPIC, "last", &[]);
    readers.iter().for_each(|reader| drop(reader.out.line("last")));
    assert_eq!(near.messages(3).len(), 3);
    assert_eq!(far.running.out.lines().len(), 4, "three and the one that says that it is ready");
    assert!(!bridge.err.text().contains("dropped"), "{}", bridge.err.text());
}

#[test]
fn retained_messages_arrive_retained_and_properties_with_them() {
    let Some(world) = World::start() else { return };
    mosquitto_pub(&world.near(), "out/before", "kept before", &["-r"]);
    mosquitto_pub(&world.far.options(), "in/before", "kept before", &["-r"]);
    let _bridge = world.bridge(&["--out", "out/#", "--in", "in/#"]);
    let far = Watcher::mosquitto(&world.far.options(), "5", "out/#");
    let near = Watcher::mosquitto(&world.near(), "5", "in/#");
    mosquitto_pub(&world.near(), "out/live", "kept live", &["-r"]);
    mosquitto_pub(&world.far.options(), "in/live", "kept live", &["-r"]);
    far.messages(2);
    near.messages(2);
    for (connect, topic) in [(world.far.options(), "out"), (world.near(), "in")] {
        assert_eq!(retained(&connect, &format!("{topic}/before")), "1 kept before\n");
        assert_eq!(retained(&connect, &format!("{topic}/live")), "1 kept live\n");
    }
    // What is not retained does not become so.
    let mut command = Command::new("mosquitto_sub");
    command.args(world.far.options()).args(["-V", "5", "-t", "out/#", "-R", "-C", "1", "-F", "%r %p %C %P"]);
    let watching = Running::spawn(&mut command);
    until("the message with its properties", DEADLINE, || {
        let properties =
            ["-D", "publish", "content-type", "text/x", "-D", "publish", "user-property", "who", "me"];
        mosquitto_pub(&world.near(), "out/once", "once", &properties);
        watching.out.text().contains("once").then_some(())
    });
    let line = watching.out.line("once");
    assert!(
        line.starts_with("0 once text/x ") && line.contains("who") && line.contains("smqtt-via"),
        "{line}"
    );
}

/// Numbers of a direction as a watcher saw them.
fn numbers(watcher: &Running) -> Vec<u32> {
    watcher.out.lines().iter().filter_map(|line| line.strip_prefix("n ")?.parse().ok()).collect()
}

/// A subscriber that misses nothing.
fn collector(connect: &[String], topic: &str) -> Running {
    let mut command = Command::new("mosquitto_sub");
    command.args(connect).args(["-V", "5", "-q", "1", "-t", topic, "-t", READY, "-F", "n %p"]);
    let running = Running::spawn(&mut command);
    running.out.line("n on");
    running
}

/// Numbers in, one a line.
fn feeder(connect: &[String], topic: &str) -> Running {
    let mut command = Command::new("mosquitto_pub");
    command.args(connect).args(["-V", "5", "-q", "1", "-t", topic, "-l"]);
    Running::spawn(&mut command)
}

/// All numbers are there, and in order, but for what came again.
#[track_caller]
fn complete(what: &str, seen: &[u32], count: u32) {
    let mut first = Vec::new();
    let mut times = BTreeMap::new();
    for number in seen {
        let times: &mut u32 = times.entry(*number).or_default();
        if *times == 0 {
            first.push(*number);
        }
        *times += 1;
    }
    let missing: Vec<u32> = (0..count).filter(|number| !times.contains_key(number)).collect();
    assert!(missing.is_empty(), "{what}: {missing:?} are missing of {count}");
    assert!(first.is_sorted(), "{what}: {first:?}");
}

#[test]
fn a_killed_bridge_loses_nothing_of_qos_1() {
    let Some(world) = World::start() else { return };
    let arguments = ["--out", "out/#", "--in", "in/#"];
    let mut bridge = world.bridge(&arguments);
    let (far, near) = (collector(&world.far.options(), "out/n"), collector(&world.near(), "in/n"));
    let mut feeders = [feeder(&world.near(), "out/n"), feeder(&world.far.options(), "in/n")];
    let (rounds, each) = (6, 400);
    for round in 0..rounds {
        let lines: String = (round * each..(round + 1) * each).map(|number| format!("{number}\n")).collect();
        feeders.iter_mut().for_each(|feeder| feeder.write(lines.as_bytes()));
        // In the middle of it.
        until("some of it on both sides", DEADLINE, || {
            let some = (round * each + 20) as usize;
            (numbers(&far).len() >= some && numbers(&near).len() >= some).then_some(())
        });
        bridge.kill();
        bridge = world.bridge(&arguments);
    }
    for (what, watcher) in [("out", &far), ("in", &near)] {
        watcher.out.wait("the last number", DEADLINE, |text| {
            text.contains(&format!("n {}\n", rounds * each - 1)).then_some(())
        });
        complete(what, &numbers(watcher), rounds * each);
    }
    assert!(!bridge.err.text().contains("dropped"), "{}", bridge.err.text());
}

/// Kills authority and broker, and starts them where they were.
fn restart_site(world: &mut World, meanwhile: impl FnOnce(&mut World)) {
    let site = &mut world.site;
    let urls = [&site.up.authority, &site.up.broker, site.up.plain.as_ref().unwrap()];
    let [authority, broker, plain] = urls.map(|url| address(url).to_owned());
    let pid = site.up.broker_pid();
    site.up.running.kill();
    until("the end of the broker", DEADLINE, || (!is_alive(pid)).then_some(()));
    meanwhile(world);
    let arguments = ["--authority", &authority, "--broker", &broker, "--plain", &plain];
    world.site.up = Up::start(world.site.home.path(), &world.site.data(), &arguments);
}

#[test]
fn what_is_published_while_the_other_broker_is_away_arrives_later() {
    let Some(mut world) = World::durable() else { return };
    let bridge = world.bridge(&["--out", "out/#", "--in", "in/#"]);
    let times = |what: &str| bridge.err.text().matches(what).count();

    world.far.stop();
    for number in 0..5 {
        mosquitto_pub(&world.near(), "out/n", &number.to_string(), &[]);
    }
    bridge.err.line("broker away: trying again side=\"remote\"");
    world.far.start_again();
    let far = collector(&world.far.options(), "out/n");
    until("the bridge at mosquitto again", DEADLINE, || {
        (times("connected side=\"remote\"") >= 2).then_some(())
    });
    // Those five may have come before the collector did; these may not.
    for number in 5..10 {
        mosquitto_pub(&world.near(), "out/n", &number.to_string(), &[]);
    }
    far.out.line("n 9");
    assert!(numbers(&far).ends_with(&[5, 6, 7, 8, 9]));

    let near = world.far.options();
    restart_site(&mut world, |_| {
        for number in 0..5 {
            mosquitto_pub(&near, "in/n", &number.to_string(), &["-r"]);
        }
    });
    until("the bridge at the site again", DEADLINE, || {
        (times("connected side=\"local\"") >= 2).then_some(())
    });
    until("the last one, retained here", DEADLINE, || {
        (retained(&world.near(), "in/n") == "1 4\n").then_some(())
    });
}

#[test]
fn what_was_queued_for_a_bridge_that_is_away_crosses_when_it_comes_back() {
    let Some(mut world) = World::durable() else { return };
    let arguments = ["--out", "out/#", "--in", "in/#"];
    let mut bridge = world.bridge(&arguments);
    bridge.kill();
    for number in 0..20 {
        mosquitto_pub(&world.near(), "out/n", &number.to_string(), &[]);
        mosquitto_pub(&world.far.options(), "in/n", &number.to_string(), &[]);
    }
    // Both brokers forget nothing of it.
    world.far.stop();
    world.far.start_again();
    restart_site(&mut world, |_| ());
    let (far, near) = (collector(&world.far.options(), "out/n"), collector(&world.near(), "in/n"));
    let _bridge = world.bridge(&arguments);
    for (what, watcher) in [("out", &far), ("in", &near)] {
        watcher.out.line("n 19");
        assert_eq!(numbers(watcher), (0..20).collect::<Vec<_>>(), "{what}");
    }
}

#[test]
fn two_bridges_that_carry_everything_both_ways_do_not_feed_each_other() {
    let Some(world) = World::start() else { return };
    let everything = ["--out", "#", "--in", "#"];
    let second = enrol_bridge(&world.site, "south");
    let bridges = [world.bridge(&everything), world.bridge_as(&second, &everything)];
    let (far, near) = (collector(&world.far.options(), "n/#"), collector(&world.near(), "n/#"));
    for (connect, topic) in [(world.near(), "n/near"), (world.far.options(), "n/far")] {
        (0..10).for_each(|number| mosquitto_pub(&connect, topic, &number.to_string(), &[]));
    }
    // What would come back comes before what is published only now, on the same topics.
    until("the ends", DEADLINE, || {
        let done = |watcher: &Running| watcher.out.text().matches("n end").count() >= 3;
        if !done(&far) && !done(&near) && numbers(&far).len() >= 30 && numbers(&near).len() >= 30 {
            mosquitto_pub(&world.near(), "n/near", "end", &[]);
            mosquitto_pub(&world.far.options(), "n/far", "end", &[]);
        }
        (done(&far) && done(&near)).then_some(())
    });
    for watcher in [&far, &near] {
        // Its own ten once, and the other side's ten from each bridge.
        assert_eq!(numbers(watcher).len(), 30, "{:?}", watcher.out.lines());
    }
    assert!(bridges.iter().all(|bridge| !bridge.err.text().contains("dropped")));
}

#[test]
fn what_our_broker_refuses_is_dropped_with_the_reason_and_the_rest_goes_on() {
    let Some(world) = World::start() else { return };
    world.site.rule_set("bed/+", &["--policy", "role=nurse"]);
    let bridge = world.bridge(&["--in", "#"]);
    let reader = world.site.subscribe(&world.nurse, "ward/+/temperature", &[]);
    let near = ["ward/#", "bed/#", "notes"].map(|filter| Watcher::mosquitto(&world.near(), "5", filter));
    for qos in ["0", "1", "2"] {
        let mut command = Command::new("mosquitto_pub");
        let plain = ["-V", "5", "-q", qos, "-t", "bed/1", "-m", "in the clear"];
        run(command.args(world.far.options()).args(plain), b"").success();
    }
    bridge.err.line("refused by the other broker: plaintext: the rule `bed/+` requires");
    world.publish_there(TOPIC, "40.5", &[]);
    reader.out.line(&format!("{TOPIC} sensor-1 40.5"));
    mosquitto_pub(&world.far.options(), "notes", "plain", &[]);
    assert_eq!(near[2].messages(1), [("notes".to_owned(), b"plain".to_vec())]);
    assert_eq!(near[0].messages(1)[0].0, TOPIC);
    assert_eq!(near[1].running.out.lines().len(), 1, "that it is ready");
    assert!(!bridge.err.text().contains("broker away"), "{}", bridge.err.text());
}

#[test]
fn plain_messages_can_be_renamed_and_sealed_ones_cannot() {
    let Some(world) = World::start() else { return };
    let config = world.site.home.path().join("bridge.toml");
    let text = format!(
        "dir = \"devices/north\"\nremote = \"{}\"\n[[in]]\nfilter = \"#\"\nprefix = \"mosquitto/\"\n[[out]]\nfilter = \"notes/#\"\nqos = 0\n",
        world.far.url()
    );
    std::fs::write(&config, text).unwrap();
    let mut command = world.site.command();
    let bridge = Running::spawn(command.args(["bridge", "--config"]).arg(&config));
    bridge.err.line("subscribed side=\"remote\"");
    bridge.err.line("subscribed side=\"local\"");
    let near = Watcher::mosquitto(&world.near(), "5", "mosquitto/#");
    world.publish_there(TOPIC, "38.5", &[]);
    bridge.err.line(&format!("sealed for `{TOPIC}` and opens under no other topic"));
    mosquitto_pub(&world.far.options(), "notes/1", "plain", &[]);
    assert_eq!(near.messages(2)[1], ("mosquitto/notes/1".into(), b"plain".to_vec()));
}

#[test]
fn a_bridge_says_what_is_wrong_before_it_begins() {
    let site = Site::start();
    let bridge = enrol_bridge(&site, "north");
    let device = site.enrol("sensor-1", &[]);
    let here = "mqtt://127.0.0.1:1";
    let fails = |who: &Device, arguments: &[&str], parts: &[&str]| {
        site.run_as(who, &[&["bridge"], arguments].concat(), b"").failure(parts);
    };
    fails(&device, &["--remote", here, "--in", "#"], &["not a bridge's keyring", "--bridge"]);
    fails(&bridge, &["--in", "#"], &["--remote mqtt://host:port"]);
    fails(&bridge, &["--remote", here], &["nothing to carry", "--out FILTER"]);
    fails(&bridge, &["--remote", here, "--in", "a/#/b"], &["a/#/b"]);
    fails(&bridge, &["--remote", here, "--in", "a/#", "--in", "a/b"], &["`a/b` is within `a/#`"]);
    fails(&bridge, &["--remote", here, "--in", "#", "--in-prefix", "x"], &["ends with a slash"]);
    fails(&bridge, &["--remote", "http://x", "--in", "#"], &["is not the address of a broker"]);
    // And it is for nothing else.
    site.publish(&bridge, "notes", "x", &["--plain"]).failure(&["is a bridge's keyring"]);
    let wrong = site.home.path().join("wrong.toml");
    std::fs::write(&wrong, "remote_pasword = \"x\"\n").unwrap();
    fails(&bridge, &["--config", wrong.to_str().unwrap()], &["wrong.toml", "remote_pasword"]);
}

#[test]
fn a_remote_with_tls_and_a_password_gets_both() {
    if !is_there("mosquitto_passwd") || !is_there("openssl") {
        return;
    }
    let Some(far) = Mosquitto::with(|dir| {
        let file = |name: &str| dir.join(name).display().to_string();
        let (key, certificate) = (file("key.pem"), file("certificate.pem"));
        let make = [
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ];
        let name = [
            "-subj",
            "/CN=far",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-keyout",
            &key,
            "-out",
            &certificate,
        ];
        let ca = ["-addext", "basicConstraints=critical,CA:false"];
        run(Command::new("openssl").args(make).args(name).args(ca), b"").success();
        run(
            Command::new("mosquitto_passwd").args(["-b", "-c", &file("passwords"), "site", "open sesame"]),
            b"",
        );
        format!(
            "allow_anonymous false\npassword_file {}\ncertfile {certificate}\nkeyfile {key}\n",
            file("passwords")
        )
    }) else {
        return;
    };
    let ca = far.file("certificate.pem");
    let url = format!("mqtts://127.0.0.1:{}", far.port);
    let mut options = far.options();
    options.extend([
        "--cafile".to_owned(),
        ca.clone(),
        "-u".into(),
        "site".into(),
        "-P".into(),
        "open sesame".into(),
    ]);
    let site = Site::start();
    let bridge = enrol_bridge(&site, "north");
    let password = site.home.path().join("password");
    std::fs::write(&password, "open sesame\n").unwrap();
    let start = |password: &[&str]| {
        let mut command = site.command();
        command.args([
            "bridge",
            "--remote",
            &url,
            "--remote-ca",
            &ca,
            "--remote-user",
            "site",
            "--out",
            "n/#",
        ]);
        Running::spawn(
            command.args(password).env("SMQTT_DIR", &bridge.dir).env("SMQTT_REMOTE_PASSWORD", "wrong"),
        )
    };
    let refused = start(&[]);
    let line = refused.err.line("broker away: trying again side=\"remote\"");
    assert!(line.contains("refused the connection"), "{line}");
    drop(refused);
    let running = start(&["--remote-password-file", password.to_str().unwrap()]);
    running.err.line("connected side=\"remote\"");
    running.err.line("subscribed side=\"local\"");
    let mut command = Command::new("mosquitto_sub");
    let watching = Running::spawn(command.args(&options).args(["-V", "5", "-t", "n/#", "-F", "n %p"]));
    until("the message", DEADLINE, || {
        mosquitto_pub(&site.plain(), "n/1", "7", &[]);
        (!numbers(&watching).is_empty()).then_some(())
    });
    assert!(!running.err.text().contains("sesame") && !running.out.text().contains("sesame"));
}
