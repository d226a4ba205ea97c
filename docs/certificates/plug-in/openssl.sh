#!/bin/sh
# A plug-in for sallyport: certificates by "openssl ca" of OpenSSL 3. CA_DIR has root.pem, root.key, index.txt (empty at first) and certs/.
set -eu

read -r question # one line
field() { printf '%s\n' "$question" | sed -n 's/.*"'"$1"'":"\{0,1\}\([^",}]*\).*/\1/p'; }
string() { printf '"'; sed 's/$/\\n/' "$1" | tr -d '\n'; printf '"'; } # a file as a string of JSON
refuse() { printf '{"error":{"code":"%s","message":"%s"%s}}\n' "$1" "$2" "${3-}"; exit 0; }

[ "$(field version)" = 1 ] || refuse unsupported_version "this is a plug-in of version 1" ',"versions":[1]'
case "$(field op)" in
describe)
	echo '{"version":1,"name":"openssl ca","signs":["intermediate","leaf"],"concurrency":1}'
	exit ;;
roots)
	printf '{"roots":[%s],"refresh_seconds":300}\n' "$(string "$CA_DIR/root.pem")"
	exit ;;
sign) ;;
*) refuse unsupported_op "describe, roots and sign" ;;
esac

kind=$(field kind) uri=$(field uri)
case "$kind" in intermediate | leaf) ;; *) refuse denied "intermediate and leaf" ;; esac
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
printf '%b' "$(field csr)" >"$tmp/csr.pem"
# Its exit status does not say so.
openssl req -in "$tmp/csr.pem" -verify -noout 2>&1 | grep -q 'verify OK' || refuse invalid "the request cannot be read, or its key has not signed it"
cat >"$tmp/ca.cnf" <<EOF
[ca]
default_ca = mesh
[mesh]
database = $CA_DIR/index.txt
unique_subject = no
rand_serial = yes
new_certs_dir = $CA_DIR/certs
certificate = $CA_DIR/root.pem
private_key = $CA_DIR/root.key
default_md = sha256
policy = any
[any]
commonName = supplied
[intermediate]
basicConstraints = critical,CA:TRUE,pathlen:0
keyUsage = critical,keyCertSign,cRLSign
subjectAltName = URI:$uri
[leaf]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = serverAuth,clientAuth
subjectAltName = URI:$uri
EOF
# Nothing of the request comes into the certificate but its key: the rest is what the question says.
openssl ca -batch -notext -config "$tmp/ca.cnf" -extensions "$kind" -subj "/CN=mesh $kind $(field id | cut -c 1-32)" \
	-startdate "$(date -u -d "-$(field not_before_skew_seconds) seconds" +%Y%m%d%H%M%SZ)" -enddate "$(date -u -d "+$(field ttl_seconds) seconds" +%Y%m%d%H%M%SZ)" \
	-in "$tmp/csr.pem" -out "$tmp/cert.pem" 2>"$tmp/log" && [ -s "$tmp/cert.pem" ] || { cat "$tmp/log" >&2; refuse unavailable "openssl ca did not sign it"; }
printf '{"chain":[%s]}\n' "$(string "$tmp/cert.pem")"
