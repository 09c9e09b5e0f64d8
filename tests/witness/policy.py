"""Policies, their text and canonical form, and the access formula: PROTOCOL.md, section 4.

A policy is its CBOR: `[0, name, value]`, `[1, name, bound]`, `[2, name, bound]`, `[3, children]`, `[4, children]`,
`[5, k, children]`. An access formula has the same gates and labels as bytes for leaves. In a template a value may be
`[n]`, for `$n`.
"""

import re
from collections import Counter

import cbor
import labels
from answers import Refused, demand
from labels import BITS, UINT32_MAX, Versions
from words import Reader, word

ATTRIBUTE, AT_LEAST, AT_MOST, AND, OR, K_OF = range(6)
DEPTH_MAX = 32
LEAVES_MAX = 256
OCCURRENCES_MAX = 16
PLACEHOLDER_MAX = 64
POLICY_BYTES_MAX = 16_384
POLICY_CBOR_BYTES_MAX = 32_768
ACCESS_DEPTH_MAX = 64
ACCESS_LEAVES_MAX = 257


# Gates, the same for policies and access formulas.


def is_gate(node) -> bool:
    return isinstance(node, list) and node[0] in (AND, OR, K_OF)


def children(node) -> list:
    return node[-1]


def leaves(node) -> list:
    """From left to right."""
    if not is_gate(node):
        return [node]
    return [leaf for child in children(node) for leaf in leaves(child)]


def depth(node) -> int:
    """Gates from root to leaf."""
    return 1 + max(depth(child) for child in children(node)) if is_gate(node) else 0


def k_of(k: int, parts: list) -> list:
    """The canonical gate over canonical children."""
    demand(len(parts) > 0, "EmptyGate")
    demand(1 <= k <= len(parts), "Threshold")
    if len(parts) == 1:
        return parts[0]
    if k == 1:
        return [OR, flat(OR, parts)]
    if k == len(parts):
        return [AND, flat(AND, parts)]
    return [K_OF, k, parts]


def and_(*parts) -> list:
    return k_of(len(parts), list(parts))


def or_(*parts) -> list:
    return k_of(1, list(parts))


def flat(kind: int, parts: list) -> list:
    """Children of the same kind replaced by their children."""
    found = []
    for part in parts:
        found.extend(children(part) if is_gate(part) and part[0] == kind else [part])
    return found


def check_shape(node, leaf) -> list:
    """Decoded CBOR made of gates and leaves, which `leaf` checks, and canonical."""
    if not (cbor.is_array(node) and len(node) > 0 and cbor.is_uint(node[0], K_OF) and node[0] >= AND):
        leaf(node)
        return node
    demand(len(node) == (3 if node[0] == K_OF else 2) and cbor.is_array(node[-1]), "Malformed", "no gate")
    parts = [check_shape(child, leaf) for child in node[-1]]
    if node[0] == K_OF:
        demand(cbor.is_uint(node[1]), "Malformed", "no threshold")
        canonical = k_of(node[1], parts)
    else:
        canonical = and_(*parts) if node[0] == AND else or_(*parts)
    demand(canonical == node, "Malformed", "not canonical")
    return node


# Policies.


def decode(data: bytes, template: bool = False) -> list:
    """A policy from its one encoding."""
    demand(len(data) <= POLICY_CBOR_BYTES_MAX, "Malformed", "too long")
    return check_bounds(check_shape(cbor.decode(data), lambda item: check_leaf(item, template)))


def check_leaf(item, template: bool) -> None:
    demand(cbor.is_array(item, 3) and cbor.is_uint(item[0], AT_MOST), "Malformed", "no leaf")
    kind, name, value = item
    if kind != ATTRIBUTE:
        labels.attribute(name, None)
        demand(cbor.is_uint(value, UINT32_MAX), "Malformed", "no bound")
    elif template and cbor.is_array(value, 1):
        labels.attribute(name, None)
        demand(cbor.is_uint(value[0], PLACEHOLDER_MAX) and value[0] > 0, "Malformed", "no placeholder")
    else:
        labels.attribute(name, value)


def check_bounds(policy: list) -> list:
    demand(depth(policy) <= DEPTH_MAX, "TooDeep")
    demand(cost(policy) <= LEAVES_MAX, "TooManyLeaves")
    demand(len(cbor.encode(policy)) <= POLICY_CBOR_BYTES_MAX, "TooLong")
    demand(len(text(policy).encode()) <= POLICY_BYTES_MAX, "TooLong")
    # Comparisons of one name count together, an attribute with each value alone.
    counts = Counter(
        str(leaf) if leaf[0] == ATTRIBUTE else f"comparisons of {leaf[1]}" for leaf in leaves(policy)
    )
    demand(max(counts.values()) <= OCCURRENCES_MAX, "Repeated")
    return policy


def cost(policy: list) -> int:
    return sum(leaf_cost(leaf) for leaf in leaves(policy))


def leaf_cost(leaf: list) -> int:
    """The number of labels that the leaf becomes."""
    kind, _, bound = leaf
    if kind == ATTRIBUTE:
        return 1
    ones = bound if kind == AT_LEAST else bound ^ UINT32_MAX
    return 2 if ones == 0 else BITS - lowest_one(ones)


def lowest_one(number: int) -> int:
    return next(i for i in range(BITS) if number >> i & 1)


def text(policy: list) -> str:
    """As it is printed."""
    kind = policy[0]
    if kind == ATTRIBUTE:
        _, name, value = policy
        if value is None:
            return word(name)
        if isinstance(value, list):
            return f"{word(name)}=${value[0]}"
        return f"{word(name)}={value if isinstance(value, int) else word(value)}"
    if kind in (AT_LEAST, AT_MOST):
        return f"{word(policy[1])}{'>=' if kind == AT_LEAST else '<='}{policy[2]}"
    parts = [text(child) for child in children(policy)]
    if kind == K_OF:
        return f"{policy[1]} of ({', '.join(parts)})"
    if kind == OR:
        return " or ".join(parts)
    return " and ".join(
        f"({part})" if child[0] == OR else part for child, part in zip(children(policy), parts)
    )


def parse(source: str, template: bool = False) -> list:
    """A policy from text."""
    demand(len(source.encode()) <= POLICY_BYTES_MAX, "TooLong")
    reader = Reader(source)
    policy = parse_policy(reader, template, 0)
    reader.expect("end")
    return check_bounds(policy)


def parse_policy(reader: Reader, template: bool, brackets: int) -> list:
    parts = [parse_and_list(reader, template, brackets)]
    while reader.accept("keyword", "or"):
        parts.append(parse_and_list(reader, template, brackets))
    return or_(*parts)


def parse_and_list(reader: Reader, template: bool, brackets: int) -> list:
    parts = [parse_part(reader, template, brackets)]
    while reader.accept("keyword", "and"):
        parts.append(parse_part(reader, template, brackets))
    return and_(*parts)


def parse_part(reader: Reader, template: bool, brackets: int) -> list:
    if reader.accept("sign", "("):
        demand(brackets < DEPTH_MAX, "TooDeep")
        policy = parse_policy(reader, template, brackets + 1)
        reader.expect("sign", ")")
        return policy
    if reader.peek(1) == ("keyword", "of"):
        return parse_k_of(reader, template, brackets)
    return parse_leaf(reader, template)


def parse_k_of(reader: Reader, template: bool, brackets: int) -> list:
    kind, k = reader.next()
    demand(kind == "bare" and re.fullmatch("[0-9]+", k) is not None, "ThresholdNumber")
    reader.expect("keyword", "of")
    reader.expect("sign", "(")
    demand(brackets < DEPTH_MAX, "TooDeep")
    parts = [parse_policy(reader, template, brackets + 1)]
    while reader.accept("sign", ","):
        parts.append(parse_policy(reader, template, brackets + 1))
    reader.expect("sign", ")")
    return k_of(int(k), parts)


def parse_leaf(reader: Reader, template: bool) -> list:
    name = reader.word()
    if reader.peek()[0] != "operator":
        return labels.attribute(name, None)
    operator = reader.next()[1]
    if operator in ("=", "=="):
        kind, value = reader.peek()
        if kind != "placeholder":
            return labels.attribute(name, labels.value_of(reader.word()))
        reader.next()
        demand(template and int(value[1:]) <= PLACEHOLDER_MAX, "Placeholder")
        return labels.attribute(name, None)[:2] + [[int(value[1:])]]
    bound = labels.value_of(reader.word())
    demand(isinstance(bound, int), "NotAnInteger")
    bound += {">=": 0, "<=": 0, ">": 1, "<": -1}.get(operator, 2**33)
    demand(bound < 2**33, "UnknownOperator")
    demand(0 <= bound <= UINT32_MAX, "NoSuchValue")
    labels.attribute(name, None)
    return [AT_LEAST if operator[0] == ">" else AT_MOST, name, bound]


def instantiate(template: list, levels: list[str]) -> list:
    """The template with captured topic levels for its placeholders."""
    return check_bounds(replace(template, levels))


def replace(node: list, levels: list[str]) -> list:
    if is_gate(node):
        parts = [replace(child, levels) for child in children(node)]
        return k_of({AND: len(parts), OR: 1}.get(node[0], node[1]), parts)
    kind, name, value = node
    if not isinstance(value, list):
        return node
    demand(value[0] <= len(levels), "MissingLevel")
    try:
        return labels.attribute(name, labels.value_of(levels[value[0] - 1]))
    except Refused:
        raise Refused("Level") from None


def placeholder_max(template: list) -> int:
    """The highest `$n`, or 0."""
    return max(leaf[2][0] if isinstance(leaf[2], list) else 0 for leaf in leaves(template))


def satisfies(attributes: list, policy: list) -> bool:
    """Whether a set of attributes satisfies the policy, without any cryptography."""
    kind = policy[0]
    if kind == ATTRIBUTE:
        return policy in attributes
    if kind in (AT_LEAST, AT_MOST):
        value = labels.only_integer(attributes, policy[1])
        return value is not None and (value >= policy[2] if kind == AT_LEAST else value <= policy[2])
    satisfied = sum(satisfies(attributes, child) for child in children(policy))
    return satisfied >= {AND: len(children(policy)), OR: 1}.get(kind, policy[1])


# Access formulas.


def access(policy: list, versions: Versions, epoch: int):
    """The formula over labels that a suite works on."""
    return and_(over_labels(policy, versions), labels.epoch_label(epoch))


def over_labels(policy: list, versions: Versions):
    kind = policy[0]
    if kind == ATTRIBUTE:
        _, name, value = policy
        return cbor.encode([0, name, value, versions.of(name, value)])
    if kind == AT_LEAST:
        return compare(policy[1], policy[2], 1, versions.of(policy[1], None))
    if kind == AT_MOST:
        return compare(policy[1], policy[2] ^ UINT32_MAX, 0, versions.of(policy[1], None))
    parts = [over_labels(child, versions) for child in children(policy)]
    return k_of({AND: len(parts), OR: 1}.get(kind, policy[1]), parts)


def compare(name: str, ones: int, helps: int, version: int):
    """The bits of a comparison, from the lowest that matters upwards."""
    if ones == 0:
        return or_(labels.bit_label(name, 0, 0, version), labels.bit_label(name, 0, 1, version))
    i = lowest_one(ones)
    formula = labels.bit_label(name, i, helps, version)
    for i in range(i + 1, BITS):
        bit = labels.bit_label(name, i, helps, version)
        formula = and_(bit, formula) if ones >> i & 1 else or_(bit, formula)
    return formula


def check_access(formula):
    """An access formula from decoded CBOR, as a key of `fabeo-kp` has it: canonical and within bounds."""
    check_shape(formula, labels.check_label)
    demand(depth(formula) <= ACCESS_DEPTH_MAX, "TooDeep")
    demand(len(leaves(formula)) <= ACCESS_LEAVES_MAX, "TooManyLeaves")
    return formula
