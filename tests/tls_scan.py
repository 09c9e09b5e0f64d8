#!/usr/bin/env python3
"""Scans the TLS of a running authority and broker with sslyze, and fails on any finding but the private root.

    tests/tls_scan.py PATH-OF-SMQTT

Starts a site of its own on loopback, and a weak server, which has to be found out: a scan that finds nothing there finds nothing
anywhere. Needs `openssl` and the Python package `sslyze`, version 6; without it, it says SKIPPED.
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading

from command import smqtt

try:
    import sslyze
except ImportError:
    print("SKIPPED: the TLS scan needs the Python package sslyze", flush=True)
    sys.exit(0)

from sslyze import ScanCommand, Scanner, ServerNetworkConfiguration, ServerNetworkLocation, ServerScanRequest, ServerScanStatusEnum
from sslyze import ClientAuthenticationCredentials

OLD = {"SSL_2_0": "ssl_2_0_cipher_suites", "SSL_3_0": "ssl_3_0_cipher_suites", "TLS_1_0": "tls_1_0_cipher_suites", "TLS_1_1": "tls_1_1_cipher_suites"}
NEW = ["tls_1_2_cipher_suites", "tls_1_3_cipher_suites"]
AEAD = re.compile("GCM|CHACHA20|CCM")


def findings(name_of, scan):
    """What is wrong, a line each."""
    if scan.scan_status != ServerScanStatusEnum.COMPLETED:
        return [f"could not be scanned: {scan.connectivity_error_trace}"]
    found, result, scanned = [], scan.scan_result, 0

    def look(name):
        nonlocal scanned
        attempt = getattr(result, name)
        if attempt.result is None:
            found.append(f"{name}: {attempt.error_reason} {attempt.error_trace}")
        else:
            scanned += 1
        return attempt.result

    for version, name in OLD.items():
        if (seen := look(name)) and seen.accepted_cipher_suites:
            found.append(f"{version} is accepted")
    accepted = 0
    for name in NEW:
        seen = look(name)
        for suite in seen.accepted_cipher_suites if seen else []:
            accepted += 1
            of = suite.cipher_suite.name
            if not AEAD.search(of) or suite.cipher_suite.is_anonymous or (name == NEW[0] and "ECDHE" not in of):
                found.append(f"{of} is accepted")
    if not accepted:
        found.append("no cipher suite is accepted: nothing was scanned")
    if (seen := look("tls_compression")) and seen.supports_compression:
        found.append("compresses (CRIME)")
    # It is tried with a request of HTTP, which a broker does not answer.
    if name_of == "authority" and (seen := look("tls_1_3_early_data")) and seen.supports_early_data:
        found.append("takes early data, which can be replayed")
    if (seen := look("openssl_ccs_injection")) and seen.is_vulnerable_to_ccs_injection:
        found.append("CCS injection")
    if (seen := look("heartbleed")) and seen.is_vulnerable_to_heartbleed:
        found.append("Heartbleed")
    if (seen := look("robot")) and "VULNERABLE" in seen.robot_result.name and not seen.robot_result.name.startswith("NOT_"):
        found.append(f"ROBOT: {seen.robot_result.name}")
    if seen := look("session_renegotiation"):
        if seen.is_vulnerable_to_client_renegotiation_dos:
            found.append("renegotiates at a client's word")
        if not seen.supports_secure_renegotiation:
            found.append("does not renegotiate securely")
    if (seen := look("tls_extended_master_secret")) and not seen.supports_ems_extension:
        found.append("has no extended master secret")
    if seen := look("certificate_info"):
        for deployment in seen.certificate_deployments:
            leaf = deployment.received_certificate_chain[0]
            if leaf.signature_hash_algorithm.name not in ("sha256", "sha384", "sha512"):
                found.append(f"the certificate is signed with {leaf.signature_hash_algorithm.name}")
            if leaf.public_key().key_size < 256:
                found.append("the certificate's key is short")
            if not deployment.received_chain_has_valid_order:
                found.append("the chain is out of order")
            # The root is private: no trust store has it. That it is the one, clients of our own check.
    if scanned < 13:
        found.append(f"only {scanned} of the looks worked")
    return found


def weak_server(home):
    """A server whose one cipher suite keeps no secret for later, and its port."""
    key, certificate = home / "weak.key", home / "weak.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "1"]
    subprocess.run([*make, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    serve = ["openssl", "s_server", "-accept", "127.0.0.1:0", "-cert", certificate, "-key", key, "-tls1_2", "-cipher", "AES128-SHA", "-www"]
    server = subprocess.Popen(serve, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    for line in server.stdout:
        if line.startswith("ACCEPT"):
            # What it says besides is nobody's: a pipe that is full would stop it.
            threading.Thread(target=server.stdout.read, daemon=True).start()
            return server, int(line.rsplit(":", 1)[1])
    sys.exit("openssl s_server did not start")


def main():
    binary = str(pathlib.Path(sys.argv[1]).resolve())
    with tempfile.TemporaryDirectory() as directory:
        home = pathlib.Path(directory)
        data = home / "data"
        # An attacker's patience is no subject here: it asks from one address, thousands of times.
        (home / "site.toml").write_text("[authority.rates]\naddress = { per_second = 0, burst = 1 }\n")
        command = [binary, "up", "--data", str(data), "--config", str(home / "site.toml"), "--authority", "127.0.0.1:0", "--broker", "127.0.0.1:0"]
        log = open(home / "log", "w")
        weak, weak_port = weak_server(home)
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, "HOME": directory})
        try:
            where = {"weak": weak_port}
            for line in server.stdout:
                words = line.split()
                if words and words[0] in ("authority", "broker"):
                    where[words[0]] = int(words[1].rsplit(":", 1)[1])
                if words[:1] == ["next:"]:
                    break
            token = smqtt(binary, home, "token", "new", "scan", "kind=scan", "--data", str(data)).splitlines()[-1]
            smqtt(binary, home, "enrol", "--dir", str(home / "scan"), text=token)
            credentials = ClientAuthenticationCredentials(certificate_chain_path=home / "scan/certificate.pem", key_path=home / "scan/device.key")
            looks = {command for command in ScanCommand if hasattr(command, "value")} - {ScanCommand.HTTP_HEADERS}
            scanner = Scanner()
            scanner.queue_scans([
                ServerScanRequest(
                    server_location=ServerNetworkLocation(hostname="localhost", port=port, ip_address="127.0.0.1"),
                    network_configuration=ServerNetworkConfiguration(
                        tls_server_name_indication="localhost", tls_client_auth_credentials=credentials, network_timeout=20,
                    ),
                    scan_commands=looks,
                )
                for port in where.values()
            ])
            names, good = {port: name for name, port in where.items()}, len(where) == 3
            for scan in scanner.get_results():
                name = names[scan.server_location.port]
                found = findings(name, scan)
                good = good and ("TLS_RSA_WITH_AES_128_CBC_SHA is accepted" in found if name == "weak" else not found)
                print(f"{name}: {len(found)} findings", flush=True)
                print("".join(f"  {line}\n" for line in found), end="")
        finally:
            for one in (server, weak):
                one.terminate()
                one.wait(timeout=30)
            log.close()
        print("all passed, but that the root is private, and that the weak server is weak" if good else "FAILED")
        sys.exit(0 if good else 1)


main()
