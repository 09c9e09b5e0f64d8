#!/usr/bin/env python3
"""An independent witness: both suites, written from PROTOCOL.md alone, against the frozen vectors.

    python3 -m pip install -r tests/witness/requirements.txt
    python3 tests/witness/test_vectors.py

Slow and obvious. Nothing here is fit for secrets: no constant time, nothing is wiped.
"""

import functools
import hashlib
import json
import multiprocessing
import sys
import unittest
from pathlib import Path

sys.dont_write_bytecode = True

import bundle
import cbor
import curve
import envelope
import fabeo
import labels
import policy
from answers import Refused
from enrolment import Token
from envelope import ContentKey, Header, Message
from fabeo import CP, KP, Key, Params
from labels import Versions
from policy import AND, K_OF, OR
from topics import Rule, rule_for

VECTORS = Path(__file__).resolve().parents[2] / "core/tests/vectors"
unhex = bytes.fromhex


def load(name: str) -> dict:
    return json.loads((VECTORS / name).read_text())


def answer(function, *arguments) -> str:
    """What a function that may refuse says: `ok` or the refusal."""
    try:
        function(*arguments)
        return "ok"
    except Refused as refused:
        return refused.answer


@functools.cache
def processes():
    """One for each core, for the whole run: they remember keys and pairings."""
    return multiprocessing.Pool()


def in_parallel(function, items: list) -> list:
    return processes().starmap(function, items, chunksize=1)


def hex32(scalar: int) -> str:
    return scalar.to_bytes(32, "big").hex()


def hex32s(scalars: list[int]) -> list[str]:
    return [hex32(scalar) for scalar in scalars]


class Witness(unittest.TestCase):
    maxDiff = None

    def check(self, vector: dict, made: dict, given: set[str]) -> None:
        """Every field of a vector was given to us or is made by us, so that none goes without a witness."""
        self.assertEqual(vector.keys(), made.keys() | given)
        for field, value in made.items():
            self.assertEqual(vector[field], value, field)


class PublishedValues(Witness):
    def test_hashing_to_g1_is_that_of_rfc_9380(self):
        """Appendix J.9.1."""
        tag = b"QUUX-V01-CS02-with-BLS12381G1_XMD:SHA-256_SSWU_RO_"
        expected = {
            b"": (
                0x052926ADD2207B76CA4FA57A8734416C8DC95E24501772C814278700EED6D1E4E8CF62D9C09DB0FAC349612B759E79A1,
                0x08BA738453BFED09CB546DBB0783DBB3A5F1F566ED67BB6BE0E8C67E2E81A4CC68EE29813BB7994998F3EAE0C9C6A265,
            ),
            b"abc": (
                0x03567BC5EF9C690C2AB2ECDF6A96EF1C139CC0B2F284DCA0A9A7943388A49A3AEE664BA5379A7655D3C68900BE2F6903,
                0x0B9C15F3FE6E5CF4211F346271D7B01C8F3B28BE689C8429C85B67AF215533311F0B8DFAAA154FA6B88176C229F2885D,
            ),
            b"abcdef0123456789": (
                0x11E0B079DEA29A68F0383EE94FED1B940995272407E3BB916BBF268C263DDD57A6A27200A784CBC248E84F357CE82D98,
                0x03A87AE2CAF14E8EE52E51FA2ED8EEFE80F02457004BA4D486D6AA1F517C0889501DC7413753F9599B099EBCBBD2D709,
            ),
        }
        for message, point in expected.items():
            x, y = curve.normalize(curve.hash_to_g1(message, tag))
            self.assertEqual((x.n, y.n), point, message)

    def test_the_pairing_is_the_protocols(self):
        data = curve.encode_gt(curve.pairings([(curve.g1, curve.g2)]))
        self.assertEqual(
            data[:48].hex(),
            "1250ebd871fc0a92a7b2d83168d0d727272d441befa15c503dd8e90ce98db3e7b6d194f60839c508a84305aaca1789b6",
        )
        self.assertEqual(
            hashlib.sha256(data).hexdigest(), "06fa588b89fdfb034dbc1c163ecb3dfac228f552b643c7294cc5f2c4dc170b84"
        )
        self.assertEqual(curve.encode_gt(curve.decode_gt(data)), data)

    def test_points_come_back_as_they_were_written(self):
        for exponent in range(1, 5):
            for one, encode, decode in (
                (curve.g1, curve.encode_g1, curve.decode_g1),
                (curve.g2, curve.encode_g2, curve.decode_g2),
            ):
                data = encode(curve.power(one, exponent))
                self.assertEqual(encode(curve.check_group(decode(data))), data)

    def test_cbor_has_one_spelling(self):
        for spelling in ("1803", "190003", "5801ff", "9f03ff", "5f41ff41ffff", "a202000100", "a201000100", "f97e00",
                         "f7", "f818", "0000", "", "61ff", "8203", "bf0100ff", "c11803"):  # fmt: skip
            self.assertEqual(answer(cbor.decode, unhex(spelling)), "Malformed", spelling)
        for spelling in ("00", "17", "1818", "190100", "1a00010000", "1bffffffffffffffff", "26", "40", "6161", "80", "a0",
                         "a2010002f6", "da534d515480", "f4", "f5"):  # fmt: skip
            self.assertEqual(cbor.encode(cbor.decode(unhex(spelling))).hex(), spelling)


class Policies(Witness):
    @classmethod
    def setUpClass(cls):
        cls.vectors = load("policy.json")

    def test_good(self):
        for vector in self.vectors["good"]:
            with self.subTest(vector["text"]):
                parsed = policy.parse(vector["text"])
                made = {
                    "canonical": policy.text(parsed),
                    "cbor": cbor.encode(parsed).hex(),
                    "leaf_cost": policy.cost(parsed),
                    "access_in_epoch_7": cbor.encode(policy.access(parsed, Versions([]), 7)).hex(),
                }
                self.check(vector, made, {"text"})
                self.assertEqual(policy.parse(vector["canonical"]), parsed)
                self.assertEqual(policy.decode(unhex(vector["cbor"])), parsed)
                self.assertEqual(policy.cost(parsed) + 1, len(policy.leaves(policy.access(parsed, Versions([]), 7))))

    def test_broken_texts(self):
        for vector in self.vectors["broken_texts"]:
            self.assertNotEqual(answer(policy.parse, vector["text"]), "ok", vector)

    def test_broken_cbor(self):
        for vector in self.vectors["broken_cbor"]:
            self.assertNotEqual(answer(policy.decode, unhex(vector["cbor"])), "ok", vector["what"])

    def test_sets(self):
        for vector in self.vectors["sets"]:
            attributes = labels.parse_attributes(vector["attributes"])
            versions = Versions.decode(unhex(vector["versions"]))
            made = {
                "cbor": cbor.encode(attributes).hex(),
                "labels_in_epoch_7": [label.hex() for label in labels.labels(attributes, versions, 7)],
                "versions": versions.encode().hex(),
            }
            self.check(vector, made, {"attributes"})

    def test_templates(self):
        for vector in self.vectors["templates"]:
            template = policy.parse(vector["text"], template=True)
            try:
                instance = policy.text(policy.instantiate(template, vector["levels"]))
            except Refused as refused:
                instance = f"error: {refused.answer}"
            made = {"cbor": cbor.encode(template).hex(), "policy": instance}
            self.check(vector, made, {"text", "levels"})
            self.assertEqual(policy.decode(unhex(vector["cbor"]), template=True), template)

    def test_a_formula_is_satisfied_by_the_labels_of_the_sets_that_satisfy_its_policy(self):
        texts = [
            "n>=0", "n<=4294967295", "n>=1", "n<=0", "n>=6", "n<=6", "n>5 and n<9", "n=6", "2 of (n>=7, n<=7, a)",
            "n>=4294967295", "n>=2147483648 or a", "n<=2147483647", "a and (a or b)",
        ]  # fmt: skip
        sets = ["", "a", "n", "n=6, n=8", "a, n=6, n=8", "n=3, a, b"]
        sets += [f"n={value}" for value in (0, 1, 5, 6, 7, 8, 9, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1)]
        versions = Versions([[[0, "n", None], 3]])
        for text in texts:
            for attributes in sets:
                parsed, held = policy.parse(text), labels.parse_attributes(attributes)
                omega = fabeo.choose(policy.access(parsed, versions, 7), set(labels.labels(held, versions, 7)))
                self.assertEqual(policy.satisfies(held, parsed), omega is not None, (text, attributes))
                self.assertIsNone(fabeo.choose(policy.access(parsed, versions, 8), set(labels.labels(held, versions, 7))))


# Work for other processes: these take and return plain values.


def decode_params(data: str) -> str:
    return answer(Params.decode, unhex(data))


def decode_key(data: str) -> str:
    return answer(Key.decode, unhex(data))


def versions_of(vector: dict) -> Versions:
    return Versions.decode(unhex(vector.get("versions", "80")))


def access_of(vector: dict):
    return policy.access(policy.parse(vector["policy"]), versions_of(vector), vector["epoch"])


def labels_of(vector: dict) -> list[bytes]:
    return labels.labels(labels.parse_attributes(vector["attributes"]), versions_of(vector), vector["epoch"])


def scope_of(suite: str, vector: dict):
    """What an encapsulation is under."""
    return access_of(vector) if suite == CP else labels_of(vector)


def decapsulate(params: str, key: str, vector: dict, context: str, encapsulation: str) -> str:
    """The secret, or the refusal."""
    params, key = Params.decode(unhex(params)), Key.decode(unhex(key))
    try:
        return fabeo.decapsulate(params, key, scope_of(params.suite, vector), unhex(context), unhex(encapsulation)).hex()
    except Refused as refused:
        return refused.answer


def make_key(params: str, alpha: int, vector: dict) -> dict:
    """Every field of a key's vector that is not given."""
    params, coins, epoch = Params.decode(unhex(params)), unhex(vector["coins"]), vector["epoch"]
    if params.suite == CP:
        held = labels_of(vector)
        t, key = fabeo.keygen_cp(params, alpha, coins, held, epoch)
        return {"labels": [label.hex() for label in held], "t": hex32(t), "key": key.encode().hex()}
    access = access_of(vector)
    made = fabeo.keygen_kp(params, alpha, coins, access, epoch)
    return {
        "access": cbor.encode(access).hex(),
        "drawn": hex32s(made.drawn),
        "shares": hex32s(made.shares),
        "per_occurrence": hex32s(made.per_occurrence),
        "occurrences": fabeo.occurrences(policy.leaves(access)),
        "key": made.key.encode().hex(),
    }


def make_encapsulation(params: str, vector: dict) -> dict:
    """Every field of an encapsulation's vector that is not given."""
    params = Params.decode(unhex(params))
    scope = scope_of(params.suite, vector)
    made = fabeo.encapsulate(params, scope, unhex(vector["context"]), unhex(vector["m"]))
    fields = {
        "s": hex32(made.s),
        "c": made.c.hex(),
        "shared_element": made.shared_element.hex(),
        "mask": made.mask.hex(),
        "d": made.d.hex(),
        "encapsulation": made.encapsulation.hex(),
        "secret": made.secret.hex(),
    }
    if params.suite == CP:
        fields |= {
            "access": cbor.encode(scope).hex(),
            "drawn": hex32s(made.drawn),
            "shares": hex32s(made.shares),
            "per_occurrence": hex32s(made.per_occurrence),
            "occurrences": fabeo.occurrences(policy.leaves(scope)),
        }
    else:
        fields |= {"labels": [label.hex() for label in scope]}
    return fields


class Suite:
    """What is tested of both suites."""

    suite: str
    file: str
    key_given: set[str]
    encapsulation_given: set[str]

    @classmethod
    def setUpClass(cls):
        cls.vectors = load(cls.file)
        cls.params = cls.vectors["setup"]["params"]

    def test_setup(self):
        vector = self.vectors["setup"]
        alpha, params = fabeo.setup(self.suite, unhex(vector["coins"]))
        made = {"alpha": hex32(alpha), "params": params.encode().hex(), "params_id": params.id.hex()}
        self.check(vector, made, {"coins"})
        self.assertEqual(decode_params(self.params), "ok")

    def test_hashing(self):
        if self.suite == CP:
            self.assertEqual(self.vectors["b"], curve.encode_g1(fabeo.b_point()).hex())
        for vector in self.vectors["hash"]:
            point = curve.encode_g1(fabeo.label_point(self.suite, labels.check_label(unhex(vector["label"]))))
            self.check(vector, {"point": point.hex()}, {"label", "meaning"})

    def test_keys_are_made(self):
        alpha = int(self.vectors["setup"]["alpha"], 16)
        vectors = self.vectors["keys"]
        for vector, made in zip(vectors, in_parallel(make_key, [(self.params, alpha, vector) for vector in vectors])):
            self.check(vector, made, self.key_given)

    def test_encapsulations_are_made(self):
        vectors = self.vectors["encapsulations"]
        for vector, made in zip(vectors, in_parallel(make_encapsulation, [(self.params, vector) for vector in vectors])):
            self.check(vector, made, self.encapsulation_given)

    def test_every_key_on_every_encapsulation(self):
        """Those that satisfy the policy open it, and the others are told so."""
        pairs = [(key, vector) for vector in self.vectors["encapsulations"] for key in self.vectors["keys"]]
        answers = in_parallel(
            decapsulate,
            [(self.params, key["key"], vector, vector["context"], vector["encapsulation"]) for key, vector in pairs],
        )
        opened = 0
        for (key, vector), found in zip(pairs, answers):
            policied, holder = (vector, key) if self.suite == CP else (key, vector)
            fits = key["epoch"] == vector["epoch"] and same_versions(policied, holder)
            fits = fits and policy.satisfies(
                labels.parse_attributes(holder["attributes"]), policy.parse(policied["policy"])
            )
            self.assertEqual(found, vector["secret"] if fits else "NotSatisfied", (policied["policy"], holder["attributes"]))
            opened += fits
        self.assertGreaterEqual(opened, len(self.vectors["encapsulations"]))

    def test_broken_encapsulations(self):
        first, key = self.vectors["encapsulations"][0], self.vectors["keys"][0]["key"]
        vectors = self.vectors["broken"]
        work = [(self.params, key, first, first["context"], vector["encapsulation"]) for vector in vectors]
        for vector, found in zip(vectors, in_parallel(decapsulate, work)):
            self.assertEqual(found, vector["error"], vector["what"])

    def test_broken_scopes(self):
        """The first encapsulation under another policy, other labels, another epoch."""
        first = self.vectors["encapsulations"][0]
        vectors = self.vectors["broken_scopes"]
        work = [
            (self.params, self.vectors["keys"][vector["key"]]["key"], vector, first["context"], first["encapsulation"])
            for vector in vectors
        ]
        for vector, found in zip(vectors, in_parallel(decapsulate, work)):
            self.assertEqual(found, vector["error"], vector["what"])

    def test_broken_params(self):
        for vector in self.vectors["broken_params"]:
            self.assertNotEqual(decode_params(vector["params"]), "ok", vector["what"])

    def test_broken_keys(self):
        for vector in self.vectors["broken_keys"]:
            self.assertNotEqual(decode_key(vector["key"]), "ok", vector["what"])


def same_versions(policied: dict, holder: dict) -> bool:
    """Whether the versions that the policy's leaves look up are those under which the holder's labels were made."""
    parsed = policy.parse(policied["policy"])
    named = policy.leaves(parsed)
    return bundle.looked_up(named, versions_of(policied)) == bundle.looked_up(named, versions_of(holder))


class FabeoCp(Suite, Witness):
    suite, file = CP, "fabeo-cp.json"
    key_given = {"attributes", "versions", "epoch", "coins"}
    encapsulation_given = {"policy", "versions", "epoch", "context", "m"}


class FabeoKp(Suite, Witness):
    suite, file = KP, "fabeo-kp.json"
    key_given = {"policy", "versions", "epoch", "coins"}
    encapsulation_given = {"attributes", "versions", "epoch", "context", "m"}


class FabeoKpOfOurOwn(Witness):
    """What the vectors of `fabeo-kp` leave out."""

    @classmethod
    def setUpClass(cls):
        cls.alpha, cls.params = fabeo.setup(KP, bytes([1] * 32))

    def test_labels_out_of_order_are_refused(self):
        held = labels.labels(labels.parse_attributes("a, b"), Versions([]), 7)
        made = fabeo.encapsulate(self.params, held, b"", bytes(32))
        key = fabeo.keygen_kp(self.params, self.alpha, bytes(32), held[0], 7).key
        self.assertEqual(fabeo.decapsulate(self.params, key, held, b"", made.encapsulation), made.secret)
        found = answer(fabeo.decapsulate, self.params, key, held[::-1], b"", made.encapsulation)
        self.assertEqual(found, "Malformed")

    def test_a_key_of_one_suite_is_none_of_the_other(self):
        _, params = fabeo.setup(CP, bytes([1] * 32))
        access = policy.access(policy.parse("a"), Versions([]), 7)
        key = fabeo.keygen_kp(self.params, self.alpha, bytes(32), access, 7).key
        made = fabeo.encapsulate(params, access, b"", bytes(32))
        self.assertEqual(answer(fabeo.decapsulate, params, key, access, b"", made.encapsulation), "OtherParams")

    def test_formulas_of_keys_are_canonical(self):
        leaf = labels.epoch_label(7)
        good = fabeo.keygen_kp(self.params, self.alpha, bytes(32), [OR, [leaf, leaf]], 7).key
        self.assertEqual(answer(Key.decode, good.encode()), "ok")
        for formula in ([AND, [leaf]], [OR, [leaf, [OR, [leaf, leaf]]]], [K_OF, 1, [leaf, leaf]], [K_OF, 3, [leaf, leaf]], [OR, []],
                        [6, [leaf, leaf]], b"", [2, 7], [OR, [leaf] * 258]):  # fmt: skip
            data = cbor.encode([KP, self.params.id, 7, formula, good.material])
            self.assertNotEqual(answer(Key.decode, data), "ok", formula)


class Envelopes(Witness):
    @classmethod
    def setUpClass(cls):
        cls.vectors = load("envelope.json")
        cls.root = unhex(cls.vectors["root"])

    def kinds(self):
        """A header under a policy, one whose messages are signed, one under labels: the vectors, root and params of each."""
        for vectors in (self.vectors, self.vectors["signed"], self.vectors["labels"]):
            with self.subTest(vectors["header"]["kid"]):
                site = vectors if "root" in vectors else self.vectors
                yield vectors, unhex(site["root"]), Params.decode(unhex(site["params"]))

    def test_headers(self):
        for vectors, root, params in self.kinds():
            vector = vectors["header"]
            header = Header.parse(unhex(vector["bytes"]))
            header.verify(root)
            made = fabeo.encapsulate(params, scope_of(params.suite, vector), envelope.HEADER_EXTERNAL, unhex(vector["m"]))
            under, attributes = None, None
            if params.suite == CP:
                under = cbor.encode(policy.parse(vector["policy"]))
                target = {"policy": policy.text(header.policy)}
            else:
                attributes = cbor.encode(labels.parse_attributes(vector["attributes"]))
                target = {"attributes": ", ".join(policy.text(attribute) for attribute in header.attributes)}
            payload = envelope.header_body(
                {
                    1: params.suite, 2: params.id, 3: vector["epoch"], 4: unhex(vector["versions"]), 5: under,
                    6: made.encapsulation, 7: unhex(vector["publisher"]), 8: vector["created"], 9: vector["expires"],
                    10: vector["filter"], 11: True if vector["messages_are_signed"] else None, 12: attributes,
                }
            )  # fmt: skip
            self.assertEqual(header.signed.payload, payload)
            fields = {
                "hash": header.hash.hex(),
                "kid": header.kid.hex(),
                "epoch": header.epoch,
                "versions": header.versions.encode().hex(),
                "encapsulation": made.encapsulation.hex(),
                "publisher": header.publisher.hex(),
                "created": header.created,
                "expires": header.expires,
                "filter": header.filter,
                "messages_are_signed": header.messages_are_signed,
                "secret": made.secret.hex(),
            }
            self.check(vector, fields | target, {"bytes", "m"})

    def test_messages(self):
        for vectors, root, _ in self.kinds():
            header = Header.parse(unhex(vectors["header"]["bytes"]))
            publisher = header.verify(root)
            content_key = ContentKey.derive(header, unhex(vectors["header"]["secret"]))
            self.assertEqual(content_key.key.hex(), vectors["content_key"])
            self.assertEqual(content_key.iv.hex(), vectors["context_iv"])
            for vector in vectors["messages"]:
                carried, message = envelope.parse(unhex(vector["compact"]))
                self.assertIsNone(carried)
                made = content_key.seal(vector["topic"], vector["counter"], unhex(vector["payload"]))
                # A signature has randomness of its own, and so it is checked and taken over.
                self.assertEqual(message.signature is not None, header.messages_are_signed)
                made = Message(made.protected, made.kid, made.counter, message.signature, made.ciphertext)
                fields = {
                    "compact": envelope.compact(made).hex(),
                    "payload": content_key.open(publisher, vector["topic"], message).hex(),
                    "nonce": content_key.nonce(vector["counter"]).hex(),
                    "external_aad": content_key.aad(vector["topic"]).hex(),
                    "enc_structure": content_key.enc_structure(made.protected, vector["topic"]).hex(),
                }
                self.check(vector, fields, {"counter", "topic"})
            first = envelope.parse(unhex(vectors["messages"][0]["compact"]))[1]
            self.assertEqual(envelope.full(header, first).hex(), vectors["full"])

    def test_the_reader_opens_and_the_outsider_does_not(self):
        for vectors, root, params in self.kinds():
            keys = vectors if "reader" in vectors else self.vectors
            message = vectors["messages"][0]
            site = root.hex(), params.encode().hex()
            self.assertEqual(read(*site, keys["reader"], message["topic"], vectors["full"]), message["payload"])
            refused = read(*site, keys["outsider"], message["topic"], vectors["full"])
            self.assertEqual(refused, "open: Suite/NotSatisfied")

    def test_the_readers_key_has_its_policy(self):
        vectors = self.vectors["labels"]
        vector = vectors["header"] | {"policy": vectors["reader_policy"]}
        self.assertEqual(Key.decode(unhex(vectors["reader"])).scope, access_of(vector))

    def test_broken(self):
        for site in (self.vectors, self.vectors["labels"]):
            vectors = site["broken"]
            work = [
                (site["root"], site["params"], site[vector["key"]], vector["topic"], vector["envelope"]) for vector in vectors
            ]
            for vector, found in zip(vectors, in_parallel(read, work)):
                self.assertEqual(found, vector["error"], vector["what"])

    def test_the_bundle_and_what_a_broker_answers_with_it(self):
        vectors = self.vectors["bundle"]
        read = bundle.Bundle.read(unhex(vectors["bytes"]), self.root)
        self.assertEqual(read.number, vectors["number"])
        for vector in vectors["checks"]:
            header = Header.parse(unhex(vector["header"]))
            header.verify(self.root)
            self.check(vector, {"answer": read.check(header, vector["topic"], vector["now"])}, {"header", "topic", "now"})

    def test_broken_bundles(self):
        for vector in self.vectors["bundle"]["broken"]:
            found = answer(bundle.Bundle.read, unhex(vector["bytes"]), self.root)
            self.assertEqual(found, vector["error"], vector["what"])


def read(root: str, params: str, key: str, topic: str, data: str) -> str:
    """The payload of an envelope, or the refusal."""
    try:
        key, params = Key.decode(unhex(key)), Params.decode(unhex(params))
        return envelope.read(unhex(data), topic, unhex(root), params, key).hex()
    except Refused as refused:
        return refused.answer


class Rules(Witness):
    """What no vector has yet: which rule is nearest, and which labels a rule yields."""

    def test_literals_are_nearer_than_plus_and_plus_than_number_sign(self):
        filters = ["#", "+/b", "+/+", "a/#", "a/+", "a/b", "a/+/c"]
        rules = [Rule.of({1: filter, 2: 0}) for filter in filters]
        nearest = {"a/b": "a/b", "a/x": "a/+", "x/b": "+/b", "x/y": "+/+", "a/x/y": "a/#", "a/x/c": "a/+/c", "x": "#"}
        for topic, filter in nearest.items():
            self.assertEqual(rule_for(rules, topic).filter, filter, topic)
        self.assertIsNone(rule_for(rules, "$SYS/b"))

    def test_levels_become_values_and_equal_labels_count_once(self):
        places = sorted([[0, "kind", "reading"], [0, "ward", [1]], [0, "ward", [2]]], key=cbor.encode)
        rule = Rule.of({1: "ward/+/+", 2: 2, 6: cbor.encode(places)})
        three = labels.parse_attributes("kind=reading, ward=3")
        self.assertEqual(rule.target("ward/3/3"), three)
        self.assertEqual(rule.target("ward/3/x"), labels.parse_attributes("kind=reading, ward=3, ward=x"))
        self.assertNotEqual(answer(rule.target, "ward//3"), "ok")

    def test_unsound_rules_are_refused(self):
        good, template = cbor.encode([[0, "ward", [1]]]), cbor.encode([0, "ward", [1]])
        self.assertEqual(answer(Rule.of, {1: "ward/+", 2: 2, 6: good}), "ok")
        many = cbor.encode([[0, f"n{i}", 1] for i in range(8)])
        for fields in ({3: template, 6: good}, {6: cbor.encode([])}, {6: good[:-1]}, {6: many}, {6: cbor.encode([[0, "ward", [2]]])}, {}):
            self.assertEqual(answer(Rule.of, {1: "ward/+", 2: 2} | fields), "Malformed", fields)


class Tokens(Witness):
    @classmethod
    def setUpClass(cls):
        cls.vectors = load("token.json")

    def test_good(self):
        for vector in self.vectors["good"]:
            token = Token.parse(f" {vector['token']}\n")
            made = {
                "url": token.url,
                "fingerprint": token.fingerprint.hex(),
                "id": token.id.hex(),
                "secret": token.secret.hex(),
                "expires": token.expires,
                "token": token.encode(),
            }
            self.check(vector, made, set())

    def test_broken(self):
        for vector in self.vectors["broken"]:
            self.assertEqual(answer(Token.parse, vector["token"]), vector["error"], vector["what"])


if __name__ == "__main__":
    unittest.main()
