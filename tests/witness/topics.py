"""Topics, filters and the rule for a topic: PROTOCOL.md, section 5."""

from dataclasses import dataclass

import cbor
import labels
import policy
from answers import demand

TOPIC_BYTES_MAX = 65_535
FILTER_BYTES_MAX = 1024
OPEN, WARN, REQUIRED = range(3)


def check_filter(text, bytes_max: int = TOPIC_BYTES_MAX) -> str:
    """A filter of MQTT 5.0, section 4.7."""
    demand(isinstance(text, str) and 1 <= len(text.encode()) <= bytes_max and "\0" not in text, "Malformed", "no filter")
    levels = text.split("/")
    for place, level in enumerate(levels):
        demand("+" not in level or level == "+", "Malformed", "+ within a level")
        demand("#" not in level or (level == "#" and place == len(levels) - 1), "Malformed", "# not last")
    return text


def captures(filter: str, topic: str) -> list[str] | None:
    """The levels that the filter's + match, or None if it does not match the topic."""
    if topic.startswith("$") and filter[0] in "+#":
        return None
    patterns, levels, found = filter.split("/"), topic.split("/"), []
    for place, pattern in enumerate(patterns):
        if pattern == "#":
            return found
        if place == len(levels) or pattern not in ("+", levels[place]):
            return None
        if pattern == "+":
            found.append(levels[place])
    return found if len(patterns) == len(levels) else None


def nearness(filter: str) -> list[int]:
    """Nearer filters sort first, among those that match one topic."""
    return [{"+": 1, "#": 2}.get(level, 0) for level in filter.split("/")]


@dataclass(frozen=True)
class Rule:
    filter: str
    mode: int
    template: list | None
    labelling: list | None
    publishers: list | None
    subscribers: list | None

    @classmethod
    def of(cls, item) -> "Rule":
        """A rule from decoded CBOR."""
        demand(isinstance(item, dict) and {1, 2} <= item.keys() <= {1, 2, 3, 4, 5, 6}, "Malformed", "no rule")
        check_filter(item[1], FILTER_BYTES_MAX)
        demand(cbor.is_uint(item[2], REQUIRED), "Malformed", "no mode")
        policies = {}
        for field in (3, 4, 5):
            demand(field not in item or cbor.is_bytes(item[field]), "Malformed", "no policy")
            policies[field] = policy.decode(item[field], template=field == 3) if field in item else None
        demand(not {3, 6} <= item.keys(), "Malformed", "both a policy and labels")
        demand(item[2] != REQUIRED or item.keys() & {3, 6}, "Malformed", "required without a policy or labels")
        demand(6 not in item or cbor.is_bytes(item[6]), "Malformed", "no labelling")
        labelling = decode_labelling(item[6]) if 6 in item else None
        highest = max(policy.placeholder_max(leaf) for leaf in [policies[3] or [0, "", None]] + (labelling or []))
        demand(highest <= item[1].split("/").count("+"), "Malformed", "more placeholders than +")
        return cls(item[1], item[2], policies[3], labelling, policies[4], policies[5])

    def target(self, topic: str) -> list | None:
        """The policy, or the labels, that a sealed message on the topic must have."""
        levels = captures(self.filter, topic)
        if self.template is not None:
            return policy.instantiate(self.template, levels)
        if self.labelling is None:
            return None
        found = []
        for place in self.labelling:
            named = policy.replace(place, levels)
            found += [] if named in found else [named]
        return labels.sealable(sorted(found, key=labels.order))


def decode_labelling(data: bytes) -> list:
    """Attributes to seal under, with places for topic levels: PROTOCOL.md, section 4."""
    items = cbor.decode(data)
    demand(cbor.is_array(items) and 1 <= len(items) <= labels.ATTRIBUTES_MAX, "Malformed", "no labelling")
    for item in items:
        demand(cbor.is_array(item, 3) and cbor.is_uint(item[0], 0), "Malformed", "no labelling")
        policy.check_leaf(item, template=True)
    labels.check_ascending(items, cbor.encode)
    variable = {name for _, name, value in items if isinstance(value, list)}
    constant = sorted((item for item in items if item[1] not in variable), key=labels.order)
    if constant:
        labels.sealable(constant)
    return items


def rule_for(rules: list[Rule], topic: str) -> Rule | None:
    """The nearest rule whose filter matches."""
    matching = [rule for rule in rules if captures(rule.filter, topic) is not None]
    return min(matching, key=lambda rule: nearness(rule.filter), default=None)
