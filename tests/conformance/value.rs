//! Values of fields: as they are on the wire, as scripts write them, and what scripts expect of them.

use std::fmt;

use super::wire::Type;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    Number(u32),
    Bytes(Vec<u8>),
    Pair(Vec<u8>, Vec<u8>),
}

impl Value {
    pub fn number(&self) -> Option<u32> {
        if let Self::Number(number) = self { Some(*number) } else { None }
    }

    pub fn bytes(&self) -> Option<&[u8]> {
        if let Self::Bytes(bytes) = self { Some(bytes) } else { None }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Bytes(bytes) => write!(f, "{}", quoted(bytes)),
            Self::Pair(name, value) => write!(f, "{}:{}", quoted(name), quoted(value)),
        }
    }
}

/// As a script could write it, cut where nobody would read on.
pub fn quoted(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(120)];
    let text: String = match std::str::from_utf8(shown) {
        Ok(text) => text.chars().flat_map(char::escape_debug).collect(),
        Err(_) => shown.iter().flat_map(|byte| std::ascii::escape_default(*byte)).map(char::from).collect(),
    };
    if shown.len() < bytes.len() {
        format!("\"{text}\"… ({} bytes)", bytes.len())
    } else {
        format!("\"{text}\"")
    }
}

/// What a script expects of a field.
#[derive(Debug, Clone)]
pub enum Pattern {
    /// One of these.
    OneOf(Vec<Value>),
    /// A number in between, ends included.
    Range(u32, u32),
    /// It is there.
    Any,
    /// It is not there.
    Absent,
    /// What the variable holds; or it holds this from now on.
    Variable(String),
}

/// The names that a test gives to topics and clients, so that tests which run at a time do not meet; and what it remembers.
pub struct Names {
    /// Of topics; ends in `/`.
    pub topics: String,
    /// Of client identifiers; ten characters.
    pub clients: String,
    pub variables: std::collections::HashMap<String, Value>,
}

impl Names {
    /// `$` topics and what begins with `^` get no prefix; `{run}` in them is a name that no other test has.
    pub fn topic(&self, topic: &[u8]) -> Vec<u8> {
        let topic = &*match std::str::from_utf8(topic) {
            Ok(text) if text.contains("{run}") => text.replace("{run}", &self.clients).into_bytes(),
            _ => topic.to_vec(),
        };
        let join = |before: &[u8], rest: &[u8]| [before, self.topics.as_bytes(), rest].concat();
        if let Some(rest) = topic.strip_prefix(b"^") {
            return rest.to_vec();
        }
        if let Some(rest) = topic.strip_prefix(b"$share/") {
            // Without a filter there is nothing to put it before.
            return match rest.iter().position(|byte| *byte == b'/') {
                Some(at) if at + 1 < rest.len() => join(&topic[..7 + at + 1], &rest[at + 1..]),
                _ => topic.to_vec(),
            };
        }
        if topic.is_empty() || topic.starts_with(b"$") { topic.to_vec() } else { join(b"", topic) }
    }

    pub fn client_id(&self, id: &[u8]) -> Vec<u8> {
        match id.strip_prefix(b"^") {
            Some(rest) => rest.to_vec(),
            None if id.is_empty() => Vec::new(),
            None => [self.clients.as_bytes(), id].concat(),
        }
    }

    /// The value of `$name`, `$name+1`, `$name-1`.
    fn variable(&self, text: &str) -> Result<Value, String> {
        let (name, add) = match text.find(['+', '-']) {
            Some(at) => (&text[1..at], text[at..].parse::<i64>().map_err(|_| format!("no number: {text}"))?),
            None => (&text[1..], 0),
        };
        let value = self.variables.get(name).ok_or(format!("${name} holds nothing yet"))?;
        match value {
            Value::Number(number) => {
                let sum = i64::from(*number) + add;
                Ok(Value::Number(u32::try_from(sum).map_err(|_| format!("{text} is {sum}"))?))
            }
            other => Ok(other.clone()),
        }
    }

    /// A value that a script writes.
    pub fn value(&self, text: &str, holds: Type) -> Result<Value, String> {
        if is_variable(text) {
            return self.variable(text);
        }
        match holds {
            Type::U8 | Type::U16 | Type::U32 | Type::Varint => number(text).map(Value::Number),
            Type::Bytes => bytes(text).map(Value::Bytes),
            Type::Topic => Ok(Value::Bytes(self.topic(&bytes(text)?))),
            Type::ClientId => Ok(Value::Bytes(self.client_id(&bytes(text)?))),
            Type::Pair => {
                let at = colon(text).ok_or(format!("no name:value: {text}"))?;
                Ok(Value::Pair(bytes(&text[..at])?, bytes(&text[at + 1..])?))
            }
            Type::Codes => {
                let codes = text.split(',').map(|code| number(code).map(|code| code as u8));
                codes.collect::<Result<_, _>>().map(Value::Bytes)
            }
        }
    }

    pub fn pattern(&self, text: &str, holds: Type) -> Result<Pattern, String> {
        match text {
            "*" => return Ok(Pattern::Any),
            "-" => return Ok(Pattern::Absent),
            _ if is_variable(text) && !text.contains(['+', '-']) => {
                return Ok(Pattern::Variable(text[1..].into()));
            }
            _ => {}
        }
        if matches!(holds, Type::U8 | Type::U16 | Type::U32 | Type::Varint) {
            if let Some((low, high)) = text.split_once("..") {
                let end = |text: &str| self.value(text, holds).map(|value| value.number().unwrap_or(0));
                return Ok(Pattern::Range(end(low)?, end(high)?));
            }
            let all = text.split('|').map(|text| self.value(text, holds));
            return all.collect::<Result<_, _>>().map(Pattern::OneOf);
        }
        if holds == Type::Codes {
            let all = text.split('|').map(|text| self.value(text, holds));
            return all.collect::<Result<_, _>>().map(Pattern::OneOf);
        }
        Ok(Pattern::OneOf(vec![self.value(text, holds)?]))
    }
}

/// `$` and a word, perhaps with something added: `$SYS/x` is none.
fn is_variable(text: &str) -> bool {
    let Some(rest) = text.strip_prefix('$') else { return false };
    let name = rest.split(['+', '-']).next().unwrap_or_default();
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

pub fn number(text: &str) -> Result<u32, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("no number: {text}"))
}

/// The colon between two values, of which each may be quoted.
fn colon(text: &str) -> Option<usize> {
    let mut quoted = false;
    text.bytes().enumerate().find_map(|(at, byte)| {
        quoted ^= byte == b'"' && (at == 0 || text.as_bytes()[at - 1] != b'\\');
        (byte == b':' && !quoted).then_some(at)
    })
}

/// Bare text, or quoted text with `\n`, `\"`, `\\`, `\x00` and perhaps `*100` behind, and several of them one after the other.
pub fn bytes(text: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('"') {
        out.extend(&rest.as_bytes()[..at]);
        let (quoted, behind) = quoted_text(&rest[at + 1..])?;
        let (count, behind) = count(behind)?;
        (0..count).for_each(|_| out.extend(&quoted));
        rest = behind;
    }
    out.extend(rest.as_bytes());
    Ok(out)
}

/// What is between two quotes, the first of which is gone, and what follows.
pub fn quoted_text(text: &str) -> Result<(Vec<u8>, &str), String> {
    let mut out = Vec::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Ok((out, &text[at + 1..])),
            '\\' => match chars.next() {
                Some((_, 'n')) => out.push(b'\n'),
                Some((at, 'x')) => {
                    let digits = text.get(at + 1..at + 3).ok_or("\\x needs two digits")?;
                    out.push(u8::from_str_radix(digits, 16).map_err(|_| format!("no byte: \\x{digits}"))?);
                    chars.nth(1);
                }
                Some((_, plain)) => out.extend(plain.to_string().as_bytes()),
                None => break,
            },
            plain => out.extend(plain.to_string().as_bytes()),
        }
    }
    Err(format!("a quote is not closed: {text}"))
}

/// `*100` and what follows.
pub fn count(text: &str) -> Result<(usize, &str), String> {
    let Some(rest) = text.strip_prefix('*') else { return Ok((1, text)) };
    let end = rest.find(|char: char| !char.is_ascii_digit()).unwrap_or(rest.len());
    let count = rest[..end].parse().map_err(|_| format!("no count: {text}"))?;
    Ok((count, &rest[end..]))
}

/// The words of a line; blanks between quotes do not part them.
pub fn words(line: &str) -> Vec<&str> {
    let (mut words, mut begin, mut quoted, mut escaped) = (Vec::new(), None, false, false);
    for (at, char) in line.char_indices() {
        if char == ' ' && !quoted {
            words.extend(begin.take().map(|begin: usize| &line[begin..at]));
            continue;
        }
        begin.get_or_insert(at);
        quoted ^= char == '"' && !escaped;
        escaped = char == '\\' && !escaped;
    }
    words.extend(begin.map(|begin| &line[begin..]));
    words
}
