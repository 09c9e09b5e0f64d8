//! MQTT as stock clients of other people speak it, with an open broker.

mod common;

use std::process::Command;

use common::open::Open;
use common::peers::is_there;
use common::process::run;

#[test]
fn an_open_broker_has_a_filter_to_try_a_refusal_with() {
    if !is_there("mosquitto_sub") {
        return;
    }
    let subscribe = |broker: &Open, version: &str, filter: &str| {
        let mut command = Command::new("mosquitto_sub");
        command.args(broker.options("mqtt")).args(["-V", version, "-t", filter, "-W", "1"]);
        // It ends by itself when nothing is granted, otherwise when its second is over.
        run(&mut command, b"").status.code()
    };
    let (denied, granted) = (Some(0), Some(27));
    let usual = Open::start(&["--plain", "127.0.0.1:0"]);
    let own = Open::start(&["--plain", "127.0.0.1:0", "--refuse-filter", "#", "--refuse-filter", "a/+"]);
    for version in ["mqttv311", "mqttv5"] {
        assert_eq!(subscribe(&usual, version, "test/nosubscribe"), denied);
        assert_eq!(subscribe(&own, version, "#"), denied);
        assert_eq!(subscribe(&own, version, "a/+"), denied);
        // Exactly these, and no others.
        for (broker, filter) in [(&usual, "test/#"), (&usual, "#"), (&own, "test/nosubscribe"), (&own, "a/#")]
        {
            assert_eq!(subscribe(broker, version, filter), granted, "{filter}");
        }
    }
}
