"""Topics, filters and the rule for a topic: PROTOCOL.md, section 5."""

from dataclasses import dataclass

import cbor
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
    publishers: list | None
    subscribers: list | None

    @classmethod
    def of(cls, item) -> "Rule":
        """A rule from decoded CBOR."""
        demand(isinstance(item, dict) and {1, 2} <= item.keys() <= {1, 2, 3, 4, 5}, "Malformed", "no rule")
        check_filter(item[1], FILTER_BYTES_MAX)
        demand(cbor.is_uint(item[2], REQUIRED), "Malformed", "no mode")
        policies = {}
        for field in (3, 4, 5):
            demand(field not in item or cbor.is_bytes(item[field]), "Malformed", "no policy")
            policies[field] = policy.decode(item[field], template=field == 3) if field in item else None
        if policies[3] is None:
            demand(item[2] != REQUIRED, "Malformed", "required without a policy")
        else:
            plus = item[1].split("/").count("+")
            demand(policy.placeholder_max(policies[3]) <= plus, "Malformed", "more placeholders than +")
        return cls(item[1], item[2], policies[3], policies[4], policies[5])


def rule_for(rules: list[Rule], topic: str) -> Rule | None:
    """The nearest rule whose filter matches."""
    matching = [rule for rule in rules if captures(rule.filter, topic) is not None]
    return min(matching, key=lambda rule: nearness(rule.filter), default=None)
