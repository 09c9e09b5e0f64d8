//! What to tell people whose text is no policy.

use std::fmt;

use crate::attribute::AttributeError;
use crate::formula::{DEPTH_MAX, LEAVES_MAX};
use crate::policy::{OCCURRENCES_MAX, POLICY_BYTES_MAX};
use crate::word::column;

/// Characters of the policy shown on either side of a mistake.
pub(super) const REPORT_CONTEXT: usize = 48;

/// Why a text is not a policy, and where.
///
/// `Display` is one line; [`report`](Self::report) also shows the place and a hint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} (column {column})")]
pub struct ParseError {
    kind: ParseErrorKind,
    byte: usize,
    column: usize,
    text: Box<str>,
}

/// What is wrong with a policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseErrorKind {
    /// Nothing but whitespace.
    #[error("the policy is empty")]
    Empty,
    /// Longer than [`POLICY_BYTES_MAX`], as written or as printed.
    #[error("the policy is too long: {bytes} bytes, more than {POLICY_BYTES_MAX}")]
    TooLong {
        /// How long it is.
        bytes: usize,
    },
    /// A character that has no meaning outside quotes.
    #[error("unknown character `{}`", visible(*.found))]
    UnknownCharacter {
        /// The character.
        found: char,
    },
    /// An operator of another language.
    #[error("unknown operator `{found}`")]
    UnknownOperator {
        /// The operator.
        found: String,
        /// What to write for it, if there is something.
        instead: Option<&'static str>,
    },
    /// Something in the wrong place.
    #[error("expected {expected}, found {found}")]
    Unexpected {
        /// What may stand here.
        expected: &'static str,
        /// What stands here.
        found: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// The policy ends before a bracket does.
    #[error("expected `)`, found the end of the policy")]
    UnclosedBracket {
        /// The column of the bracket that is open.
        opened: usize,
    },
    /// The policy ends before a quote does.
    #[error("the quote has no end")]
    UnclosedQuote,
    /// A backslash before something else than `"` or `\`.
    #[error("unknown escape in quotes")]
    Escape,
    /// A keyword where a name or a value should be.
    #[error("expected {expected}, found the keyword `{word}`")]
    Keyword {
        /// The keyword as written.
        word: String,
        /// What may stand here.
        expected: &'static str,
    },
    /// `name=` and nothing.
    #[error("expected a value for `{name}`, found {found}")]
    MissingValue {
        /// The name.
        name: String,
        /// What stands here.
        found: String,
    },
    /// `not` or `!`.
    #[error("a policy cannot say `not`")]
    Negation,
    /// `name!=value`.
    #[error("a policy cannot say `!=`")]
    NotEqual {
        /// The name.
        name: String,
        /// The integer, if it is one.
        value: Option<u32>,
    },
    /// `k of` without a number that can be a `k`.
    #[error("expected a number before `of`, found `{found}`")]
    ThresholdNumber {
        /// What stands here.
        found: String,
    },
    /// `0 of` something, or more than there are.
    #[error("`{k} of` a list of {n}")]
    Threshold {
        /// How many must hold.
        k: u32,
        /// How many there are.
        n: usize,
    },
    /// A comparison with something else than an integer.
    #[error("expected an integer to compare `{name}` with, found {found}")]
    NotAnInteger {
        /// The name.
        name: String,
        /// What stands here.
        found: String,
    },
    /// An integer over 4294967295.
    #[error("the integer `{found}` is out of range")]
    OutOfRange {
        /// The integer.
        found: String,
    },
    /// `name<0` or `name>4294967295`.
    #[error("no value satisfies `{comparison}`")]
    NoSuchValue {
        /// The comparison.
        comparison: String,
    },
    /// Brackets or gates nested deeper than [`DEPTH_MAX`].
    #[error("the policy is nested deeper than {DEPTH_MAX}")]
    TooDeep,
    /// More leaves than [`LEAVES_MAX`].
    #[error("the policy has more than {LEAVES_MAX} leaves")]
    TooManyLeaves,
    /// One attribute more than [`OCCURRENCES_MAX`] times, or as many comparisons of one name.
    #[error("`{what}` occurs more than {OCCURRENCES_MAX} times")]
    Repeated {
        /// What occurs too often.
        what: String,
    },
    /// `$n` where it cannot be.
    #[error("the placeholder `{found}` cannot stand here")]
    Placeholder {
        /// The placeholder.
        found: String,
        /// Why not.
        hint: &'static str,
    },
    /// A name or a value that is not one.
    #[error(transparent)]
    Attribute(#[from] AttributeError),
}

impl ParseError {
    /// What is wrong.
    pub fn kind(&self) -> &ParseErrorKind {
        &self.kind
    }

    /// Where, in bytes from 0.
    pub fn byte(&self) -> usize {
        self.byte
    }

    /// Where, in characters from 1.
    pub fn column(&self) -> usize {
        self.column
    }

    /// What to write instead, where there is something to say.
    pub fn hint(&self) -> Option<String> {
        use ParseErrorKind::*;
        let hint = match &self.kind {
            Empty => "name attributes, such as `role=nurse and (ward=3 or ward=4)`",
            UnknownCharacter { found: '\'' | '`' | '“' | '”' | '„' | '‘' | '’' | '«' | '»' } => {
                "quotes are straight and double: `\"like this\"`"
            }
            UnknownCharacter { .. } => "names and values with such characters need double quotes",
            UnknownOperator { instead: Some(instead), .. } => return Some(format!("write `{instead}`")),
            UnknownOperator { .. } => "the operators are `=`, `>=`, `<=`, `>`, `<`",
            Unexpected { hint, .. } | Placeholder { hint, .. } => hint,
            UnclosedBracket { opened } => {
                return Some(format!("close the bracket opened at column {opened}"));
            }
            UnclosedQuote => "end it with `\"`; a quote inside is written `\\\"`",
            Escape => "a backslash is written `\\\\`, a quote `\\\"`",
            Keyword { word, .. } => {
                return Some(format!("something is missing before it, or it needs quotes: `\"{word}\"`"));
            }
            MissingValue { .. } => "an attribute without a value is its name alone, without `=`",
            Negation => {
                "policies are monotone, there is no negation: name what a reader has; an attribute of \
                         that name is written `\"not\"`"
            }
            NotEqual { name, value: Some(0) } => return Some(format!("write `{name}>0`")),
            NotEqual { name, value: Some(u32::MAX) } => return Some(format!("write `{name}<{}`", u32::MAX)),
            NotEqual { name, value: Some(n) } => return Some(format!("write `{name}<{n} or {name}>{n}`")),
            NotEqual { .. } => "policies are monotone, there is no negation: name the values that may open",
            ThresholdNumber { .. } => "write `2 of (a, b, c)`, the number without leading zeros",
            Threshold { k: 0, .. } => "at least one must hold",
            Threshold { n, .. } => return Some(format!("the number is 1 to {n}")),
            NotAnInteger { .. } => "integers are 0 to 4294967295, without sign and leading zeros",
            OutOfRange { .. } => "integers are 0 to 4294967295",
            NoSuchValue { .. } => "integers are 0 to 4294967295",
            TooDeep => "take away brackets that change nothing, or split the policy",
            Repeated { .. } => "draw the common part out: `a and (b or c)` for `a and b or a and c`",
            TooManyLeaves => "a comparison counts as up to 32 leaves; `=` counts as one",
            TooLong { .. } => return None,
            Attribute(error) => return error.hint().map(str::to_owned),
        };
        Some(hint.to_owned())
    }

    /// The message, the place in the policy with a caret under it, and the hint, on lines of their own.
    pub fn report(&self) -> Report<'_> {
        Report(self)
    }

    pub(super) fn new(text: &str, byte: usize, kind: ParseErrorKind) -> Self {
        Self { kind, byte, column: column(text, byte), text: text.into() }
    }
}

/// Prints a [`ParseError`] with its place:
///
/// ```text
/// expected `)`, found the end of the policy (column 23)
///   role=nurse and (ward=3
///                         ^
/// hint: close the bracket opened at column 16
/// ```
#[derive(Debug)]
pub struct Report<'a>(&'a ParseError);

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = self.0;
        let before = error.column - 1;
        let from = before.saturating_sub(REPORT_CONTEXT);
        let shown = |c: char| if c.is_control() { ' ' } else { c };
        let mut rest = error.text.chars().skip(from);
        let window: String = rest.by_ref().take(before - from + REPORT_CONTEXT).map(shown).collect();
        let (lead, tail) = (if from > 0 { "…" } else { "" }, if rest.next().is_some() { "…" } else { "" });
        let indent = lead.chars().count() + before - from;
        write!(f, "{error}\n  {lead}{window}{tail}\n  {:indent$}^", "")?;
        match error.hint() {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

/// A character as itself, or its escape if nobody could see it.
fn visible(c: char) -> String {
    if c == '\'' { c.to_string() } else { c.escape_debug().to_string() }
}
