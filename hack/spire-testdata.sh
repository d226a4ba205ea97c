#!/bin/sh
# spire-testdata.sh SPIRE-SERVER DIR: what bundle/testdata/spire has. Runs a SPIRE server of the trust domain td-b.example, and writes its bundle
# as its endpoint gives it, two leafs that it minted with their keys, and the key of its CA, with which tests sign what it would not. All of
# it is valid for some thirty years, and worth nothing.
set -eu
[ $# = 2 ] || { echo "usage: $0 SPIRE-SERVER DIR" >&2; exit 2; }
server=$(realpath "$1")
mkdir -p "$2"
out=$(realpath "$2")
work=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || kill "$pid" && wait "$pid" 2>/dev/null; rm -rf "$work"' EXIT
cd "$work"
cat >server.conf <<EOF
server {
  bind_address = "127.0.0.1"
  bind_port    = "${SPIRE_PORT:-19081}"
  socket_path  = "$work/api.sock"
  data_dir     = "$work/data"
  trust_domain = "td-b.example"
  ca_ttl       = "262800h"
  ca_key_type  = "ec-p256"
}
plugins {
  DataStore "sql" { plugin_data { database_type = "sqlite3" connection_string = "$work/data/store" } }
  KeyManager "disk" { plugin_data { keys_path = "$work/data/keys.json" } }
}
EOF
"$server" run -config server.conf >log 2>&1 &
pid=$!
tries=0
until "$server" healthcheck -socketPath api.sock >/dev/null 2>&1; do
	tries=$((tries + 1))
	[ $tries -lt 100 ] || { cat log >&2; exit 1; }
	sleep 0.2
done
"$server" bundle show -format spiffe -socketPath api.sock >"$out/bundle.json"
for name in billing other; do
	"$server" x509 mint -spiffeID "spiffe://td-b.example/ns/prod/sa/$name" -ttl 262000h -socketPath api.sock -write . >/dev/null
	cat svid.pem key.pem >"$out/$name.pem"
done
python3 - data/keys.json >"$out/ca-key.pem" <<'EOF'
import json, sys, textwrap
key = json.load(open(sys.argv[1]))["keys"]["x509-CA-A"]
print("-----BEGIN PRIVATE KEY-----\n" + "\n".join(textwrap.wrap(key, 64)) + "\n-----END PRIVATE KEY-----")
EOF
chmod 644 "$out"/*
"$server" --version 2>&1 | head -1 >"$out/version"
