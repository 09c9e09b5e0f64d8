//! Stock rumqttd in a process of its own: the yardstick for processor time. Its own server, its own configuration file's
//! figures, version 3.1.1 over TCP; nothing of it is in our broker's way of serving.

use std::io::Read;

use serde_json::json;

/// Serves on this loopback port until standard input ends.
///
/// # Errors
/// It does not start.
pub fn main(port: u16) -> Result<(), Box<dyn std::error::Error>> {
    // What `rumqttd.toml` of the package says.
    let config = json!({
        "id": 0,
        "router": {
            "id": 0,
            "max_connections": 10_010,
            "max_outgoing_packet_count": 200,
            "max_segment_size": 104_857_600,
            "max_segment_count": 10,
        },
        "v4": {
            "1": {
                "name": "v4-1",
                "listen": format!("127.0.0.1:{port}"),
                "next_connection_delay_ms": 1,
                "connections": {
                    "connection_timeout_ms": 60_000,
                    "max_payload_size": 20_480,
                    "max_inflight_count": 100,
                    "dynamic_filters": true,
                },
            },
        },
    });
    let config: rumqttd::Config = serde_json::from_value(config)?;
    std::thread::spawn(|| {
        let mut byte = [0];
        while std::io::stdin().read(&mut byte).is_ok_and(|count| count > 0) {}
        std::process::exit(0);
    });
    Ok(rumqttd::Broker::new(config).start()?)
}
