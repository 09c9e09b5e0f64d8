//! From text to a formula.

mod error;
mod token;

use self::error::REPORT_CONTEXT;
pub use self::error::{ParseError, ParseErrorKind, Report};
use self::token::{Keyword, Kind, Operator, Token};

use super::{BoundedLeaf, Leaf, PLACEHOLDER_MAX, POLICY_BYTES_MAX, TemplateLeaf, repeated};
use crate::attribute::{ATTRIBUTES_MAX, Attribute, AttributeError, check_name, decimal_u32};
use crate::formula::{DEPTH_MAX, Formula, FormulaError, LEAVES_MAX};
use crate::word::column;

/// Characters of a word repeated in a message.
const FOUND_CHARS_MAX: usize = 32;

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

fn shortened(word: &str) -> String {
    match word.char_indices().nth(FOUND_CHARS_MAX) {
        Some((byte, _)) => format!("{}…", &word[..byte]),
        None => word.to_owned(),
    }
}
