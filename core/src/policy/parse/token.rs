//! From text to words and signs.

use super::{FOUND_CHARS_MAX, ParseError, ParseErrorKind, Parser};
use crate::attribute::AttributeError;
use crate::word::{QuoteError, bare_word, is_word_char, quoted_word, skip_space};

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Operator {
    Equal,
    NotEqual,
    AtLeast,
    AtMost,
    Above,
    Below,
}

pub(super) enum Kind<'a> {
    Word(&'a str),
    Quoted(String),
    Placeholder(&'a str),
    Operator(Operator),
    Keyword(Keyword),
    Open,
    Close,
    Comma,
    End,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Keyword {
    And,
    Or,
    Of,
    Not,
}

pub(super) struct Token<'a> {
    pub(super) kind: Kind<'a>,
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Token<'_> {
    /// A name or a value, without its quotes.
    pub(super) fn word(&self) -> Option<&str> {
        match &self.kind {
            Kind::Word(word) => Some(word),
            Kind::Quoted(word) => Some(word),
            _ => None,
        }
    }
}

impl<'a> Parser<'a> {
    pub(super) fn peek(&self) -> Result<Token<'a>, ParseError> {
        let start = skip_space(self.text, self.at);
        let rest = &self.text[start..];
        let token = |kind, len| Ok(Token { kind, start, end: start + len });
        let unknown = |len: usize, instead| {
            let found = rest[..len].to_owned();
            Err(self.error(start, ParseErrorKind::UnknownOperator { found, instead }))
        };
        let Some(first) = rest.chars().next() else { return token(Kind::End, 0) };
        match first {
            '(' => token(Kind::Open, 1),
            ')' => token(Kind::Close, 1),
            ',' => token(Kind::Comma, 1),
            '"' => {
                let (word, end) = quoted_word(self.text, start).map_err(|error| match error {
                    QuoteError::Unclosed => self.error(start, ParseErrorKind::UnclosedQuote),
                    QuoteError::Escape(byte) => self.error(byte, ParseErrorKind::Escape),
                    QuoteError::Control(byte, c) => {
                        self.error(byte, AttributeError::ControlCharacter(c).into())
                    }
                })?;
                token(Kind::Quoted(word), end - start)
            }
            '$' => {
                let number = bare_word(self.text, start + 1);
                token(Kind::Placeholder(number), 1 + number.len())
            }
            '=' | '<' | '>' | '!' => {
                let len = rest.find(|c| !matches!(c, '=' | '<' | '>' | '!')).unwrap_or(rest.len());
                match &rest[..len] {
                    "=" | "==" => token(Kind::Operator(Operator::Equal), len),
                    "!=" | "<>" => token(Kind::Operator(Operator::NotEqual), len),
                    ">=" => token(Kind::Operator(Operator::AtLeast), len),
                    "<=" => token(Kind::Operator(Operator::AtMost), len),
                    ">" => token(Kind::Operator(Operator::Above), len),
                    "<" => token(Kind::Operator(Operator::Below), len),
                    "!" | "!!" => token(Kind::Keyword(Keyword::Not), len),
                    "=>" => unknown(len, Some(">=")),
                    "=<" => unknown(len, Some("<=")),
                    "===" => unknown(len, Some("=")),
                    other => unknown(other.chars().take(FOUND_CHARS_MAX).count(), None),
                }
            }
            '&' | '∧' => unknown(run(rest, first), Some("and")),
            '|' | '∨' => unknown(run(rest, first), Some("or")),
            '≥' => unknown(first.len_utf8(), Some(">=")),
            '≤' => unknown(first.len_utf8(), Some("<=")),
            '≠' => token(Kind::Operator(Operator::NotEqual), first.len_utf8()),
            '¬' => token(Kind::Keyword(Keyword::Not), first.len_utf8()),
            c if is_word_char(c) => {
                let word = bare_word(self.text, start);
                let kind = match word.to_ascii_lowercase().as_str() {
                    "and" => Kind::Keyword(Keyword::And),
                    "or" => Kind::Keyword(Keyword::Or),
                    "of" => Kind::Keyword(Keyword::Of),
                    "not" => Kind::Keyword(Keyword::Not),
                    _ => Kind::Word(word),
                };
                token(kind, word.len())
            }
            found => Err(self.error(start, ParseErrorKind::UnknownCharacter { found })),
        }
    }
}

/// The length of the first character, or of two of it.
fn run(rest: &str, first: char) -> usize {
    rest.chars().take(2).take_while(|c| *c == first).map(char::len_utf8).sum()
}
