//! Bytes as scripts write them: `10 [ "MQTT" 04 02 00 00 c"a" ]`.

use super::value::{Names, count, quoted_text};
use super::wire::{Version, put_string, put_varint};

/// The bytes of hexadecimal digits, of `[ ]` behind their length as a variable byte integer, `{ }` in version 5.0 only, `( )` in 3.1.1
/// only, `"text"` behind its length in two bytes, `t"topic"` and `c"client id"` likewise with the test's prefix, and `'text'` as it
/// is; what is not in brackets with `*100` behind as often as that.
pub fn bytes(text: &str, names: &Names, version: Version) -> Result<Vec<u8>, String> {
    let (bytes, rest) = sequence(text, names, version)?;
    if rest.is_empty() { Ok(bytes) } else { Err(format!("one bracket too many: {rest}")) }
}

/// Up to the bracket that closes, or the end.
fn sequence<'a>(text: &'a str, names: &Names, version: Version) -> Result<(Vec<u8>, &'a str), String> {
    let mut out = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let quoted = |skip: usize| -> Result<(Vec<u8>, usize, &'a str), String> {
            let (text, behind) = quoted_text(&rest[skip..])?;
            let (times, behind) = count(behind)?;
            Ok((text, times, behind))
        };
        rest = match first {
            ']' | '}' | ')' => return Ok((out, rest)),
            '[' | '{' | '(' => {
                let (inner, behind) = sequence(&rest[1..], names, version)?;
                let (closing, counts) = match first {
                    '[' => (']', true),
                    '{' => ('}', version == Version::V5),
                    _ => (')', version == Version::V3),
                };
                let behind = behind.strip_prefix(closing).ok_or(format!("{closing} is missing"))?;
                if first == '[' {
                    put_varint(&mut out, inner.len() as u32);
                }
                if counts {
                    out.extend(inner);
                }
                behind
            }
            '"' => {
                let (text, times, behind) = quoted(1)?;
                put_string(&mut out, &text.repeat(times));
                behind
            }
            '\'' => {
                let end = rest[1..].find('\'').ok_or("a quote is not closed")?;
                let (times, behind) = count(&rest[end + 2..])?;
                out.extend(rest.as_bytes()[1..=end].repeat(times));
                behind
            }
            't' | 'c' if rest[1..].starts_with('"') => {
                let (text, times, behind) = quoted(2)?;
                let text = text.repeat(times);
                put_string(&mut out, &if first == 't' { names.topic(&text) } else { names.client_id(&text) });
                behind
            }
            _ => {
                let digits = rest.get(..2).ok_or(format!("no byte: {rest}"))?;
                let byte = u8::from_str_radix(digits, 16).map_err(|_| format!("no byte: {digits}"))?;
                let (times, behind) = count(&rest[2..])?;
                out.extend([byte].repeat(times));
                behind
            }
        }
        .trim_start();
    }
    Ok((out, rest))
}
