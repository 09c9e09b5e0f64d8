//! Tokens, names, topics and certificates: what strangers type or send first.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smqtt_core::identity::{Identity, check_name, fingerprint, read_certificate, verify_certificate};
use smqtt_core::token::Token;
use smqtt_core::topic::{Filter, check_topic};

fuzz_target!(|data: &[u8]| {
    _ = (
        read_certificate(data),
        fingerprint(data),
        verify_certificate(data, &[data.to_vec()], 1_800_000_000),
    );
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(token) = Token::parse(text) {
        assert_eq!(*token.expose(), text.trim());
    }
    if let Ok(identity) = Identity::from_uri(text) {
        assert_eq!(identity.uri(), text);
    }
    _ = (check_name(text), check_topic(text));
    let Some((filter, topic)) = text.split_once('\n') else { return };
    if let (Ok(filter), Ok(())) = (filter.parse::<Filter>(), check_topic(topic))
        && let Some(captured) = filter.capture(topic)
    {
        assert_eq!(captured.len(), filter.captures());
        let narrowed = filter.narrowed(topic).expect("it matches");
        assert!(narrowed.matches(topic) && filter.covers(&narrowed));
    }
});
