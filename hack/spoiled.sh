#!/bin/sh
# spoiled.sh [LOOPS]
# The end-to-end suite is asked whether it would notice: a build whose Envoys refuse one request in 200, on a machine that LOOPS (4) endless loops
# keep busy, has to be found at fault (gotest's status 1), whatever the machine is blamed for meanwhile; the same build without the fault is not.
# Nothing of it stays: the fault is laid over the sources for one build.
set -eu
cd "$(dirname "$0")/.."

work=$(mktemp -d)
pids=
end() {
	for p in $pids; do kill "$p" 2>/dev/null || true; done
	rm -rf "$work"
}
trap end EXIT
trap 'exit 1' INT TERM

sed 's|b.httpSlot(logSlot), b.httpSlot(jwtSlot)|b.fault(), &|' snapshot/listener.go >"$work/listener.go"
if cmp -s snapshot/listener.go "$work/listener.go"; then
	echo "spoiled.sh: snapshot/listener.go has no filters of requests where this script looks for them" >&2
	exit 1
fi
cat >"$work/fault.go" <<'EOF'
package snapshot

import (
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
)

func (b *builder) fault() *hcmv3.HttpFilter {
	return &hcmv3.HttpFilter{Name: "envoy.filters.http.fault", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: b.any(&faultv3.HTTPFault{
		Abort: &faultv3.FaultAbort{
			ErrorType:  &faultv3.FaultAbort_HttpStatus{HttpStatus: 503},
			Percentage: &typev3.FractionalPercent{Numerator: 5000, Denominator: typev3.FractionalPercent_MILLION},
		},
	})}}
}
EOF
printf '{"Replace":{"%s/snapshot/listener.go":"%s/listener.go","%s/snapshot/fault.go":"%s/fault.go"}}' "$PWD" "$work" "$PWD" "$work" >"$work/overlay.json"
go build -buildvcs=false -o "$work/good" ./cmd/sallyport
go build -buildvcs=false -overlay "$work/overlay.json" -o "$work/spoiled" ./cmd/sallyport
go build -buildvcs=false -o "$work/gotest" ./hack/gotest
go test -tags e2e -c -o /dev/null ./e2e

for _ in $(seq "${1:-4}"); do
	sh -c 'while :; do :; done' &
	pids="$pids $!"
done

# judge BINARY prints gotest's status.
judge() {
	status=0
	SALLYPORT_BIN="$1" "$work/gotest" -no-skip -log "$1.log" -- -tags e2e -count=1 -timeout 9m -run '^TestRotationUnderLoad$' ./e2e >"$1.out" 2>&1 || status=$?
	echo $status
}

good=$(judge "$work/good")
spoiled=$(judge "$work/spoiled")
grep -h '^FIGURE' "$work/good.out" "$work/spoiled.out" || true
echo "spoiled.sh: the good build ended with status $good (0, or 3 where the machine is too slow), the spoiled one with $spoiled (1)"
if [ "$spoiled" -ne 1 ]; then
	cat "$work/spoiled.out"
	exit 1
fi
case $good in
0 | 3) ;;
*)
	cat "$work/good.out"
	exit 1
	;;
esac
