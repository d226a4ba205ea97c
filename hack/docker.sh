#!/bin/sh
# docker.sh COMMAND...
# Runs COMMAND where there is a docker: the one that answers here or, with E2E_INSTALL_DOCKER=1 on Debian as root, one that is started for
# COMMAND alone (and installed, if it is not) and is gone when it ends: it runs in namespaces of its own, so its networks, its rules for
# packets and its containers end with them, whatever happens. Where there is neither, COMMAND runs without, and has to say what it could not do.
set -eu

die() {
	echo "docker.sh: $*" >&2
	exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }
answers() { docker version >/dev/null 2>&1 && compose; }
compose() { have docker-compose || docker compose version >/dev/null 2>&1; }

# install brings what is missing, with Debian's packages. Mirrors fail now and then, and somebody else may be installing something.
install() {
	have apt-get || die "E2E_INSTALL_DOCKER=1: docker is installed with apt-get alone, which is not here; install docker and docker-compose, start dockerd, and try again"
	echo "docker.sh: installing docker"
	log=$(mktemp)
	for pause in 5 20 60 0; do
		if DEBIAN_FRONTEND=noninteractive sh -ec '
			dpkg --configure -a || true
			apt-get -q -o Acquire::Retries=5 -o DPkg::Lock::Timeout=300 update || echo "docker.sh: going on with the lists that are here"
			apt-get -q -y -o Acquire::Retries=5 -o DPkg::Lock::Timeout=300 install --no-install-recommends docker.io docker-compose iptables iproute2
		' >"$log" 2>&1 </dev/null; then
			rm -f "$log"
			return
		fi
		sleep "$pause"
	done
	tail -n 20 "$log" >&2
	die "E2E_INSTALL_DOCKER=1, but apt-get could not install docker.io and docker-compose (above; all of it in $log): the compose suite cannot run here"
}

# What dockerd and its containerd write outside of the directories that they are given. They get empty ones over these.
outside="/etc/docker /opt/containerd /run/docker /run/containerd"

# daemon starts dockerd in $1 and waits until it answers.
daemon() {
	ip link set lo up
	for d in $outside; do
		mkdir -p "$d"
		mount -t tmpfs tmpfs "$d"
	done
	mkdir "$1/data" "$1/exec"
	# In a session of its own, so that Ctrl-C does not end it before those who use it.
	setsid dockerd --data-root "$1/data" --exec-root "$1/exec" --pidfile "$1/pid" --host "unix://$1/docker.sock" --cgroup-parent "/${1##*/}" >"$1/log" 2>&1 &
	pid=$!
	for _ in $(seq 300); do
		! docker version >/dev/null 2>&1 || return 0
		kill -0 "$pid" 2>/dev/null || break
		sleep 0.2
	done
	tail -n 20 "$1/log" >&2
	die "dockerd does not come up here (above): the compose suite cannot run"
}

# The second half, as the first process of the namespaces.
if [ "${1-}" = --inside ]; then
	dir=$2
	shift 2
	export DOCKER_HOST="unix://$dir/docker.sock"
	unset DOCKER_CONTEXT DOCKER_TLS_VERIFY
	daemon "$dir"
	status=0
	"$@" || status=$?
	kill "$pid"
	wait "$pid" || true
	exit "$status"
fi

[ $# -gt 0 ] || die "which command? (see the first lines of $0)"
if answers || [ "${E2E_INSTALL_DOCKER-}" != 1 ]; then
	exec "$@"
fi
[ "$(uname -s)" = Linux ] && [ "$(id -u)" = 0 ] || die "E2E_INSTALL_DOCKER=1: to install and run docker takes root on Linux; start docker and try again"
have dockerd && compose && have iptables && have ip || install
if answers; then # the package started it
	exec "$@"
fi
dir=$(mktemp -d /tmp/sallyport-docker.XXXXXX)
trap 'rm -rf "$dir"; rmdir $outside 2>/dev/null || true; find /sys/fs/cgroup -depth -type d -path "*/${dir##*/}*" -exec rmdir {} + 2>/dev/null || true' EXIT
trap 'exit 1' HUP INT TERM
status=0
unshare --net --mount --pid --fork --kill-child --mount-proc sh "$0" --inside "$dir" "$@" || status=$?
exit "$status"
