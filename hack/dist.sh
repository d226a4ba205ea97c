#!/bin/sh
# dist.sh VERSION COMMIT [PLATFORM...]
# Builds a release into dist/release: a static binary per platform, a Debian package and a container image per Linux platform, and
# SHA256SUMS. Two builds of one commit with one Go are equal, byte for byte. The packages need dpkg-deb and GNU tar.
set -eu

cd "$(dirname "$0")/.."
version=$1 commit=$2 made=$1
shift 2
[ $# -gt 0 ] || set -- linux/amd64 linux/arm64 darwin/arm64 darwin/amd64

die() {
	echo "dist.sh: $*" >&2
	exit 1
}

go=${GO:-go}
out=dist/release work=dist/work
rm -rf "$out" "$work"
mkdir -p "$out" "$work"

command -v dpkg-deb >/dev/null || die "the Debian packages need dpkg-deb"

# All that carries a time carries that of the commit.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH
umask 022

# archive FILE DIR makes a tar of what is in DIR; further arguments are tar's.
archive() {
	file=$1 dir=$2
	shift 2
	tar --sort=name --format=gnu --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner "$@" -C "$dir" -cf "$file" .
}

sum() { sha256sum "$1" | cut -d' ' -f1; }

# licences BINARY prints the licences of the Go distribution and of the modules that a binary was built from.
licences() {
	echo "== The Go standard library"
	cat "$("$go" env GOROOT)/LICENSE"
	"$go" version -m "$1" | awk '$1 == "dep" { print $2 "@" $3 }' | while read -r module; do
		dir=$("$go" list -m -f '{{.Dir}}' "${module%@*}")
		found=
		for f in "$dir"/LICEN[CS]E* "$dir"/COPYING* "$dir"/NOTICE*; do
			[ -f "$f" ] || continue
			found=yes
			printf '\n== %s: %s\n' "$module" "${f##*/}"
			cat "$f"
		done
		[ -n "$found" ] || die "$module has no licence file"
	done
}

# debian_version is the version as dpkg orders it: 1.2.0~rc1 before 1.2.0 before 1.2.0+5+gabcdef; what has no tag yet comes before all of these.
debian_version() {
	case $version in
	v[0-9]*) echo "${version#v}" | sed 's/-\(alpha\|beta\|rc\)/~\1/; s/-/+/g' ;;
	0~*) echo "$version" ;; # of hack/version.sh
	*) echo "0~$version" | tr -c 'A-Za-z0-9.+~\n' + ;;
	esac
}

build() {
	GOOS=${1%/*} GOARCH=${1#*/} CGO_ENABLED=0 "$go" build -buildvcs=false -trimpath -ldflags "-s -w -X main.version=$version -X main.commit=$commit" -o "$2" ./cmd/sallyport
}

# no_dead_links DIR: what the pages in a directory link to beside them is there.
no_dead_links() {
	find "$1" -name '*.md' | while read -r page; do
		grep -o ']([^)#:]*[)#]' "$page" | sed 's/^](//; s/.$//' | sort -u | while read -r link; do
			[ -z "$link" ] || [ -e "${page%/*}/$link" ] || echo "$page: $link"
		done
	done >"$work/dead-links"
	[ ! -s "$work/dead-links" ] || die "links in the package lead nowhere: $(cat "$work/dead-links")"
}

# deb ARCH BINARY
deb() {
	root=$work/deb-$1
	install -Dm755 "$2" "$root/usr/bin/sallyport"
	for unit in packaging/systemd/*.service; do
		install -Dm644 "$unit" "$root/usr/lib/systemd/system/${unit##*/}"
	done
	install -Dm644 packaging/sysusers.conf "$root/usr/lib/sysusers.d/sallyport.conf"
	install -Dm644 packaging/etc/sallyport.yaml "$root/etc/sallyport/sallyport.yaml"
	install -Dm644 packaging/etc/catalog/sidecars.hcl "$root/etc/sallyport/catalog/sidecars.hcl"
	mkdir -p "$root/usr/share/man/man1" "$root/usr/share/man/man5"
	cp "$work"/man/*.1 "$root/usr/share/man/man1"
	cp "$work"/man/*.5 "$root/usr/share/man/man5"
	gzip -9n "$root"/usr/share/man/man?/*
	install -Dm644 "$work/completion.bash" "$root/usr/share/bash-completion/completions/sallyport"
	install -Dm644 "$work/completion.zsh" "$root/usr/share/zsh/vendor-completions/_sallyport"
	install -Dm644 "$work/completion.fish" "$root/usr/share/fish/vendor_completions.d/sallyport.fish"
	install -Dm644 docs/reference/serve.schema.json "$root/usr/share/sallyport/serve.schema.json"
	doc=$root/usr/share/doc/sallyport
	mkdir -p "$doc"
	cp -R README.md docs "$doc"
	install -Dm644 connect/README.md "$doc/connect/README.md"
	install -Dm644 packaging/deb/copyright "$doc/copyright"
	cp CHANGELOG.md CONTRIBUTING.md "$doc"
	mkdir -p "$doc/e2e/compose"
	cp -R e2e/compose/README.md e2e/compose/*.yml e2e/compose/catalog e2e/compose/consul "$doc/e2e/compose"
	sed -i 's,(LICENSE),(copyright),' "$doc/README.md"
	no_dead_links "$doc"
	gzip -9nc >"$doc/changelog.gz" <<-END
		sallyport ($(debian_version)) unstable; urgency=medium

		  * CHANGELOG.md in this directory has the changes.

		 -- $(sed -n 's/^Maintainer: //p' packaging/deb/control)  $(date -uRd "@$SOURCE_DATE_EPOCH")
	END
	install -Dm644 packaging/deb/lintian-overrides "$root/usr/share/lintian/overrides/sallyport"
	gzip -9nc "$work/licences.txt" >"$doc/third-party-licences.txt.gz"
	find "$root" -type d -exec chmod 755 {} +
	find "$doc" -type f -exec chmod 644 {} +
	size=$(du -sk --apparent-size "$root" | cut -f1)
	mkdir "$root/DEBIAN"
	sed "s/@VERSION@/$(debian_version)/; s/@ARCH@/$1/; s/@SIZE@/$size/" packaging/deb/control >"$root/DEBIAN/control"
	(cd "$root" && find etc -type f | sort | sed 's,^,/,') >"$root/DEBIAN/conffiles"
	(cd "$root" && find usr -type f | sort | xargs md5sum) >"$root/DEBIAN/md5sums"
	for script in postinst prerm postrm; do
		install -m755 "packaging/deb/$script" "$root/DEBIAN/$script"
	done
	find "$root" -exec touch -hd "@$SOURCE_DATE_EPOCH" {} +
	dpkg-deb --root-owner-group -Zgzip --build "$root" "$out/sallyport_$(debian_version)_$1.deb" >/dev/null
}

# image ARCH BINARY makes what `docker load` takes: the binary, its licences, and the directories that it may write to.
image() {
	root=$work/image-$1 parts=$work/image-$1.parts
	install -Dm755 "$2" "$root/usr/bin/sallyport"
	install -Dm644 "$work/licences.txt" "$root/usr/share/doc/sallyport/third-party-licences.txt"
	install -Dm644 packaging/deb/copyright "$root/usr/share/doc/sallyport/copyright"
	install -Dm644 LICENSE "$root/usr/share/doc/sallyport/LICENSE"
	mkdir -p "$parts" "$root/etc/sallyport/catalog"
	archive "$parts/layer.tar" "$root"
	# Directories of the user that it runs as.
	mkdir -p "$work/own/var/lib/sallyport" "$work/own/run/sallyport"
	chmod 700 "$work/own/var/lib/sallyport"
	tar --sort=name --format=gnu --mtime="@$SOURCE_DATE_EPOCH" --owner=65532 --group=65532 --numeric-owner -C "$work/own" -rf "$parts/layer.tar" var/lib/sallyport run/sallyport
	created=$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)
	cat >"$work/config.json" <<-END
		{"architecture":"$1","os":"linux","created":"$created",
		"config":{"User":"65532:65532","Entrypoint":["/usr/bin/sallyport"],"Cmd":["--help"],"Env":["SALLYPORT_RUNTIME_DIR=/run/sallyport"],
		"Volumes":{"/var/lib/sallyport":{},"/run/sallyport":{}},
		"Labels":{"org.opencontainers.image.title":"sallyport","org.opencontainers.image.version":"$version","org.opencontainers.image.revision":"$commit"}},
		"rootfs":{"type":"layers","diff_ids":["sha256:$(sum "$parts/layer.tar")"]},"history":[{"created":"$created","comment":"sallyport"}]}
	END
	config=$(sum "$work/config.json").json
	mv "$work/config.json" "$parts/$config"
	tag=$(echo "$version" | tr -c 'A-Za-z0-9_.\n-' -)
	echo "[{\"Config\":\"$config\",\"RepoTags\":[\"sallyport:$tag\"],\"Layers\":[\"layer.tar\"]}]" >"$parts/manifest.json"
	archive "$work/image.tar" "$parts"
	gzip -9nc "$work/image.tar" >"$out/sallyport-$version-linux-$1.image.tar.gz"
}

for platform; do
	echo "building $platform"
	build "$platform" "$out/sallyport-$version-$(echo "$platform" | tr / -)"
done

# The binary of this machine says what is the same for all.
host=$("$go" env GOHOSTOS)/$("$go" env GOHOSTARCH)
cp "$out/sallyport-$version-$(echo "$host" | tr / -)" "$work/sallyport" 2>/dev/null || build "$host" "$work/sallyport"
"$go" test ./cmd/sallyport -run '^TestManPages$' -count=1 -man "$PWD/$work/man" >"$work/man.log" || { cat "$work/man.log"; exit 1; }
for shell in bash zsh fish; do
	"$work/sallyport" completion "$shell" >"$work/completion.$shell"
done
licences "$work/sallyport" >"$work/licences.txt"

for platform; do
	case $platform in
	linux/*)
		arch=${platform#*/}
		deb "$arch" "$out/sallyport-$version-linux-$arch"
		image "$arch" "$out/sallyport-$version-linux-$arch"
		;;
	esac
done

cp "$work/licences.txt" "$out/third-party-licences.txt"
cp LICENSE "$out"
(cd "$out" && sha256sum -- * >SHA256SUMS)

# What was made is what was meant. Versions are in the order in which they are made.
last=
for version in 0~git20261129174609.868558d 0~git20261129174610.0123456 0~git20261130000000.0123456+dirty v0.9.0-rc1 v0.9.0 v0.9.0-9-gabcdef0 v0.9.0-10-g0123456 v0.10.0-beta v0.10.0; do
	[ -z "$last" ] || dpkg --compare-versions "$last" lt "$(debian_version)" || die "$(debian_version) does not come after $last"
	last=$(debian_version)
done
version=$made
got=$("$work/sallyport" version)
[ "$(echo "$got" | cut -d' ' -f2)" = "$version" ] || die "the binary says that it is $got, not $version"
for package in "$out"/*.deb; do
	[ -e "$package" ] || continue
	dpkg-deb -c "$package" | awk '{ print $2, $6 }' >"$work/contents"
	for file in ./usr/bin/sallyport ./usr/lib/systemd/system/sallyport.service ./usr/lib/systemd/system/sallyport-envoy@.service \
		./usr/lib/sysusers.d/sallyport.conf ./etc/sallyport/sallyport.yaml ./usr/share/sallyport/serve.schema.json \
		./usr/share/man/man1/sallyport-serve.1.gz ./usr/share/man/man5/sallyport.yaml.5.gz ./usr/share/man/man5/sallyport-catalog.5.gz ./usr/share/bash-completion/completions/sallyport \
		./usr/share/doc/sallyport/copyright ./usr/share/doc/sallyport/third-party-licences.txt.gz; do
		grep -qx "root/root $file" "$work/contents" || die "$package has no $file of root's"
	done
done
rm -rf "$work"
ls -l "$out"
