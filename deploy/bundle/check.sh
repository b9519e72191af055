#!/bin/sh
# Proves a bundle: installs it into an empty folder without any network, and audits an example film with it.
# deploy/bundle/check.sh BUNDLE.tar     Needs the right to make a network namespace.
set -eu
bundle=$(realpath "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tar -C "$work" -xf "$bundle"
unshare --map-root-user --net env -i PATH="$PATH" HOME="$work" sh -eu -c '
    if [ -n "$(cat /proc/net/route | tail -n +2)" ]; then echo "there is a network" >&2; exit 1; fi
    cd "$0"/triggerscope-offline-*
    ./install.sh "$0/installed"
    cd "$0/installed"
    bin/triggerscope audit models/examples/triggered-910017-monochrome2.dcm --classifier phantom-badnet3
' "$work" | tee "$work/out"
grep -q suspicious "$work/out"
