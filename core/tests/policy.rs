//! Attributes and policies: grammar, canonical form, encoding, evaluation, templates.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::RngSeed;
use smqtt_core::attribute::{Attribute, AttributeError, Attributes, Label, Value, Versions};
use smqtt_core::formula::{DEPTH_MAX, Formula, FormulaError, LEAVES_MAX};
use smqtt_core::policy::{
    ACCESS_DEPTH_MAX, ACCESS_LEAVES_MAX, Labelling, Leaf, OCCURRENCES_MAX, POLICY_BYTES_MAX, ParseErrorKind,
    Policy, PolicyError, Template,
};

fn policy(text: &str) -> Policy {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn set(texts: &[&str]) -> Attributes {
    Attributes::parse(texts).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Spaces between digits are for the eye.
fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
}

#[test]
fn policies_print_with_no_more_brackets_and_quotes_than_needed() {
    for (text, printed) in [
        ("role=nurse and (ward=3 or ward=4)", "role=nurse and (ward=3 or ward=4)"),
        ("a or b and c", "a or b and c"),
        ("a or (b and c)", "a or b and c"),
        ("(a or b) and c", "(a or b) and c"),
        ("a AND b Or c", "a and b or c"),
        ("a and (b and c) and d", "a and b and c and d"),
        ("((a or b) or c) or (d)", "a or b or c or d"),
        ("2 of (a, b, c)", "2 of (a, b, c)"),
        ("2 OF(a,b or c,d and e)", "2 of (a, b or c, d and e)"),
        ("2 of (2 of (a, b, c), d, e)", "2 of (2 of (a, b, c), d, e)"),
        ("1 of (a, b)", "a or b"),
        ("1 of (a, b) or c", "a or b or c"),
        ("2 of (a, b)", "a and b"),
        ("c and 2 of (a, b)", "c and a and b"),
        ("1 of (a)", "a"),
        ("(a)and(b)", "a and b"),
        ("level>=3", "level>=3"),
        ("level > 3", "level>=4"),
        ("level<3", "level<=2"),
        ("level<=3", "level<=3"),
        ("level>=0 and level<=4294967295", "level>=0 and level<=4294967295"),
        ("level>=\"3\"", "level>=3"),
        ("ward==3", "ward=3"),
        ("\n\tward\n=\u{a0}3 ", "ward=3"),
        ("ward=\"3\"", "ward=3"),
        ("ward=03", "ward=03"),
        ("ward=\"0 3\"", "ward=\"0 3\""),
        ("\"role\"=\"nurse\"", "role=nurse"),
        ("\"and\"=\"Or\" and \"NOT\"", "\"and\"=\"Or\" and \"NOT\""),
        (r#"a="say \"hi\" \\""#, r#"a="say \"hi\" \\""#),
        ("role=ac-controller or device.urn:x/y@z_1+2", "role=ac-controller or device.urn:x/y@z_1+2"),
        ("rôle=größe or 角色=护士 or роль=сестра", "rôle=größe or 角色=护士 or роль=сестра"),
        ("2 and 3", "2 and 3"),
        ("android or orange or often or nothing", "android or orange or often or nothing"),
        ("a=\"$1\"", "a=\"$1\""),
        (
            "(role=ac-controller or role=heater-controller) and location=home-7 or role=fire-alarm",
            "(role=ac-controller or role=heater-controller) and location=home-7 or role=fire-alarm",
        ),
    ] {
        let parsed = policy(text);
        assert_eq!(parsed.to_string(), printed);
        assert_eq!(policy(printed), parsed);
    }
}

#[test]
fn mistakes_are_found_at_their_column_with_a_hint() {
    let long_name = "n".repeat(65);
    let long_value = format!("a={}", "v".repeat(257));
    for (text, column, message, hint) in [
        ("", 1, "the policy is empty", "role=nurse"),
        (" \n ", 1, "the policy is empty", "role=nurse"),
        ("role=nurse and (ward=3", 23, "expected `)`, found the end", "opened at column 16"),
        ("(a or b", 8, "expected `)`", "opened at column 1"),
        ("2 of (a, b", 11, "expected `)`", "opened at column 6"),
        ("a)", 2, "found `)`", "no bracket is open"),
        ("()", 2, "expected an attribute, found `)`", "`name=value`"),
        ("a and", 6, "expected an attribute, found the end", "`name=value`"),
        ("a and and b", 7, "found the keyword `and`", "`\"and\"`"),
        ("OR a", 1, "found the keyword `OR`", "`\"OR\"`"),
        ("role=and", 6, "expected a value, found the keyword `and`", "`\"and\"`"),
        ("of=3", 1, "found the keyword `of`", "`\"of\"`"),
        ("role=", 6, "expected a value for `role`, found the end", "without `=`"),
        ("(role=) and a", 7, "expected a value for `role`, found `)`", "without `=`"),
        ("role=(nurse)", 6, "expected a value for `role`, found `(`", "without `=`"),
        ("=3", 1, "expected an attribute, found `=`", "one name and one value"),
        ("a=b=c", 4, "found `=`", "one name and one value"),
        ("(a)=3", 4, "found `=`", "one name and one value"),
        ("a b", 3, "expected `and`, `or` or the end of the policy, found `b`", "double quotes"),
        ("grüße ja", 7, "found `ja`", "double quotes"),
        ("(a b)", 4, "expected `and`, `or` or `)`, found `b`", "double quotes"),
        ("2 of (a b)", 9, "expected `and`, `or`, `,` or `)`", "double quotes"),
        ("2 (a, b)", 3, "found `(`", "`2 of (a, b, c)`"),
        ("a, b", 2, "found `,`", "only between"),
        ("2 of (a, b,)", 12, "expected an attribute, found `)`", "`name=value`"),
        ("2 of a, b", 6, "expected `(`, found `a`", "`2 of (a, b, c)`"),
        ("2 of ()", 7, "expected an attribute", "`name=value`"),
        ("(2) of (a, b)", 5, "found `of`", "`2 of (a, b, c)`"),
        ("two of (a, b)", 1, "expected a number before `of`, found `two`", "2 of"),
        ("02 of (a, b)", 1, "expected a number before `of`", "leading zeros"),
        ("a and 3 of (b, c)", 7, "`3 of` a list of 2", "1 to 2"),
        ("0 of (b, c)", 1, "`0 of` a list of 2", "at least one"),
        ("a && b", 3, "unknown operator `&&`", "write `and`"),
        ("a & b", 3, "unknown operator `&`", "write `and`"),
        ("a || b", 3, "unknown operator `||`", "write `or`"),
        ("a ∨ b", 3, "unknown operator `∨`", "write `or`"),
        ("a=>3", 2, "unknown operator `=>`", "write `>=`"),
        ("a≥3", 2, "unknown operator `≥`", "write `>=`"),
        ("a=!3", 2, "unknown operator `=!`", "`=`, `>=`"),
        ("not a", 1, "cannot say `not`", "monotone"),
        ("a and !b", 7, "cannot say `not`", "monotone"),
        ("a not b", 3, "cannot say `not`", "monotone"),
        ("level!=3", 6, "cannot say `!=`", "write `level<3 or level>3`"),
        ("level<>0", 6, "cannot say `!=`", "write `level>0`"),
        ("level!=4294967295", 6, "cannot say `!=`", "write `level<4294967295`"),
        ("role != nurse", 6, "cannot say `!=`", "monotone"),
        ("level>=high", 8, "to compare `level` with, found `high`", "integers are"),
        ("level>=-1", 8, "found `-1`", "without sign"),
        ("level>=03", 8, "found `03`", "leading zeros"),
        ("level>=", 8, "to compare `level` with, found the end", "integers are"),
        ("level<and", 7, "to compare `level` with, found `and`", "integers are"),
        ("level!=", 6, "cannot say `!=`", "monotone"),
        ("level>=4294967296", 8, "`4294967296` is out of range", "4294967295"),
        ("level > 4294967295", 1, "no value satisfies `level > 4294967295`", "4294967295"),
        ("a or level<0", 6, "no value satisfies `level<0`", "0 to"),
        ("role='nurse'", 6, "unknown character `'`", "straight and double"),
        ("role=“nurse”", 6, "unknown character `“`", "straight and double"),
        ("a;b", 2, "unknown character `;`", "double quotes"),
        ("a\u{7}", 2, "unknown character `\\u{7}`", "double quotes"),
        ("role=\"nurse", 6, "the quote has no end", "\\\""),
        ("role=\"nurse\\", 6, "the quote has no end", "\\\""),
        ("role=\"a\\n\"", 8, "unknown escape", "\\\\"),
        ("role=\"a\nb\"", 8, "control character `\\n`", ""),
        ("a or \"\"", 6, "the name is empty", ""),
        ("a=\"\"", 3, "the value is empty", "without `=`"),
        (&long_name, 1, "65 bytes, more than 64", ""),
        (&long_value, 3, "257 bytes, more than 256", ""),
        ("ward=$1", 6, "placeholder `$1`", "`\"$1\"`"),
        ("$1=ward", 1, "placeholder `$1`", "`\"$1\"`"),
        ("ward>=$1", 7, "placeholder `$1`", "`\"$1\"`"),
    ] {
        let error = Policy::parse(text).expect_err(text);
        assert_eq!(error.column(), column, "{text}: {error}");
        assert!(text.is_char_boundary(error.byte()), "{text}: {error}");
        assert!(error.to_string().contains(message), "{text}: {error}");
        assert!(error.hint().unwrap_or_default().contains(hint), "{text}: {:?}", error.hint());
    }
}

#[test]
fn columns_count_characters_and_bytes_count_bytes() {
    let error = Policy::parse("größe=3 & a").unwrap_err();
    assert_eq!((error.column(), error.byte()), (9, 10));
}

#[test]
fn a_report_points_at_the_mistake() {
    let error = Policy::parse("role=nurse and (ward=3").unwrap_err();
    let lines = [
        "expected `)`, found the end of the policy (column 23)",
        "  role=nurse and (ward=3",
        "                        ^",
        "hint: close the bracket opened at column 16",
    ];
    assert_eq!(error.report().to_string(), lines.join("\n"));
}

#[test]
fn a_report_shows_only_the_neighbourhood_and_no_control_characters() {
    let text = format!("{}\n&& {}", ["aaaaaaaaa"; 20].join(" or "), "b".repeat(200));
    let report = Policy::parse(&text).unwrap_err().report().to_string();
    let lines: Vec<_> = report.lines().collect();
    assert_eq!(lines.len(), 4, "{report}");
    assert!(lines[1].starts_with("  …") && lines[1].ends_with('…') && lines[1].chars().count() < 110);
    let caret = lines[2].chars().position(|c| c == '^').unwrap();
    assert_eq!(lines[1].chars().nth(caret), Some('&'));
}

#[test]
fn ten_thousand_brackets_are_an_error_and_not_a_crash() {
    for (open, close) in [("(", ")"), ("1 of (", ")"), ("a and (b or ", ")")] {
        for n in [DEPTH_MAX + 1, 1000, 10_000] {
            let text = format!("{}a{}", open.repeat(n), close.repeat(n));
            let error = Policy::parse(&text).unwrap_err();
            if text.len() > POLICY_BYTES_MAX {
                assert!(matches!(error.kind(), ParseErrorKind::TooLong { .. }), "{error}");
            } else {
                assert_eq!(error.kind(), &ParseErrorKind::TooDeep);
                assert_eq!(error.column(), DEPTH_MAX * open.len() + open.find('(').unwrap() + 1);
            }
        }
    }
    assert_eq!(Policy::parse(&"(".repeat(10_000)).unwrap_err().kind(), &ParseErrorKind::TooDeep);
    // Ten thousand arrays of one, and ten thousand gates.
    for item in [&[0x81][..], &[0x82, 0x03, 0x81]] {
        assert!(Policy::decode(&item.repeat(10_000)).is_err());
    }
}

/// `levels` gates, `and` and `or` in turn, above `innermost`.
fn nested(levels: usize, innermost: Leaf) -> Formula<Leaf> {
    let mut formula = Formula::Leaf(innermost);
    for level in 0..levels {
        let pair = vec![Formula::Leaf(Leaf::Attribute(Attribute::int("b", level as u32).unwrap())), formula];
        formula = if level % 2 == 0 { Formula::And(pair) } else { Formula::Or(pair) };
    }
    formula
}

#[test]
fn depth_counts_gates() {
    let leaf = || Leaf::Attribute("a".parse().unwrap());
    let deepest = Policy::new(nested(DEPTH_MAX, leaf())).unwrap();
    assert_eq!(deepest.formula().depth(), DEPTH_MAX);
    assert_eq!(policy(&deepest.to_string()), deepest);
    assert_eq!(Policy::decode(&deepest.encode()).unwrap(), deepest);
    let deeper = Policy::new(nested(DEPTH_MAX + 1, leaf()));
    assert_eq!(deeper, Err(PolicyError::Formula(FormulaError::TooDeep)));

    // Brackets side by side are not nested.
    let side_by_side: Vec<_> = (0..3 * DEPTH_MAX).map(|n| format!("(a={n})")).collect();
    assert_eq!(policy(&side_by_side.join(" or ")).formula().depth(), 1);
    // Few brackets can still hide many gates.
    let open: String = (0..20).map(|n| format!("2 of (x={n} or y={n} and ")).collect();
    let close: String = (0..20).map(|n| format!(", v={n}, w={n})")).collect();
    let text = format!("{open}z{close}");
    assert_eq!(Policy::parse(&text).unwrap_err().kind(), &ParseErrorKind::TooDeep);
}

#[test]
fn leaves_are_bounded_after_comparisons_became_bits() {
    let flags: Vec<_> = (0..LEAVES_MAX).map(|n| format!("a={n}")).collect();
    let flags = flags.join(" or ");
    assert_eq!(policy(&flags).leaf_cost(), LEAVES_MAX);
    let error = Policy::parse(&format!("{flags} or b")).unwrap_err();
    assert_eq!(error.kind(), &ParseErrorKind::TooManyLeaves);
    assert_eq!(error.column(), flags.len() + 5);

    let comparisons = ["level>=1"; LEAVES_MAX / 32].join(" and ");
    assert_eq!(policy(&comparisons).leaf_cost(), LEAVES_MAX);
    let more = format!("{comparisons} and b");
    assert_eq!(Policy::parse(&more).unwrap_err().kind(), &ParseErrorKind::TooManyLeaves);

    let leaves = vec![Formula::Leaf(Leaf::AtLeast { name: "a".into(), bound: 1 }); 9];
    assert_eq!(Policy::new(Formula::Or(leaves)), Err(PolicyError::Formula(FormulaError::TooManyLeaves)));
}

#[test]
fn text_is_bounded_as_read_and_as_printed() {
    let text = format!("a{}", " ".repeat(POLICY_BYTES_MAX));
    assert_eq!(Policy::parse(&text).unwrap_err().kind(), &ParseErrorKind::TooLong { bytes: 16385 });
    assert!(Policy::parse(&text[..POLICY_BYTES_MAX]).is_ok());

    // Without spaces after the commas it fits, with them it does not.
    let leaves: Vec<_> = (0..233).map(|n| format!("{}={}{n:03}", "n".repeat(40), "v".repeat(25))).collect();
    let short = format!("2 of({})", leaves.join(","));
    assert!(short.len() <= POLICY_BYTES_MAX);
    assert!(matches!(Policy::parse(&short).unwrap_err().kind(), ParseErrorKind::TooLong { .. }));

    let long = |n| Attribute::from_value("a", &format!("{}{n:03}", "v".repeat(253))).unwrap();
    let leaves = (0..100).map(|n| Formula::Leaf(Leaf::Attribute(long(n)))).collect();
    assert!(matches!(Policy::new(Formula::Or(leaves)), Err(PolicyError::TooLong { .. })));
}

/// `leaf` `n` times, and something else.
fn repeated(leaf: &str, n: usize) -> String {
    format!("{} or other", vec![leaf; n].join(" or "))
}

/// Every occurrence of a label costs whoever opens a pairing.
#[test]
fn one_attribute_occurs_at_most_16_times() {
    const N: usize = OCCURRENCES_MAX;
    assert_eq!(N, 16);
    // Bounds of which the highest bit alone decides, so that leaves are not what runs out.
    let mixed = |n: usize| {
        let up = vec!["level>=2147483648"; n / 2].join(" and ");
        format!("{up} and {}", vec!["level<=2147483647"; n - n / 2].join(" and "))
    };
    for (most, more, what) in [
        (repeated("a", N), repeated("a", N + 1), "a"),
        (repeated("ward=3", N), repeated("ward=3", N + 1), "ward=3"),
        (repeated("\"a b\"=x", N), repeated("\"a b\"=x", N + 1), "\"a b\"=x"),
        (repeated("level>=2147483648", N), repeated("level>=2147483648", N + 1), "level compared"),
        (mixed(N), mixed(N + 1), "level compared"),
    ] {
        let most = policy(&most);
        assert_eq!(Policy::decode(&most.encode()), Ok(most.clone()));
        assert_eq!(Template::parse(&most.to_string()), Ok(Template::from(&most)));
        let mut occurrences = BTreeMap::new();
        for label in most.access(&Versions::default(), 1).leaves() {
            *occurrences.entry(label.clone()).or_insert(0) += 1;
        }
        assert!(occurrences.values().all(|n| *n <= N), "{occurrences:?}");

        for error in [Policy::parse(&more).unwrap_err(), Template::parse(&more).unwrap_err()] {
            assert_eq!(error.kind(), &ParseErrorKind::Repeated { what: what.into() });
            assert!(error.to_string().contains(&format!("`{what}` occurs more than 16 times")), "{error}");
            let hint = error.hint().unwrap();
            assert!(hint.contains("`a and (b or c)` for `a and b or a and c`"), "{hint}");
        }
    }
    // Different values of one name, and an integer next to its comparisons, are different labels.
    let values: Vec<_> = (0..2 * N).map(|n| format!("ward={n}")).collect();
    assert!(Policy::parse(&values.join(" or ")).is_ok());
    let both = format!("{} or {}", repeated("level=3", N), vec!["level>=2147483648"; N].join(" or "));
    assert!(Policy::parse(&both).is_ok());

    // The same by hand and on the wire.
    let leaf = |text: &str| Formula::Leaf(Leaf::Attribute(text.parse().unwrap()));
    let refused = |what: &str| PolicyError::Repeated { what: what.into() };
    assert!(Policy::new(Formula::Or(vec![leaf("a"); N])).is_ok());
    assert_eq!(Policy::new(Formula::Or(vec![leaf("a"); N + 1])), Err(refused("a")));
    let wire = |n: u8, leaf: &str| [&[0x82, 0x04, 0x80 | n][..], &unhex(leaf).repeat(n.into())].concat();
    for (leaf, what) in [
        ("83 00 6161 f6", "a"),
        ("83 00 6161 03", "a=3"),
        ("83 01 6161 1a80000000", "a compared"),
        ("83 02 6161 1a7fffffff", "a compared"),
    ] {
        let (most, more) = (wire(16, leaf), wire(17, leaf));
        assert!(Policy::decode(&most).is_ok() && Template::decode(&most).is_ok(), "{what}");
        assert_eq!(Policy::decode(&more), Err(refused(what)));
        assert_eq!(Template::decode(&more), Err(refused(what)));
    }

    // Placeholders count by their number, and what they became counts once more.
    let error = Template::parse(&repeated("ward=$1", N + 1)).unwrap_err();
    assert_eq!(error.kind(), &ParseErrorKind::Repeated { what: "ward=$1".into() });
    let two = format!("{} or ward=3", repeated("ward=$1", N));
    let two = Template::parse(&two).unwrap();
    assert!(two.instantiate(&["4"]).is_ok());
    assert_eq!(two.instantiate(&["3"]), Err(refused("ward=3")));
}

#[test]
fn hand_made_formulas_are_checked() {
    let leaf = |name: &str| Formula::Leaf(Leaf::AtLeast { name: name.into(), bound: 1 });
    assert!(Policy::new(leaf("level")).is_ok());
    assert_eq!(Policy::new(leaf("")), Err(PolicyError::Attribute(AttributeError::EmptyName)));
    assert_eq!(Policy::new(leaf("a\n")), Err(PolicyError::Attribute(AttributeError::ControlCharacter('\n'))));
    for empty in [Formula::And(vec![]), Formula::Or(vec![]), Formula::And(vec![Formula::Or(vec![])])] {
        assert_eq!(Policy::new(empty), Err(PolicyError::Formula(FormulaError::EmptyGate)));
    }
    for k in [0, 2, u32::MAX] {
        let threshold = Formula::Threshold { k, of: vec![leaf("level")] };
        assert_eq!(Policy::new(threshold), Err(PolicyError::Formula(FormulaError::Threshold { k, n: 1 })));
    }
}

#[test]
fn one_meaning_spelled_twice_is_one_policy() {
    for (one, other) in [
        ("a and b and c", "a and (b and c)"),
        ("a and b and c", "3 of (a, b, c)"),
        ("a or b or c", "1 of (a, b or c)"),
        ("level>3", "level>=4"),
        ("ward=3", "\"ward\" == \"3\""),
        ("((a))", "1 of ((a))"),
    ] {
        assert_eq!(policy(one), policy(other));
        assert_eq!(policy(one).encode(), policy(other).encode());
    }
    // Order stays, and so do repetitions: a canonical form does not reason about policies.
    assert_ne!(policy("a and b"), policy("b and a"));
    assert_ne!(policy("a or a"), policy("a"));
    // No Unicode normalisation: one code point and two.
    assert_ne!(policy("\u{e9}=1"), policy("\"e\u{301}\"=1"));
}

#[test]
fn integers_have_one_spelling() {
    for (text, value) in [
        ("ward=0", Value::Int(0)),
        ("ward=\"4294967295\"", Value::Int(u32::MAX)),
        ("ward=4294967296", Value::Text("4294967296".into())),
        ("ward=03", Value::Text("03".into())),
        ("ward=+3", Value::Text("+3".into())),
        ("ward=-3", Value::Text("-3".into())),
        ("ward=3.0", Value::Text("3.0".into())),
        ("ward=٣", Value::Text("٣".into())),
        ("ward=\" 3\"", Value::Text(" 3".into())),
        ("ward", Value::Flag),
    ] {
        let attribute: Attribute = text.parse().unwrap();
        assert_eq!((attribute.name(), attribute.value()), ("ward", &value), "{text}");
    }
}

#[test]
fn attributes_refuse_what_is_not_one() {
    for (text, message) in [
        ("", "expected a name at column 1"),
        ("a=", "expected a value at column 3"),
        ("=a", "expected a name at column 1"),
        ("a=b c", "expected the end of the attribute at column 5"),
        ("a=b=c", "column 4"),
        ("a>=3", "column 2"),
        ("role=And", "`And` is a keyword"),
        ("a=$1", "expected a value at column 3"),
        ("a=\"x", "column 3 has no end"),
        ("a=\"\\x\"", "unknown escape at column 4"),
        ("a=\"\"", "the value is empty"),
        ("\"\"=a", "the name is empty"),
        ("a=\"\u{85}\"", "control character"),
    ] {
        let error = text.parse::<Attribute>().expect_err(text);
        assert!(error.to_string().contains(message), "{text}: {error}");
    }
    assert!(Attribute::from_value(&"é".repeat(32), &"v".repeat(256)).is_ok());
    assert_eq!(Attribute::flag(&"é".repeat(33)), Err(AttributeError::NameTooLong(66)));
    assert_eq!(Attribute::from_value("a", &"v".repeat(257)), Err(AttributeError::ValueTooLong(257)));
}

#[test]
fn sets_read_what_they_print() {
    let attributes: Attributes = "ward=4,role = nurse, \"a,b\"=\"c, d\", ward=3, ward=3".parse().unwrap();
    assert_eq!(attributes.to_string(), "\"a,b\"=\"c, d\", role=nurse, ward=3, ward=4");
    assert_eq!(attributes.to_string().parse::<Attributes>().unwrap(), attributes);
    assert!(" ".parse::<Attributes>().unwrap().is_empty());
    for bad in ["a,", ",a", "a,,b", "a b", ","] {
        assert!(bad.parse::<Attributes>().is_err(), "{bad}");
    }
    let many = (0..65).map(|n| format!("a={n}"));
    assert_eq!(Attributes::parse(many.clone().take(64)).unwrap().len(), 64);
    assert_eq!(Attributes::parse(many), Err(AttributeError::TooManyAttributes));
}

#[test]
fn comparisons_need_exactly_one_integer() {
    let level = policy("level>=3");
    assert!(level.satisfied_by(&set(&["level=3"])));
    assert!(level.satisfied_by(&set(&["level=3", "level=high", "level"])));
    assert!(!level.satisfied_by(&set(&["level=2"])));
    assert!(!level.satisfied_by(&set(&["level=high"])));
    assert!(!level.satisfied_by(&set(&["level=3", "level=4"])));
    assert!(policy("level=3 and level=4").satisfied_by(&set(&["level=3", "level=4"])));
}

#[test]
fn bits_of_two_integers_do_not_mix_into_a_third() {
    // 5 and 2 together have every bit of 7.
    let two = set(&["ward=2", "ward=5"]);
    let labels: BTreeSet<_> = two.labels(&Versions::default(), 1).into_iter().collect();
    let access = policy("ward>=7").access(&Versions::default(), 1);
    assert!(!access.satisfied_by(&|label| labels.contains(label)));
    assert_eq!(labels.len(), 3);
}

#[test]
fn explanations_say_why() {
    let policy = policy("role=nurse and (ward=3 or 2 of (level>=3, badge, zone>=1)) and door<5");
    let holder = set(&["role=nurse", "ward=4", "level=2", "level=3", "zone=green", "door=7"]);
    let explanation = policy.explain(&holder);
    let lines = [
        "✗ all of these (1 of 3 hold)",
        "  ✓ role=nurse",
        "  ✗ any of these (0 of 2 hold)",
        "    ✗ ward=3: has ward=4",
        "    ✗ at least 2 of these (0 of 3 hold)",
        "      ✗ level>=3: has several values of level: comparisons need exactly one",
        "      ✗ badge: has no badge",
        "      ✗ zone>=1: has zone=green: comparisons need an integer",
        "  ✗ door<=4: has door=7",
    ];
    assert_eq!(explanation.to_string(), lines.join("\n"));
    assert_eq!(explanation.children()[1].text(), "ward=3 or 2 of (level>=3, badge, zone>=1)");
    assert!(policy.explain(&set(&["role=nurse", "ward=3", "door=0"])).satisfied());
}

#[test]
fn policies_tell_what_they_ask_for() {
    let policy = policy("role=nurse and (ward=3 or ward=4 or admin or level>=3)");
    let attributes: Vec<_> = policy.attributes().iter().map(ToString::to_string).collect();
    assert_eq!(attributes, ["admin", "role=nurse", "ward=3", "ward=4"]);
    assert_eq!(policy.names().into_iter().collect::<Vec<_>>(), ["admin", "level", "role", "ward"]);
    let keys: Vec<_> = policy.version_keys().iter().map(ToString::to_string).collect();
    assert_eq!(keys, ["admin", "level", "role=nurse", "ward"]);
}

#[test]
fn encodings_are_the_documented_bytes() {
    for (text, bytes) in [
        ("a", "83 00 6161 f6"),
        ("ward=3", "83 00 6477617264 03"),
        ("a=b", "83 00 6161 6162"),
        ("a>=24", "83 01 6161 1818"),
        ("a<=1", "83 02 6161 01"),
        ("a and b", "82 03 82 83006161f6 83006162f6"),
        ("a or b", "82 04 82 83006161f6 83006162f6"),
        ("2 of (a, b, c)", "83 05 02 83 83006161f6 83006162f6 83006163f6"),
    ] {
        assert_eq!(policy(text).encode(), unhex(bytes), "{text}");
        assert_eq!(Policy::decode(&unhex(bytes)), Ok(policy(text)));
    }
    assert_eq!(Template::parse("a=$1").unwrap().encode(), unhex("83 00 6161 81 01"));
    let role = "a=b".parse().unwrap();
    assert_eq!(Label::attribute(&role, 7).as_bytes(), unhex("84 00 6161 6162 07"));
    assert_eq!(Label::bit("a", 31, true, 0).as_bytes(), unhex("85 01 6161 181f 01 00"));
    assert_eq!(Label::epoch(41).as_bytes(), unhex("82 02 1829"));
}

#[test]
fn decoding_refuses_every_other_spelling() {
    for (bytes, why) in [
        ("", "nothing"),
        ("83006161f6 00", "a byte left over"),
        ("83006161", "cut off"),
        ("9f 006161f6 ff", "indefinite length"),
        ("9803 006161f6", "longer length"),
        ("83 1800 6161f6", "longer tag"),
        ("83006161 1803", "longer integer"),
        ("83006161 1b0000000000000003", "longer integer, 64 bits"),
        ("83006161 1b0000000100000000", "integer over 32 bits"),
        ("83006161 20", "negative integer"),
        ("83006161 f5", "a boolean"),
        ("83006161 4162", "a byte string"),
        ("8300 7f6161ff f6", "text in chunks"),
        ("8300 60 f6", "empty name"),
        ("83006161 60", "empty value"),
        ("83006161 6133", "a decimal as text"),
        ("8300 610a f6", "control character in a name"),
        ("83006161 610a", "control character in a value"),
        ("8300 61ff f6", "not UTF-8"),
        ("8300 f6 f6", "name not text"),
        ("8306 6161 f6", "no such gate or leaf"),
        ("8200f6", "a leaf of two"),
        ("84006161f600", "a label is not a leaf"),
        ("83016161 f6", "a comparison without a bound"),
        ("83016161 1b0000000100000000", "bound over 32 bits"),
        ("820381 83006161f6", "a gate of one"),
        ("820380", "a gate of none"),
        ("830301 82 83006161f6 83006162f6", "`and` with a number"),
        ("820382 83006161f6 820382 83006162f6 83006163f6", "`and` in `and`"),
        ("820482 820482 83006161f6 83006162f6 83006163f6", "`or` in `or`"),
        ("830500 82 83006161f6 83006162f6", "0 of"),
        ("830501 82 83006161f6 83006162f6", "1 of"),
        ("830502 82 83006161f6 83006162f6", "n of n"),
        ("830503 82 83006161f6 83006162f6", "more than n"),
        ("8305", "cut off after the tag"),
        ("8203 9b00ffffffffffffff", "a huge count"),
        ("8203 9bffffffffffffffff", "the largest count"),
        ("c0 83006161f6", "a CBOR tag"),
    ] {
        assert!(Policy::decode(&unhex(bytes)).is_err(), "{why}");
        assert!(Template::decode(&unhex(bytes)).is_err(), "{why}, as a template");
    }

    assert!(Policy::decode(&unhex("83006161 8101")).is_err(), "a placeholder in a policy");
    for (bytes, why) in [
        ("83006161 8100", "$0"),
        ("83006161 811841", "$65"),
        ("83006161 811801", "longer number"),
        ("83006161 820101", "two numbers"),
        ("83016161 8101", "in a comparison"),
        ("8300 60 8101", "without a name"),
    ] {
        assert!(Template::decode(&unhex(bytes)).is_err(), "{why}");
    }

    let name = |len: u8| [&[0x83, 0x00, 0x78, len][..], &vec![b'a'; len.into()], &[0xf6]].concat();
    assert!(Policy::decode(&name(64)).is_ok());
    assert!(Policy::decode(&name(65)).is_err());
    let leaves = |n: u16| {
        let [high, low] = n.to_be_bytes();
        let leaves =
            (0..n).flat_map(|n| [&[0x83, 0x00, 0x63], format!("{n:03}").as_bytes(), &[0xf6]].concat());
        [0x82, 0x04, 0x99, high, low].into_iter().chain(leaves).collect::<Vec<_>>()
    };
    assert!(Policy::decode(&leaves(256)).is_ok());
    assert_eq!(Policy::decode(&leaves(257)), Err(PolicyError::Formula(FormulaError::TooManyLeaves)));
    let long = vec![0; 2 * POLICY_BYTES_MAX + 1];
    assert!(matches!(Policy::decode(&long), Err(PolicyError::TooLong { .. })));
}

#[test]
fn sets_decode_only_in_their_order() {
    let attributes = set(&["role=nurse", "ward=3", "admin"]);
    assert_eq!(Attributes::decode(&attributes.encode()), Ok(attributes));
    assert_eq!(Attributes::decode(&[0x80]), Ok(Attributes::default()));
    for (bytes, why) in [
        ("82 83006162f6 83006161f6", "not sorted"),
        ("82 83006161f6 83006161f6", "twice"),
        ("81 83006161f6 00", "a byte left over"),
        ("9f 83006161f6 ff", "indefinite length"),
        ("9a 00010000", "a large count"),
        ("81 8301616103", "a comparison"),
    ] {
        assert!(Attributes::decode(&unhex(bytes)).is_err(), "{why}");
    }
}

#[test]
fn versions_are_kept_per_name_for_integers() {
    let mut versions = Versions::default();
    assert_eq!(versions.raise(&"ward=3".parse().unwrap()), Ok(1));
    assert_eq!(versions.raise(&"ward=4".parse().unwrap()), Ok(2));
    assert_eq!(versions.raise(&"role=nurse".parse().unwrap()), Ok(1));
    assert_eq!(versions.get(&"ward=9".parse().unwrap()), 2);
    assert_eq!(versions.get(&"role=doctor".parse().unwrap()), 0);
    assert_eq!(hex(&versions.encode()), "8282830064726f6c65656e75727365018283006477617264f602");
    assert_eq!(Versions::decode(&versions.encode()), Ok(versions.clone()));

    let key = "ward".parse().unwrap();
    versions.set(&key, u32::MAX).unwrap();
    assert_eq!(versions.raise(&key), Err(AttributeError::VersionExhausted));
    versions.set(&key, 0).unwrap();
    assert_eq!(versions.iter().count(), 1);
    let full = (0..4096).try_for_each(|n| versions.set(&Attribute::flag(&format!("a{n}")).unwrap(), 1));
    assert_eq!(full, Err(AttributeError::TooManyVersions));
}

#[test]
fn versions_decode_only_in_their_order() {
    for (bytes, why) in [
        ("81 82 83006161f6 00", "a zero"),
        ("81 82 8300616103 01", "an integer as key"),
        ("82 82 83006162f6 01 82 83006161f6 01", "not sorted"),
        ("82 82 83006161f6 01 82 83006161f6 01", "twice"),
        ("81 83 83006161f6 01 01", "three items"),
        ("81 82 83006161f6 1801", "longer integer"),
        ("81 82 83006161f6 01 00", "a byte left over"),
        ("99 1001", "more than 4096"),
    ] {
        assert!(Versions::decode(&unhex(bytes)).is_err(), "{why}");
    }
}

#[test]
fn labels_are_the_attributes_their_bits_and_the_epoch() {
    let mut versions = Versions::default();
    versions.set(&"level".parse().unwrap(), 5).unwrap();
    versions.set(&"role=nurse".parse().unwrap(), 2).unwrap();
    let labels = set(&["role=nurse", "level=3", "level=high"]).labels(&versions, 41);
    assert!(labels.is_sorted_by(|a, b| a < b));
    assert_eq!(labels.len(), 3 + 32 + 1);
    let shown: Vec<_> = labels.iter().map(|label| format!("{label:?}")).collect();
    for label in [
        "Label(role=nurse v2)",
        "Label(level=3 v5)",
        "Label(level=high v0)",
        "Label(level bit 0 = 1 v5)",
        "Label(level bit 31 = 0 v5)",
        "Label(epoch 41)",
    ] {
        assert!(shown.iter().any(|shown| shown == label), "{label} in {shown:?}");
    }
    for label in &labels {
        assert_eq!(Label::decode(label.as_bytes()).as_ref(), Ok(label));
    }
    for (bytes, why) in [
        ("85016161 1820 00 00", "bit 32"),
        ("85016161 00 02 00", "a bit of 2"),
        ("8202 1801", "longer integer"),
        ("8203f6", "a gate"),
        ("820201 f6", "a byte left over"),
    ] {
        assert!(Label::decode(&unhex(bytes)).is_err(), "{why}");
    }
}

#[test]
fn access_ends_with_the_epoch() {
    let versions = Versions::default();
    for (text, children) in
        [("a", 2), ("a and b", 3), ("a or b", 2), ("2 of (a, b, c)", 2), ("level>=0", 2), ("level>=3", 2)]
    {
        let Formula::And(parts) = policy(text).access(&versions, 9) else { panic!("{text}") };
        assert_eq!(parts.last(), Some(&Formula::Leaf(Label::epoch(9))), "{text}");
        assert_eq!(parts.len(), children, "{text}");
    }
}

#[test]
fn access_is_bounded_in_depth_and_leaves() {
    // The comparison with most gates, below as many gates as a policy may have.
    let formula = nested(DEPTH_MAX, Leaf::AtLeast { name: "a".into(), bound: 0x5555_5555 });
    let access = Policy::new(formula).unwrap().access(&Versions::default(), 1);
    assert!(access.depth() <= ACCESS_DEPTH_MAX && access.depth() > DEPTH_MAX + 28, "{}", access.depth());
    let widest = policy(&["level>=1"; LEAVES_MAX / 32].join(" and "));
    assert_eq!(widest.access(&Versions::default(), 1).leaf_count(), ACCESS_LEAVES_MAX);
}

#[test]
fn labellings_have_one_order_and_no_syntax_but_attributes() {
    let labelling = Labelling::parse("ward=$1, kind=reading,kind = reading , level=5").unwrap();
    assert_eq!(labelling.to_string(), "kind=reading, ward=$1, level=5", "sorted by bytes, each once");
    assert_eq!(Labelling::parse(&labelling.to_string()), Ok(labelling.clone()));
    assert_eq!(Labelling::decode(&labelling.encode()), Ok(labelling.clone()));
    assert_eq!(labelling.max_placeholder(), 1);
    assert_eq!(labelling.placeholder_names().collect::<Vec<_>>(), ["ward"]);
    for level in ["3", "3, admin", "$1", "x or y"] {
        let attributes = labelling.instantiate(&[level]).unwrap();
        let ward = Attribute::from_value("ward", level).unwrap();
        assert!(attributes.len() == 3 && attributes.contains(&ward), "{attributes}");
    }
    // A level may be what another label is already.
    let twice = Labelling::parse("ward=3, ward=$1").unwrap();
    assert_eq!(twice.instantiate(&["3"]).unwrap().to_string(), "ward=3");
    assert!(labelling.instantiate(&[]).is_err() && labelling.instantiate(&[""]).is_err());
    for bad in
        ["", "a,", ",a", "a b", "a and b", "a or b", "level>=5", "(a)b", "2 of (a, b)", "a=$0", "a=$65", "$1"]
    {
        assert!(Labelling::parse(bad).is_err(), "{bad}");
    }
    let many = |n: usize| (0..n).map(|i| format!("a{i}")).collect::<Vec<_>>().join(",");
    assert!(Labelling::parse(&many(64)).is_ok() && Labelling::parse(&many(65)).is_err());
    for (why, bytes) in [
        ("none", "80"),
        ("another order", "8283006162f683006161f6"),
        ("one twice", "8283006161f683006161f6"),
        ("a comparison", "818301616105"),
        ("a gate", "8182038283006161f683006162f6"),
        ("a placeholder of 0", "818300616181 00"),
        ("bytes left over", "8183006161f600"),
        ("no array", "83006161f6"),
    ] {
        assert!(Labelling::decode(&unhex(&bytes.replace(' ', ""))).is_err(), "{why}");
    }
}

#[test]
fn templates_put_a_level_in_as_one_value() {
    let template = Template::parse("role=nurse and (ward=$1 or bed=$2)").unwrap();
    assert_eq!(template.to_string(), "role=nurse and (ward=$1 or bed=$2)");
    assert_eq!(template.max_placeholder(), 2);
    assert_eq!(Template::decode(&template.encode()), Ok(template.clone()));
    let made = policy("role=nurse and (ward=3 or bed=12)");
    assert_eq!(template.instantiate(&["3", "12"]), Ok(made.clone()));
    assert_eq!(template.instantiate(&["3", "12", ""]), Ok(made));
    let missing = PolicyError::MissingLevel { placeholder: 2, levels: 1 };
    assert_eq!(template.instantiate(&["3"]), Err(missing));
    let constant = Template::parse("role=nurse").unwrap();
    assert_eq!((constant.max_placeholder(), constant.instantiate(&[])), (0, Ok(policy("role=nurse"))));
    assert_eq!(Template::from(&policy("role=nurse")), constant);
    let text = Template::parse("a=\"$1\"").unwrap();
    assert_eq!(text.instantiate(&[]).unwrap().to_string(), "a=\"$1\"");
}

#[test]
fn a_topic_level_cannot_change_the_policy() {
    let template = Template::parse("role=nurse and ward=$1").unwrap();
    let visitor = set(&["role=visitor", "x", "ward=3"]);
    for level in [
        "3 or role=visitor",
        "3) or (x",
        "3\" or \"x",
        "\"3\" or x",
        "3\\\" or x",
        "$1",
        "$2",
        "3 # ",
        "and",
        "x, y",
    ] {
        let made = template.instantiate(&[level]).unwrap();
        let ward = Attribute::from_value("ward", level).unwrap();
        assert_eq!(made.formula().leaf_count(), 2, "{level}");
        assert!(made.attributes().contains(&ward), "{level}");
        assert!(!made.satisfied_by(&visitor), "{level}");
        assert!(made.satisfied_by(&Attributes::new([ward, "role=nurse".parse().unwrap()]).unwrap()));
        assert_eq!(policy(&made.to_string()), made, "{level}");
        assert_eq!(Policy::decode(&made.encode()), Ok(made), "{level}");
    }
    for level in ["", "a\nb", "\0", "\u{9f}", &"v".repeat(257)] {
        let error = template.instantiate(&[level]).unwrap_err();
        assert!(matches!(error, PolicyError::Level { placeholder: 1, .. }), "{level:?}: {error}");
    }
}

#[test]
fn placeholders_stand_only_for_values() {
    for (text, column) in [
        ("$1", 1),
        ("$1=3", 1),
        ("level>=$1", 8),
        ("ward=$", 6),
        ("ward=$0", 6),
        ("ward=$01", 6),
        ("ward=$65", 6),
        ("ward=$x", 6),
        ("ward=$99999999999", 6),
        ("$2 of (a, b)", 1),
        ("a $1", 3),
    ] {
        let error = Template::parse(text).expect_err(text);
        assert_eq!(error.column(), column, "{text}: {error}");
    }
    assert!(Template::parse("ward=$64").is_ok());
}

/// Words that tempt a parser.
fn word() -> impl Strategy<Value = String> + Clone {
    const TEMPTING: [&str; 18] = [
        "and", "OR", "of", "not", "$1", "\"", "\\", "a b", "2", "03", "(", ")", "a=b", ",", "é", "≥",
        "\u{301}", "\u{202e}",
    ];
    prop_oneof![
        4 => "[a-d]",
        2 => "[a-z0-9_.:/@+-]{1,8}",
        2 => select(&TEMPTING[..]).prop_map(String::from),
        1 => "\\PC{1,6}",
    ]
}

/// Integers at which comparisons turn.
fn integer() -> impl Strategy<Value = u32> + Clone {
    prop_oneof![
        0..8u32,
        any::<u32>(),
        (0..32u32).prop_map(|bit| 1 << bit),
        (0..32u32).prop_map(|bit| u32::MAX >> bit),
        (0..32u32).prop_map(|bit| u32::MAX << bit),
    ]
}

fn attribute() -> impl Strategy<Value = Attribute> {
    prop_oneof![
        word().prop_map(|name| Attribute::flag(&name).unwrap()),
        ("[a-c]", 0..4u32).prop_map(|(name, n)| Attribute::int(&name, n).unwrap()),
        (word(), word()).prop_map(|(name, value)| Attribute::from_value(&name, &value).unwrap()),
    ]
}

/// Policies of a few leaves of all kinds.
fn any_policy() -> impl Strategy<Value = Policy> {
    let leaf = prop_oneof![
        3 => attribute().prop_map(Leaf::Attribute),
        1 => (word(), integer()).prop_map(|(name, bound)| Leaf::AtLeast { name, bound }),
        1 => (word(), integer()).prop_map(|(name, bound)| Leaf::AtMost { name, bound }),
    ];
    let formula = leaf.prop_map(Formula::Leaf).prop_recursive(4, 8, 3, |inner| {
        let children = || prop::collection::vec(inner.clone(), 1..4);
        prop_oneof![
            children().prop_map(Formula::And),
            children().prop_map(Formula::Or),
            (children(), any::<u32>())
                .prop_map(|(of, k)| Formula::Threshold { k: k % of.len() as u32 + 1, of }),
        ]
    });
    formula.prop_filter_map("too many leaves", |formula| Policy::new(formula).ok())
}

/// The same cases in every run.
fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 128,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(7),
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn what_prints_reads_back(policy in any_policy()) {
        let text = policy.to_string();
        prop_assert_eq!(Policy::parse(&text), Ok(policy.clone()), "{}", text);
        prop_assert_eq!(Policy::decode(&policy.encode()), Ok(policy));
    }

    #[test]
    fn attributes_read_back(attribute in attribute()) {
        prop_assert_eq!(attribute.to_string().parse(), Ok(attribute.clone()));
        prop_assert_eq!(Attribute::decode(&attribute.encode()), Ok(attribute));
    }

    #[test]
    fn bits_compare_as_integers_do(value in integer(), bound in integer(), near in -1i64..2) {
        // Most mistakes are one off the bound.
        for value in [value, (i64::from(bound) + near).clamp(0, u32::MAX.into()) as u32] {
            let holder = Attributes::new([Attribute::int("n", value).unwrap()]).unwrap();
            let labels: BTreeSet<_> = holder.labels(&Versions::default(), 1).into_iter().collect();
            for (leaf, holds) in [
                (Leaf::AtLeast { name: "n".into(), bound }, value >= bound),
                (Leaf::AtMost { name: "n".into(), bound }, value <= bound),
            ] {
                let policy = Policy::new(Formula::Leaf(leaf)).unwrap();
                let access = policy.access(&Versions::default(), 1);
                prop_assert_eq!(access.satisfied_by(&|label| labels.contains(label)), holds, "{}", policy);
                prop_assert_eq!(policy.satisfied_by(&holder), holds);
                prop_assert_eq!(access.leaf_count(), policy.leaf_cost() + 1);
                prop_assert_eq!(access.clone().canonical(), Ok(access));
            }
        }
    }

    #[test]
    fn labels_satisfy_what_attributes_satisfy(
        policy in any_policy(),
        others in prop::collection::vec(attribute(), 0..6),
        picks in prop::collection::vec(any::<Index>(), 0..6),
        integers in prop::collection::vec(("[a-d]", integer()), 0..4),
        version in 0..3u32,
        epoch in any::<u64>(),
    ) {
        // Attributes of the policy itself, so that it is sometimes satisfied.
        let wanted: Vec<_> = policy.attributes().into_iter().cloned().collect();
        let picked = picks.iter().filter(|_| !wanted.is_empty()).map(|pick| pick.get(&wanted).clone());
        let integers = integers.iter().map(|(name, n)| Attribute::int(name, *n).unwrap());
        let holder = Attributes::new(picked.chain(others).chain(integers)).unwrap();
        let mut versions = Versions::default();
        for key in policy.version_keys() {
            versions.set(&key, version).unwrap();
        }
        let labels: BTreeSet<_> = holder.labels(&versions, epoch).into_iter().collect();
        let held = |label: &Label| labels.contains(label);
        let holds = policy.satisfied_by(&holder);
        prop_assert_eq!(policy.access(&versions, epoch).satisfied_by(&held), holds);
        prop_assert_eq!(policy.explain(&holder).satisfied(), holds);
        // Keys of another epoch, or of before a revocation, have nothing.
        prop_assert!(!policy.access(&versions, epoch ^ 1).satisfied_by(&held));
        for key in policy.version_keys() {
            versions.raise(&key).unwrap();
        }
        prop_assert!(!policy.access(&versions, epoch).satisfied_by(&held));
    }

    #[test]
    fn any_text_is_a_policy_or_an_error(text in "\\PC{0,40}|[ab()=<>,$\"\\\\ 12andorf]{0,40}") {
        match Policy::parse(&text) {
            Ok(policy) => prop_assert_eq!(Policy::parse(&policy.to_string()), Ok(policy)),
            Err(error) => prop_assert!(error.report().to_string().contains('^')),
        }
        if let Ok(template) = Template::parse(&text) {
            prop_assert_eq!(Template::parse(&template.to_string()), Ok(template));
        }
        if let Ok(attributes) = text.parse::<Attributes>() {
            prop_assert_eq!(attributes.to_string().parse(), Ok(attributes));
        }
    }

    #[test]
    fn any_bytes_decode_to_what_encodes_them(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        check_bytes(&bytes)?;
    }

    #[test]
    fn changed_bytes_decode_to_what_encodes_them(
        policy in any_policy(), at in any::<Index>(), byte in any::<u8>(),
    ) {
        let mut bytes = policy.encode();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        check_bytes(&bytes)?;
        check_bytes(&bytes[..at])?;
    }
}

/// What decodes at all encodes to the same bytes.
fn check_bytes(bytes: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(policy) = Policy::decode(bytes) {
        prop_assert_eq!(policy.encode(), bytes);
        prop_assert_eq!(Policy::parse(&policy.to_string()), Ok(policy));
    }
    if let Ok(template) = Template::decode(bytes) {
        prop_assert_eq!(template.encode(), bytes);
    }
    if let Ok(attributes) = Attributes::decode(bytes) {
        prop_assert_eq!(attributes.encode(), bytes);
    }
    if let Ok(versions) = Versions::decode(bytes) {
        prop_assert_eq!(versions.encode(), bytes);
    }
    if let Ok(label) = Label::decode(bytes) {
        prop_assert_eq!(label.as_bytes(), bytes);
    }
    Ok(())
}
