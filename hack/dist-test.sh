#!/bin/sh
# dist-test.sh VERSION
# Installs the Debian package of dist/release in a clean Debian that systemd boots in a container with a network of its own, runs a mesh by
# its units and the demo on its binary; runs the container image's files too. Needs root, debootstrap and systemd-nspawn
# (apt-get install debootstrap systemd-container) and bin/demo. The base system is kept in dist/base until `make clean`.
set -eu

cd "$(dirname "$0")/.."
version=$1
arch=$(dpkg --print-architecture)

die() {
	echo "dist-test.sh: $*" >&2
	exit 1
}

[ "$(id -u)" = 0 ] || die "a container that systemd boots needs root"
for program in debootstrap systemd-nspawn; do
	command -v $program >/dev/null || die "$program is missing: apt-get install debootstrap systemd-container"
done
envoy=$(hack/envoy.sh --path "$ENVOY_VERSION")

base=$PWD/dist/base
if [ ! -e "$base/complete" ]; then
	rm -rf "$base"
	echo "== debootstrap, once"
	debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus bookworm "$base" >dist/debootstrap.log 2>&1 || {
		tail dist/debootstrap.log
		die "debootstrap failed (dist/debootstrap.log)"
	}
	touch "$base/complete"
fi

root=$(mktemp -d /var/tmp/sallyport-dist-test.XXXXXX)
trap 'rm -rf --one-file-system "$root"' EXIT
trap 'exit 1' HUP INT TERM
cp -a "$base/." "$root"
mkdir "$root/opt/test"
cp dist/release/sallyport_*_"$arch".deb "$root/opt/test/sallyport.deb"
cp bin/demo packaging/test/install "$root/opt/test"
cp -L "$envoy" "$root/usr/bin/envoy"
cat >"$root/etc/systemd/system/dist-test.service" <<END
[Unit]
After=dbus.service
[Service]
Type=oneshot
ExecStart=/opt/test/install $version
StandardOutput=file:/opt/test/log
StandardError=inherit
TimeoutStartSec=300
ExecStopPost=/bin/systemctl poweroff --no-block
END
ln -s ../dist-test.service "$root/etc/systemd/system/multi-user.target.wants/dist-test.service"

timeout 360 systemd-nspawn --quiet --directory "$root" --boot --private-network --register=no --keep-unit \
	--machine="sallyport-dist-test-$$" --console=pipe >dist/dist-test.log 2>&1 </dev/null || true
cat "$root/opt/test/log" || die "nothing ran in the container (dist/dist-test.log)"
[ "$(tail -1 "$root/opt/test/log")" = PASS ] || die "the installed package did not work (above; the container's console is in dist/dist-test.log)"

echo "== the container image"
image=$root/image
mkdir -p "$image/rootfs"
tar -xzf "dist/release/sallyport-$version-linux-$arch.image.tar.gz" -C "$image"
tar -xf "$image/layer.tar" -C "$image/rootfs"
got=$(chroot --userspec=65532:65532 "$image/rootfs" /usr/bin/sallyport version)
echo "$got"
[ "$(echo "$got" | cut -d' ' -f2)" = "$version" ] || die "the image has another version"
[ "$(stat -c '%u %a' "$image/rootfs/var/lib/sallyport")" = "65532 700" ] || die "the image's user may not write its data directory"
echo "== dist-test passed"
