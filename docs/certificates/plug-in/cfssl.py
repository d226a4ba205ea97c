#!/usr/bin/env python3
"""A plug-in for sallyport: certificates by cfssl 1.6. CA_DIR has root.pem and root.key."""

import json
import os
import subprocess
import sys
import tempfile

CA_DIR = os.environ["CA_DIR"]
USAGES = {"intermediate": ["cert sign", "crl sign"], "leaf": ["digital signature", "server auth", "client auth"]}


def refuse(code, message, **more):
    return {"error": {"code": code, "message": message, **more}}


def sign(q):
    if q.get("kind") not in USAGES:
        return refuse("denied", "intermediate and leaf")
    profile = {"usages": USAGES[q["kind"]], "expiry": f"{q['ttl_seconds']}s", "backdate": f"{q['not_before_skew_seconds']}s"}
    if q["kind"] == "intermediate":
        profile["ca_constraint"] = {"is_ca": True, "max_path_len": 0, "max_path_len_zero": True}
    with tempfile.TemporaryDirectory() as tmp:
        config, csr = os.path.join(tmp, "config.json"), os.path.join(tmp, "csr.pem")
        with open(config, "w") as f:
            json.dump({"signing": {"default": profile}}, f)
        with open(csr, "w") as f:
            f.write(q["csr"])
        # cfssl takes the names of the request: sallyport's have one URI, and it refuses a certificate with another one.
        run = subprocess.run(
            ["cfssl", "sign", "-loglevel=3", "-ca", f"{CA_DIR}/root.pem", "-ca-key", f"{CA_DIR}/root.key", "-config", config, csr],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    if run.returncode != 0:
        print(run.stderr, file=sys.stderr)
        return refuse("invalid", "cfssl did not sign it")
    return {"chain": [json.loads(run.stdout)["cert"]]}


def answer(q):
    if q.get("version") != 1:
        return refuse("unsupported_version", "this is a plug-in of version 1", versions=[1])
    if q.get("op") == "describe":
        return {"version": 1, "name": "cfssl", "signs": list(USAGES), "concurrency": 4}
    if q.get("op") == "roots":
        with open(f"{CA_DIR}/root.pem") as f:
            return {"roots": [f.read()], "refresh_seconds": 300}
    if q.get("op") == "sign":
        return sign(q)
    return refuse("unsupported_op", "describe, roots and sign")


json.dump(answer(json.load(sys.stdin)), sys.stdout)
