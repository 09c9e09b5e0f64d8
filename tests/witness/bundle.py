"""The bundle, and what a broker answers a header with it: PROTOCOL.md, sections 12 and 13."""

from dataclasses import dataclass

import cbor
import certificates
import labels
import policy
import topics
from answers import Refused, demand
from envelope import Header, Signed
from labels import Versions
from topics import Rule, rule_for

BUNDLE_BYTES_MAX = 4 << 20
RULES_MAX = 1024
CLOCK_SKEW_SECONDS = 300
HEADER_SECONDS_MAX = 86_400
BUNDLE_EXTERNAL = b"SMQTT-V01 bundle"


@dataclass(frozen=True)
class Bundle:
    tenant: bytes
    number: int
    issued: int
    expires: int
    epoch: int
    begins: int
    ends: int
    grace: int
    rules: list[Rule]
    versions: Versions
    revoked: list[bytes]
    params: list[bytes]

    @classmethod
    def read(cls, data: bytes, root: bytes) -> "Bundle":
        """A bundle that is sound and signed by the authority."""
        demand(len(data) <= BUNDLE_BYTES_MAX, "Malformed", "too long")
        signed = Signed.decode(data)
        body = cbor.decode(signed.payload)
        demand(isinstance(body, dict) and list(body) == list(range(1, 13)), "Malformed", "fields")
        demand(cbor.is_bytes(body[1], 8) and all(cbor.is_uint(body[field]) for field in range(2, 9)), "Malformed")
        demand(cbor.is_array(body[9]) and len(body[9]) <= RULES_MAX, "Malformed", "rules")
        rules = [Rule.of(item) for item in body[9]]
        demand(len({rule.filter for rule in rules}) == len(rules), "Malformed", "two rules of one filter")
        demand(cbor.is_bytes(body[10]), "Malformed", "versions")
        for field in (11, 12):
            ids = body[field]
            demand(cbor.is_array(ids) and all(cbor.is_bytes(id, 16) for id in ids), "Malformed", "identifiers")
        labels.check_ascending(body[11], lambda id: id)
        bundle = cls(*(body[field] for field in range(1, 9)), rules, Versions.decode(body[10]), body[11], body[12])
        signer = certificates.identity(signed.certificate, root, bundle.issued)
        demand(signer.role == "authority" and signer.tenant == bundle.tenant, "Signature", "not the authority")
        certificates.check_signature(signer.key, signed.signature, signed.signed(BUNDLE_EXTERNAL))
        return bundle

    def check(self, header: Header, topic: str, now: int) -> str:
        """The word for what is wrong with a verified header on a topic, or `ok`: the table from `revoked` to `policy`."""
        in_grace = header.epoch == self.epoch - 1 and now < self.begins + self.grace
        if header.publisher in self.revoked:
            return "revoked"
        if header.params_id not in self.params:
            return "params"
        if header.epoch != self.epoch and not in_grace:
            return "epoch"
        named = header.attributes if header.policy is None else policy.leaves(header.policy)
        if header.versions.entries != looked_up(named, self.versions):
            return "version"
        if now >= header.expires:
            return "expired"
        if header.created > now + CLOCK_SKEW_SECONDS:
            return "clock"
        if header.created + CLOCK_SKEW_SECONDS < self.begins and not in_grace:
            return "clock"
        if not 1 <= header.expires - header.created <= HEADER_SECONDS_MAX:
            return "clock"
        if topics.captures(header.filter, topic) is None:
            return "filter"
        rule = rule_for(self.rules, topic)
        try:
            target = rule and rule.target(topic)
        except Refused:
            return "topic"
        if target is None:
            return "ok"
        theirs = header.policy if rule.template is not None else header.attributes
        return "ok" if theirs == target else "policy"


def looked_up(leaves: list, versions: Versions) -> list:
    """The entries of `versions` that the leaves of a policy, or attributes, look up."""
    keys = [labels.key_of(name, value) for _, name, value in leaves]
    return [entry for entry in versions.entries if entry[0] in keys]
