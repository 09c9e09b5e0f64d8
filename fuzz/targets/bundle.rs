//! Bundles: nothing but the frozen one verifies.
#![no_main]

mod vectors;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use smqtt_core::bundle::Bundle;

static GENUINE: LazyLock<(Vec<u8>, [Vec<u8>; 1])> = LazyLock::new(|| {
    let file = vectors::envelope();
    (vectors::bytes(&file["bundle"]["bytes"]), [vectors::bytes(&file["root"])])
});

fuzz_target!(|data: &[u8]| {
    let (genuine, roots) = &*GENUINE;
    if Bundle::verify(data, roots).is_ok() {
        assert_eq!(data, genuine);
    }
});
