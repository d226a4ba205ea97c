#!/bin/sh
# version.sh prints the version of this checkout, and versions of later commits come later in the order of dpkg: v1.2.3 at a tag,
# v1.2.3-5-gabcdef0 behind one, and before the first 0~git<date><time>.<commit>. "dev" where there is no git.
set -eu

cd "$(dirname "$0")/.."
git rev-parse --verify --quiet HEAD >/dev/null 2>&1 || { echo dev; exit; }
version=$(git describe --tags --match 'v[0-9]*' 2>/dev/null ||
	TZ=UTC git log -1 --abbrev=7 --date=format-local:%Y%m%d%H%M%S --format='0~git%cd.%h')
[ -z "$(git status --porcelain --untracked-files=no)" ] || version=$version+dirty
echo "$version"
