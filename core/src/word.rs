//! Words of attributes and policies: bare where that is unmistakable, quoted otherwise.

use std::fmt;

/// Characters a word may have without quotes. Signs such as `≥` or `“` are left out, so that a slip of the
/// keyboard is an error and not a strange name.
pub(crate) fn is_word_char(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '/' | '@' | '+')
}

/// Words that need quotes to be a name or a value.
pub(crate) fn is_keyword(word: &str) -> bool {
    ["and", "or", "of", "not"].iter().any(|keyword| word.eq_ignore_ascii_case(keyword))
}

/// The run of word characters from byte `at` on, perhaps empty.
pub(crate) fn bare_word(text: &str, at: usize) -> &str {
    let rest = &text[at..];
    &rest[..rest.find(|c| !is_word_char(c)).unwrap_or(rest.len())]
}

/// Why a quoted word could not be read, and at which byte.
pub(crate) enum QuoteError {
    Unclosed,
    Escape(usize),
    Control(usize, char),
}

/// The content of the quoted word that begins at byte `at`, and the byte after its closing quote.
pub(crate) fn quoted_word(text: &str, at: usize) -> Result<(String, usize), QuoteError> {
    let mut word = String::new();
    let mut chars = text[at..].char_indices().map(|(i, c)| (at + i, c)).skip(1);
    while let Some((i, c)) = chars.next() {
        match c {
            '"' => return Ok((word, i + 1)),
            '\\' => match chars.next() {
                Some((_, c @ ('"' | '\\'))) => word.push(c),
                Some(_) => return Err(QuoteError::Escape(i)),
                None => return Err(QuoteError::Unclosed),
            },
            c if c.is_control() => return Err(QuoteError::Control(i, c)),
            c => word.push(c),
        }
    }
    Err(QuoteError::Unclosed)
}

/// Writes a word as `parse` reads it back, quoted only where it must be.
pub(crate) fn write_word(f: &mut fmt::Formatter<'_>, word: &str) -> fmt::Result {
    use fmt::Write;
    if !word.is_empty() && word.chars().all(is_word_char) && !is_keyword(word) {
        return f.write_str(word);
    }
    f.write_char('"')?;
    for c in word.chars() {
        if matches!(c, '"' | '\\') {
            f.write_char('\\')?;
        }
        f.write_char(c)?;
    }
    f.write_char('"')
}

/// The 1-based column, in characters, of a byte.
pub(crate) fn column(text: &str, byte: usize) -> usize {
    text.char_indices().take_while(|(i, _)| *i < byte).count() + 1
}

pub(crate) fn skip_space(text: &str, at: usize) -> usize {
    text.len() - text[at..].trim_start().len()
}
