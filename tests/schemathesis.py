#!/usr/bin/env python3
"""Holds a running authority against docs/openapi.json: no 5xx, no answer that is not described, nothing invalid accepted.

    tests/schemathesis.py PATH-OF-SMQTT [--cases N] [--seed N]

Starts an authority of its own on loopback and asks it as administrator, with a certificate; as each other role; with access
tokens; and as nobody. Needs the Python package `schemathesis`, version 4. N is a number of requests, at least, over all of these.

Not among the checks: `positive_data_acceptance`. Attributes, policies, topic filters and signing requests have grammars of their own, which no
JSON Schema says; that those are refused with a reason is in keysvc/tests.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

from command import smqtt

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,negative_data_rejection,unsupported_method"
ROOT = pathlib.Path(__file__).resolve().parent.parent
# A refusal is a refusal: 410, 412, 413 and 422 are not among those it expects for invalid requests.
CONFIG = '''
[checks]
negative_data_rejection.expected-statuses = ["400", "401", "403", "404", "405", "409", "410", "412", "413", "415", "422"]
'''
# A valid `wait` waits, for up to a minute.
HOOKS = '''
import schemathesis

@schemathesis.serializer("application/pkcs10")
def pkcs10(context, value):
    return value if isinstance(value, bytes) else str(value).encode()

@schemathesis.hook
def before_call(context, case, kwargs):
    query = case.query or {}
    if str(query.get("wait", "0")).isdigit() and "wait" in query:
        case.query = {**query, "wait": 0}
'''


def ask(home, url, name, arguments, cases, seed, mode):
    report = home / f"{name}.json"
    (home / "hooks.py").write_text(HOOKS)
    (home / "schemathesis.toml").write_text(CONFIG)
    operations = sum(len(item) for item in json.loads((ROOT / "docs/openapi.json").read_text())["paths"].values())
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", str(ROOT / "docs/openapi.json"), "--url", url,
        "--checks", CHECKS, "--mode", mode, "--phases", "coverage,fuzzing", "--seed", str(seed), "--max-examples", str(max(1, cases // operations)),
        "--tls-verify", str(home / "data/admin/root.pem"), "--suppress-health-check", "all", "--request-timeout", "30",
        "--warnings", "off", "--no-color", "--continue-on-failure", "--report", "json", "--report-json-path", str(report), *arguments,
    ]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(home)}
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True)
    said = done.stdout + done.stderr
    counted = re.search(r"(\d+) generated", said)
    count = int(counted.group(1)) if counted else 0
    print(f"{name}: {count} cases, {'passed' if done.returncode == 0 else 'FAILED'}", flush=True)
    if done.returncode or not count:
        print("\n".join(line[:400] for line in said.splitlines())[-20000:])
    return count, done.returncode == 0 and count > 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("smqtt")
    parser.add_argument("--cases", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    binary = str(pathlib.Path(options.smqtt).resolve())
    with tempfile.TemporaryDirectory() as directory:
        home = pathlib.Path(directory)
        data = home / "data"
        # What is tried here is not how often somebody may ask.
        config = home / "smqtt.toml"
        config.write_text("[authority.rates]\n" + "".join(f"{who} = {{ per_second = 0, burst = 1 }}\n" for who in ["address", "device", "trusted"]))
        command = [binary, "authority", "--config", str(config), "--data", str(data), "--listen", "127.0.0.1:0", "--until-stdin-ends"]
        log = open(home / "log", "w")
        server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, "HOME": directory})
        try:
            url = server.stdout.readline().split()[1].replace("127.0.0.1", "localhost")
            server.stdout.readline()
            people = {"admin": (data / "admin/cert.pem", data / "admin/key.pem")}
            for role, arguments in {
                "device": ["kind=sensor", "--policy", "ward=3"], "broker": ["--broker"], "bridge": ["--bridge"],
                "enroller": ["--enroller"], "auditor": ["--auditor"],
            }.items():
                token = smqtt(binary, home, "token", "new", role, *arguments, "--data", str(data))
                smqtt(binary, home, "enrol", "--dir", str(home / role), text=token)
                people[role] = (home / role / "certificate.pem", home / role / "device.key")
            total, good = 0, True
            plan = [("admin", 4)] + [(role, 1) for role in people if role != "admin"]
            parts = sum(share for _, share in plan) + 3
            for role, share in plan:
                certificate, key = people[role]
                arguments = ["--request-cert", str(certificate), "--request-cert-key", str(key)]
                count, passed = ask(home, url, role, arguments, options.cases * share // parts, options.seed, "all")
                total, good = total + count, good and passed
            for role in ["enroller", "auditor"]:
                token = smqtt(binary, home, "access", "new", "ci", "--role", role, "--ttl", "1h", "--data", str(data)).strip()
                arguments = ["-H", f"Authorization: Bearer {token}"]
                count, passed = ask(home, url, f"access token, {role}", arguments, options.cases // parts, options.seed, "all")
                total, good = total + count, good and passed
            count, passed = ask(home, url, "nobody", [], options.cases // parts, options.seed, "all")
            total, good = total + count, good and passed
            if server.poll() is not None:
                good = False
                print("the authority has gone")
        finally:
            server.stdin.close()
            server.wait(timeout=30)
            log.close()
        panics = [line for line in (home / "log").read_text().splitlines() if "panicked" in line]
        print(f"{total} cases; seed {options.seed}; {'all passed' if good and not panics else 'FAILED'}")
        print("\n".join(panics))
        sys.exit(0 if good and not panics else 1)


main()
