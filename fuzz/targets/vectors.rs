//! Fields of the frozen vectors.

use serde_json::Value;

pub fn envelope() -> Value {
    serde_json::from_str(include_str!("../../core/tests/vectors/envelope.json"))
        .expect("the vectors are JSON")
}

pub fn bytes(value: &Value) -> Vec<u8> {
    let text = value.as_str().expect("hexadecimal digits").as_bytes();
    let digit = |d: u8| (d as char).to_digit(16).expect("hexadecimal digits") as u8;
    text.chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}
