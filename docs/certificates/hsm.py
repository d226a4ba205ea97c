#!/usr/bin/env python3
"""A plug-in for sallyport: a root in an HSM signs the mesh's intermediate, by pkcs11-tool (OpenSC) and openssl.

hsm.py init      makes the key in the token, if it is not there, and the root's certificate, CA_DIR/root.pem
hsm.py           answers one question of sallyport's (docs/certificates/plug-in.md)

CA_DIR: a directory.  PKCS11_MODULE, PKCS11_TOKEN (its label): where the key is.  PIN_FILE: a file with the PIN, of mode 0600.
"""
import base64, datetime, hashlib, json, os, re, subprocess, sys, tempfile

KEY = "mesh root"
ROOT = os.path.join(os.environ["CA_DIR"], "root.pem")
MAX_TTL = 400 * 24 * 3600


def run(*argv, stdin=None, env=None):
    done = subprocess.run(argv, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)
    if done.returncode != 0:
        raise OSError("%s: %s" % (argv[0], done.stderr.decode(errors="replace")[-500:]))
    return done.stdout


def token(*argv, stdin=None):
    pin = open(os.environ["PIN_FILE"]).read().strip()
    # By its environment, as everybody can read the arguments of a program.
    return run("pkcs11-tool", "--module", os.environ["PKCS11_MODULE"], "--token-label", os.environ["PKCS11_TOKEN"],
               "--login", "--pin", "env:HSM_PIN", *argv, stdin=stdin, env={**os.environ, "HSM_PIN": pin})


def der(tag, *parts):
    body = b"".join(parts)
    n = len(body)
    size = bytes([n]) if n < 128 else bytes([0x80 | (n.bit_length() + 7) // 8]) + n.to_bytes((n.bit_length() + 7) // 8, "big")
    return bytes([tag]) + size + body


def resigned(pem, tmp):
    """The same certificate signed by the HSM: openssl has made it with a key of no worth."""
    tbs = os.path.join(tmp, "tbs")
    run("openssl", "asn1parse", "-in", pem, "-strparse", "4", "-noout", "-out", tbs)
    body = open(tbs, "rb").read()
    signature = token("--sign", "--mechanism", "ECDSA", "--label", KEY, "--signature-format", "openssl", stdin=hashlib.sha256(body).digest())
    ecdsa_sha256 = der(0x30, bytes.fromhex("06082a8648ce3d040302"))
    text = base64.encodebytes(der(0x30, body, ecdsa_sha256, der(0x03, b"\0" + signature))).decode()
    return "-----BEGIN CERTIFICATE-----\n%s-----END CERTIFICATE-----\n" % "\n".join(re.findall(".{1,64}", text.replace("\n", "")) + [""])


def init():
    if KEY not in token("--list-objects", "--type", "privkey").decode():
        token("--keypairgen", "--key-type", "EC:prime256v1", "--label", KEY, "--usage-sign")
    with tempfile.TemporaryDirectory() as tmp:
        path = lambda name: os.path.join(tmp, name)
        public = token("--read-object", "--type", "pubkey", "--label", KEY)
        open(path("pub.der"), "wb").write(public)
        run("openssl", "pkey", "-pubin", "-inform", "DER", "-in", path("pub.der"), "-out", path("pub.pem"))
        run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", path("worthless"))
        open(path("ext"), "w").write("basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=none\n")
        run("openssl", "x509", "-new", "-key", path("worthless"), "-force_pubkey", path("pub.pem"), "-subj", "/CN=mesh root in an HSM",
            "-days", "3650", "-sha256", "-extfile", path("ext"), "-out", path("root.pem"))
        root = resigned(path("root.pem"), tmp)
        with open(ROOT + ".new", "w") as f:
            f.write(root)
        run("openssl", "verify", "-check_ss_sig", "-CAfile", ROOT + ".new", ROOT + ".new")
        os.rename(ROOT + ".new", ROOT)


def sign(q):
    if q.get("kind") != "intermediate":
        return {"error": {"code": "denied", "message": "this root signs intermediates alone"}}
    if not re.fullmatch(r"spiffe://[a-z0-9._-]+", q["uri"]):
        return {"error": {"code": "invalid", "message": "the URI is not that of a trust domain"}}
    with tempfile.TemporaryDirectory() as tmp:
        path = lambda name: os.path.join(tmp, name)
        open(path("csr"), "w").write(q["csr"])
        try:
            run("openssl", "req", "-in", path("csr"), "-noout", "-pubkey", "-out", path("pub.pem"))
            ok = subprocess.run(["openssl", "req", "-in", path("csr"), "-verify", "-noout"], capture_output=True)
        except OSError:
            return {"error": {"code": "invalid", "message": "the request cannot be read"}}
        if b"verify OK" not in ok.stdout + ok.stderr:
            return {"error": {"code": "invalid", "message": "its key has not signed the request"}}
        # A CA of the root's name and of a key of no worth makes the certificate; the HSM's signature takes the place of its own.
        ski = run("openssl", "x509", "-in", ROOT, "-noout", "-ext", "subjectKeyIdentifier").decode().split("\n")[1].strip()
        run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", path("worthless"))
        open(path("stand-in.ext"), "w").write("basicConstraints=critical,CA:TRUE\nsubjectKeyIdentifier=%s\n" % ski)
        run("openssl", "x509", "-new", "-key", path("worthless"), "-subj", "/CN=mesh root in an HSM", "-days", "3650", "-extfile", path("stand-in.ext"), "-out", path("stand-in"))
        open(path("ext"), "w").write("basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n"
                                     "authorityKeyIdentifier=keyid:always\nsubjectAltName=URI:%s\n" % q["uri"])
        ttl = min(int(q["ttl_seconds"]), MAX_TTL)
        now = datetime.datetime.now(datetime.timezone.utc)
        at = lambda seconds: (now + datetime.timedelta(seconds=seconds)).strftime("%Y%m%d%H%M%SZ")
        # "openssl ca", as "openssl x509" of version 3 knows whole days alone.
        for name in ("index", "index.attr"):
            open(path(name), "w").close()
        open(path("cnf"), "w").write("[ca]\ndefault_ca=a\n[a]\ndatabase=%s\nrand_serial=yes\nunique_subject=no\nnew_certs_dir=%s\ndefault_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n" % (path("index"), tmp))
        run("openssl", "ca", "-batch", "-notext", "-config", path("cnf"), "-cert", path("stand-in"), "-keyfile", path("worthless"), "-extfile", path("ext"),
            "-subj", "/CN=mesh intermediate " + q["id"][:32], "-startdate", at(-int(q["not_before_skew_seconds"])), "-enddate", at(ttl), "-in", path("csr"), "-out", path("cert"))
        return {"chain": [resigned(path("cert"), tmp)]}


def answer(q):
    if q.get("version") != 1:
        return {"error": {"code": "unsupported_version", "versions": [1], "message": "this is a plug-in of version 1"}}
    if q.get("op") == "describe":
        return {"version": 1, "name": "PKCS #11", "signs": ["intermediate"], "max_ttl_seconds": {"intermediate": MAX_TTL}, "concurrency": 1}
    if q.get("op") == "roots":
        return {"roots": [open(ROOT).read()], "refresh_seconds": 3600}
    if q.get("op") == "sign":
        return sign(q)
    return {"error": {"code": "unsupported_op", "message": "describe, roots and sign"}}


if sys.argv[1:] == ["init"]:
    init()
else:
    try:
        out = answer(json.load(sys.stdin))
    except (OSError, ValueError, KeyError) as e:
        print(e, file=sys.stderr)
        out = {"error": {"code": "unavailable", "message": "the HSM or openssl did not do it: see the log"}}
    print(json.dumps(out))
