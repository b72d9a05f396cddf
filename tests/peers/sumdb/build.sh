#!/bin/sh
# Builds sumdb-check into the directory given, from Debian's packages alone:
#   apt-get install -y golang-go golang-golang-x-mod-dev
set -eu
if [ $# -ne 1 ]; then
    echo "usage: $0 OUTPUT_DIRECTORY" >&2
    exit 2
fi
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
mkdir -p "$1"
out=$(CDPATH='' cd -- "$1" && pwd)
cd "$here"
# Module mode off: the packages come from the distribution, and nothing is fetched.
GO111MODULE=off GOPATH=/usr/share/gocode GOFLAGS='' CGO_ENABLED=0 \
    GOCACHE="${GOCACHE:-$out/.gocache}" go build -o "$out/sumdb-check" .
echo "$out/sumdb-check"
