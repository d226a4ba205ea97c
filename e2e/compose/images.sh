#!/bin/sh
# images.sh [-t TAG] [IMAGE...]
# Builds images out of nothing but binaries and the libraries that these name: sallyport and sallyport-app (those two unless others are named), and
# sallyport-envoy and sallyport-consul for who has no official ones at hand, out of $ENVOY and $CONSUL or what `make tools` fetched.
set -eu
cd "$(dirname "$0")/../.."

tag=latest
if [ "${1-}" = -t ]; then
	tag=$2
	shift 2
fi
[ $# -gt 0 ] || set -- sallyport sallyport-app

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM

# version NAME prints a version that the Makefile pins.
version() {
	sed -n "s/^$1 *:= *//p" Makefile
}

# compile PACKAGE FILE builds a command for the system on which docker runs containers.
compile() {
	platform=$(docker version --format '{{.Server.Os}} {{.Server.Arch}}')
	CGO_ENABLED=0 GOOS=${platform% *} GOARCH=${platform#* } go build -buildvcs=false -trimpath \
		-ldflags "-X main.version=$(hack/version.sh)" -o "$2" "$1"
}

for image in "$@"; do
	root=$tmp/$image/root
	mkdir -p "$root/usr/local/bin" "$root/tmp"
	chmod 1777 "$root/tmp"
	binary=/usr/local/bin/${image#sallyport-}
	case $image in
	sallyport) compile ./cmd/sallyport "$root$binary" ;;
	sallyport-app) compile ./e2e/compose/app "$root$binary" ;;
	sallyport-envoy) cp "${ENVOY:-$(hack/envoy.sh --path "$(version ENVOY_VERSION)")}" "$root$binary" ;;
	sallyport-consul) cp "${CONSUL:-.tools/consul-$(version CONSUL_VERSION)}" "$root$binary" ;;
	*)
		echo "images.sh: $image: there are sallyport, sallyport-app, sallyport-envoy and sallyport-consul" >&2
		exit 1
		;;
	esac
	# "libm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x…)", "/lib64/ld-linux-x86-64.so.2 (0x…)"; nothing for a static binary.
	{ ldd "$root$binary" 2>/dev/null || true; } | grep -o '/[^ ]*\.so[^ ]*' | sort -u | while read -r library; do
		mkdir -p "$root$(dirname "$library")"
		cp -L "$library" "$root$library"
	done
	# What `FROM scratch` and `COPY` would make, without a builder and its cache.
	tar -C "$root" -c . | docker import --change "ENTRYPOINT [\"$binary\"]" - "$image:$tag" >/dev/null
	echo "$image:$tag"
done
