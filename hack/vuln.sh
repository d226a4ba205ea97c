#!/bin/sh
# vuln.sh GOVULNCHECK [DATABASE]
# Looks for known vulnerabilities that the code reaches, those of the end-to-end tests too. Where the database cannot be reached nothing
# was checked; it says so and ends with status 4, for that is not the same as having found nothing. What govulncheck finds is status 3.
set -u

govulncheck=$1 database=${2-}
log=$(mktemp)
trap 'rm -f "$log"' EXIT

"$govulncheck" ${database:+-db "$database"} -tags e2e ./... >"$log" 2>&1
status=$?
cat "$log"
if grep -q 'fetching vulnerabilities' "$log"; then
	echo "vuln: NOTHING WAS CHECKED: the vulnerability database cannot be reached from here." >&2
	echo "vuln: run it where it can be, or give a copy: make vuln VULNDB=file:///path/to/vulndb" >&2
	exit 4
fi
exit "$status"
