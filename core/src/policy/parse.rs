//! From text to a formula, and what to tell people whose text is not one.

use std::fmt;

use super::{BoundedLeaf, Leaf, OCCURRENCES_MAX, PLACEHOLDER_MAX, POLICY_BYTES_MAX, TemplateLeaf, repeated};
use crate::attribute::{ATTRIBUTES_MAX, Attribute, AttributeError, check_name, decimal_u32};
use crate::formula::{DEPTH_MAX, Formula, FormulaError, LEAVES_MAX};
use crate::word::{QuoteError, bare_word, column, is_word_char, quoted_word, skip_space};

/// Characters of the policy shown on either side of a mistake.
const REPORT_CONTEXT: usize = 48;
/// Characters of a word repeated in a message.
const FOUND_CHARS_MAX: usize = 32;

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

    fn new(text: &str, byte: usize, kind: ParseErrorKind) -> Self {
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

pub(super) fn policy(text: &str) -> Result<Formula<Leaf>, ParseError> {
    parse(text)
}

pub(super) fn template(text: &str) -> Result<Formula<TemplateLeaf>, ParseError> {
    parse(text)
}

/// Attributes with places for topic levels, separated by `,`.
pub(super) fn labels(text: &str) -> Result<Vec<TemplateLeaf>, ParseError> {
    check_length(text)?;
    let mut parser = Parser { text, at: 0, brackets: 0, cost: 0 };
    let mut labels = Vec::new();
    loop {
        let token = parser.peek()?;
        match parser.part()? {
            Formula::Leaf(label @ TemplateLeaf::Placeholder { .. }) => labels.push(label),
            Formula::Leaf(label @ TemplateLeaf::Leaf(Leaf::Attribute(_))) => labels.push(label),
            _ => {
                let hint = "a label is `name` or `name=value`: what is asked of it is in the keys";
                return Err(parser.unexpected(&token, "an attribute", hint));
            }
        }
        if labels.len() > ATTRIBUTES_MAX {
            let kind = ParseErrorKind::Attribute(AttributeError::TooManyAttributes);
            return Err(parser.error(token.start, kind));
        }
        if !matches!(parser.peek()?.kind, Kind::Comma) {
            break;
        }
        parser.next()?;
    }
    parser.end()?;
    Ok(labels)
}

/// What the parser needs to make of a leaf.
pub(super) trait ParsedLeaf: BoundedLeaf + From<Leaf> {
    /// The leaf `name=$number`, where such leaves may be.
    fn placeholder(name: &str, number: u32) -> Option<Self>;
}

impl ParsedLeaf for Leaf {
    fn placeholder(_: &str, _: u32) -> Option<Self> {
        None
    }
}

impl From<Leaf> for TemplateLeaf {
    fn from(leaf: Leaf) -> Self {
        Self::Leaf(leaf)
    }
}

impl ParsedLeaf for TemplateLeaf {
    fn placeholder(name: &str, number: u32) -> Option<Self> {
        Some(Self::Placeholder { name: name.to_owned(), number })
    }
}

fn parse<L: ParsedLeaf>(text: &str) -> Result<Formula<L>, ParseError> {
    check_length(text)?;
    let mut parser = Parser { text, at: 0, brackets: 0, cost: 0 };
    let formula = parser.any()?;
    parser.end()?;
    if let Some(what) = repeated(&formula) {
        return Err(ParseError::new(text, 0, ParseErrorKind::Repeated { what }));
    }
    match formula.to_string().len() {
        bytes if bytes > POLICY_BYTES_MAX => Err(too_long(text, bytes)),
        _ => Ok(formula),
    }
}

fn check_length(text: &str) -> Result<(), ParseError> {
    if text.len() > POLICY_BYTES_MAX {
        return Err(too_long(text, text.len()));
    }
    if text.trim().is_empty() {
        return Err(ParseError::new(text, 0, ParseErrorKind::Empty));
    }
    Ok(())
}

fn too_long(text: &str, bytes: usize) -> ParseError {
    let start: String = text.chars().take(2 * REPORT_CONTEXT).collect();
    ParseError::new(&start, 0, ParseErrorKind::TooLong { bytes })
}

#[derive(Clone, Copy, PartialEq)]
enum Operator {
    Equal,
    NotEqual,
    AtLeast,
    AtMost,
    Above,
    Below,
}

enum Kind<'a> {
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
enum Keyword {
    And,
    Or,
    Of,
    Not,
}

struct Token<'a> {
    kind: Kind<'a>,
    start: usize,
    end: usize,
}

impl Token<'_> {
    /// A name or a value, without its quotes.
    fn word(&self) -> Option<&str> {
        match &self.kind {
            Kind::Word(word) => Some(word),
            Kind::Quoted(word) => Some(word),
            _ => None,
        }
    }
}

/// Recursive descent. Recursion follows the brackets, of which no more than [`DEPTH_MAX`] are open at a time.
struct Parser<'a> {
    text: &'a str,
    at: usize,
    brackets: usize,
    cost: usize,
}

impl<'a> Parser<'a> {
    fn any<L: ParsedLeaf>(&mut self) -> Result<Formula<L>, ParseError> {
        let start = self.peek()?.start;
        let mut children = vec![self.all()?];
        while self.takes(Keyword::Or)? {
            children.push(self.all()?);
        }
        self.gate(start, Formula::any(children))
    }

    fn all<L: ParsedLeaf>(&mut self) -> Result<Formula<L>, ParseError> {
        let start = self.peek()?.start;
        let mut children = vec![self.part()?];
        while self.takes(Keyword::And)? {
            children.push(self.part()?);
        }
        self.gate(start, Formula::all(children))
    }

    fn part<L: ParsedLeaf>(&mut self) -> Result<Formula<L>, ParseError> {
        let token = self.next()?;
        match &token.kind {
            Kind::Open => {
                self.open(&token)?;
                let inner = self.any()?;
                self.close(&token, "`and`, `or` or `)`")?;
                Ok(inner)
            }
            Kind::Word(word) => match self.peek()?.kind {
                Kind::Keyword(Keyword::Of) => self.threshold(&token, word),
                _ => self.leaf(&token, word),
            },
            Kind::Quoted(word) => self.leaf(&token, word),
            Kind::Placeholder(_) => Err(self.placeholder_misplaced::<L>(&token)),
            Kind::Keyword(Keyword::Not) => Err(self.error(token.start, ParseErrorKind::Negation)),
            Kind::Keyword(_) => Err(self.error(
                token.start,
                ParseErrorKind::Keyword { word: self.written(&token), expected: "an attribute" },
            )),
            Kind::Operator(_) => {
                Err(self.unexpected(&token, "an attribute", "`=` stands between one name and one value"))
            }
            Kind::Close | Kind::Comma | Kind::End => Err(self.unexpected(
                &token,
                "an attribute",
                "a part of a policy is `name`, `name=value` or a comparison such as `level>=3`",
            )),
        }
    }

    /// What follows the number of `k of (a, b, c)`.
    fn threshold<L: ParsedLeaf>(&mut self, number: &Token<'a>, word: &str) -> Result<Formula<L>, ParseError> {
        let found = || ParseErrorKind::ThresholdNumber { found: shortened(word) };
        let k = decimal_u32(word).ok_or_else(|| self.error(number.start, found()))?;
        self.next()?;
        let open = self.next()?;
        if !matches!(open.kind, Kind::Open) {
            return Err(self.unexpected(&open, "`(`", "write `2 of (a, b, c)`"));
        }
        self.open(&open)?;
        let mut children = vec![self.any()?];
        while matches!(self.peek()?.kind, Kind::Comma) {
            self.next()?;
            children.push(self.any()?);
        }
        self.close(&open, "`and`, `or`, `,` or `)`")?;
        self.gate(number.start, Formula::threshold(k, children))
    }

    /// What follows a name.
    fn leaf<L: ParsedLeaf>(&mut self, token: &Token<'a>, name: &str) -> Result<Formula<L>, ParseError> {
        check_name(name).map_err(|error| self.error(token.start, error.into()))?;
        let Kind::Operator(operator) = self.peek()?.kind else {
            let flag = Attribute::flag(name).map_err(|error| self.error(token.start, error.into()))?;
            return self.counted(token, Leaf::Attribute(flag).into());
        };
        let (sign, value) = (self.next()?, self.next()?);
        let leaf = match operator {
            Operator::Equal => self.equality(name, &value)?,
            Operator::NotEqual => {
                let kind = ParseErrorKind::NotEqual {
                    name: self.written(token),
                    value: value.word().and_then(decimal_u32),
                };
                return Err(self.error(sign.start, kind));
            }
            Operator::AtLeast | Operator::AtMost | Operator::Above | Operator::Below => {
                if let Kind::Placeholder(_) = value.kind {
                    return Err(self.placeholder_misplaced::<L>(&value));
                }
                let comparison = self.comparison(name, operator, &value)?.ok_or_else(|| {
                    let comparison = shortened(&self.text[token.start..value.end]);
                    self.error(token.start, ParseErrorKind::NoSuchValue { comparison })
                })?;
                comparison.into()
            }
        };
        self.counted(token, leaf)
    }

    fn equality<L: ParsedLeaf>(&self, name: &str, value: &Token<'a>) -> Result<L, ParseError> {
        let kind = match (&value.kind, value.word()) {
            (Kind::Placeholder(number), _) => return self.placeholder(value, name, number),
            (_, Some(word)) => match Attribute::from_value(name, word) {
                Ok(attribute) => return Ok(Leaf::Attribute(attribute).into()),
                Err(error) => error.into(),
            },
            (Kind::Keyword(_), None) => {
                ParseErrorKind::Keyword { word: self.written(value), expected: "a value" }
            }
            (_, None) => ParseErrorKind::MissingValue { name: shortened(name), found: self.found(value) },
        };
        Err(self.error(value.start, kind))
    }

    /// The comparison, or nothing if no integer satisfies it.
    fn comparison(
        &self,
        name: &str,
        operator: Operator,
        value: &Token<'a>,
    ) -> Result<Option<Leaf>, ParseError> {
        let word = value.word().unwrap_or_default();
        let Some(n) = decimal_u32(word) else {
            let digits = word.bytes().all(|b| b.is_ascii_digit()) && word.starts_with(|c| c > '0');
            return Err(self.error(
                value.start,
                match digits {
                    true => ParseErrorKind::OutOfRange { found: shortened(word) },
                    false => ParseErrorKind::NotAnInteger { name: shortened(name), found: self.found(value) },
                },
            ));
        };
        let name = name.to_owned();
        Ok(match operator {
            Operator::Above => n.checked_add(1).map(|bound| Leaf::AtLeast { name, bound }),
            Operator::Below => n.checked_sub(1).map(|bound| Leaf::AtMost { name, bound }),
            Operator::AtMost => Some(Leaf::AtMost { name, bound: n }),
            _ => Some(Leaf::AtLeast { name, bound: n }),
        })
    }

    fn placeholder<L: ParsedLeaf>(&self, token: &Token<'a>, name: &str, word: &str) -> Result<L, ParseError> {
        let number = decimal_u32(word).filter(|n| (1..=PLACEHOLDER_MAX).contains(n));
        match (L::placeholder(name, number.unwrap_or(1)), number) {
            (Some(leaf), Some(_)) => Ok(leaf),
            (Some(_), None) => Err(self.placeholder_error(token, "placeholders are `$1` to `$64`")),
            (None, _) => Err(self.placeholder_misplaced::<L>(token)),
        }
    }

    fn placeholder_misplaced<L: ParsedLeaf>(&self, token: &Token<'a>) -> ParseError {
        self.placeholder_error(
            token,
            match L::placeholder("", 1) {
                Some(_) => "a placeholder stands for a value after `=`, as in `ward=$1`",
                None => {
                    "only the policies of topic rules have placeholders; the text value is written `\"$1\"`"
                }
            },
        )
    }

    fn placeholder_error(&self, token: &Token<'a>, hint: &'static str) -> ParseError {
        self.error(token.start, ParseErrorKind::Placeholder { found: self.written(token), hint })
    }

    /// A leaf, counted towards [`LEAVES_MAX`] as it is read, so that nothing larger is ever built.
    fn counted<L: ParsedLeaf>(&mut self, token: &Token<'a>, leaf: L) -> Result<Formula<L>, ParseError> {
        self.cost += leaf.cost();
        match self.cost > LEAVES_MAX {
            true => Err(self.error(token.start, ParseErrorKind::TooManyLeaves)),
            false => Ok(Formula::Leaf(leaf)),
        }
    }

    fn gate<L: ParsedLeaf>(
        &self,
        start: usize,
        formula: Result<Formula<L>, FormulaError>,
    ) -> Result<Formula<L>, ParseError> {
        let kind = match formula {
            Ok(formula) if !formula.deeper_than(DEPTH_MAX) => return Ok(formula),
            Err(FormulaError::Threshold { k, n }) => ParseErrorKind::Threshold { k, n },
            Ok(_) | Err(_) => ParseErrorKind::TooDeep,
        };
        Err(self.error(start, kind))
    }

    fn open(&mut self, token: &Token<'a>) -> Result<(), ParseError> {
        self.brackets += 1;
        match self.brackets > DEPTH_MAX {
            true => Err(self.error(token.start, ParseErrorKind::TooDeep)),
            false => Ok(()),
        }
    }

    fn close(&mut self, open: &Token<'a>, expected: &'static str) -> Result<(), ParseError> {
        let token = self.next()?;
        self.brackets -= 1;
        match token.kind {
            Kind::Close => Ok(()),
            Kind::End => {
                let opened = column(self.text, open.start);
                Err(self.error(token.start, ParseErrorKind::UnclosedBracket { opened }))
            }
            _ => Err(self.after_part(&token, expected)),
        }
    }

    fn end(&mut self) -> Result<(), ParseError> {
        let token = self.next()?;
        match token.kind {
            Kind::End => Ok(()),
            _ => Err(self.after_part(&token, "`and`, `or` or the end of the policy")),
        }
    }

    fn after_part(&self, token: &Token<'a>, expected: &'static str) -> ParseError {
        let hint = match token.kind {
            Kind::Keyword(Keyword::Not) => return self.error(token.start, ParseErrorKind::Negation),
            Kind::Close => "no bracket is open here",
            Kind::Comma => "`,` stands only between the parts of `2 of (a, b, c)`",
            Kind::Operator(_) => "`=` stands between one name and one value",
            Kind::Keyword(_) => "write `2 of (a, b, c)`",
            Kind::Open => "put `and` or `or` before the bracket; a threshold is written `2 of (a, b, c)`",
            _ => "put `and` or `or` between, or double quotes around a name or value with spaces",
        };
        self.unexpected(token, expected, hint)
    }

    fn takes(&mut self, keyword: Keyword) -> Result<bool, ParseError> {
        let token = self.peek()?;
        let is = matches!(token.kind, Kind::Keyword(found) if found == keyword);
        if is {
            self.at = token.end;
        }
        Ok(is)
    }

    fn next(&mut self) -> Result<Token<'a>, ParseError> {
        let token = self.peek()?;
        self.at = token.end;
        Ok(token)
    }

    fn peek(&self) -> Result<Token<'a>, ParseError> {
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

    fn unexpected(&self, token: &Token<'a>, expected: &'static str, hint: &'static str) -> ParseError {
        let found = self.found(token);
        self.error(token.start, ParseErrorKind::Unexpected { expected, found, hint })
    }

    fn found(&self, token: &Token<'a>) -> String {
        match token.kind {
            Kind::End => "the end of the policy".to_owned(),
            _ => format!("`{}`", self.written(token)),
        }
    }

    fn written(&self, token: &Token<'a>) -> String {
        shortened(&self.text[token.start..token.end])
    }

    fn error(&self, byte: usize, kind: ParseErrorKind) -> ParseError {
        ParseError::new(self.text, byte, kind)
    }
}

/// The length of the first character, or of two of it.
fn run(rest: &str, first: char) -> usize {
    rest.chars().take(2).take_while(|c| *c == first).map(char::len_utf8).sum()
}

/// A character as itself, or its escape if nobody could see it.
fn visible(c: char) -> String {
    if c == '\'' { c.to_string() } else { c.escape_debug().to_string() }
}

fn shortened(word: &str) -> String {
    match word.char_indices().nth(FOUND_CHARS_MAX) {
        Some((byte, _)) => format!("{}…", &word[..byte]),
        None => word.to_owned(),
    }
}
