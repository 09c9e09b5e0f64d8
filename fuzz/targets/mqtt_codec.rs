//! The wire codec: no panic on any bytes, and what decodes encodes to what decodes the same.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use smqtt::mqtt::{Limits, Packet, Version, decode};

fuzz_target!(|data: &[u8]| {
    for version in [Version::V3, Version::V5] {
        let mut buffer = BytesMut::from(data);
        while let Ok(Some(packet)) = decode(&mut buffer, version, Limits { packet_bytes_max: 1 << 20 }) {
            let mut out = BytesMut::new();
            // CONNECT says its version itself.
            let version = match &packet {
                Packet::Connect(connect) => connect.version,
                _ => version,
            };
            packet.encode(version, &mut out).expect("what was read can be written");
            let again = decode(&mut out, version, Limits::default()).expect("it reads what it writes");
            assert_eq!(again.as_ref(), Some(&packet));
            assert!(out.is_empty());
        }
    }
});
