#!/bin/sh
# Installs Triggerscope from this folder: ./install.sh DIRECTORY
# Needs python3 of the version in the file PYTHON, and nothing else: no pip, no network.
set -eu
target=${1:?say where to, for example: ./install.sh /opt/triggerscope}
mkdir -p "$target"
target=$(cd "$target" && pwd)
cd "$(dirname "$0")"

sha256sum --check --quiet SHA256SUMS
found=$(python3 -c 'import sys, sysconfig; print("{}.{}".format(*sys.version_info), sysconfig.get_platform())')
if [ "$found" != "$(cat PYTHON)" ]; then
    echo "this bundle is for Python $(cat PYTHON); python3 here is $found" >&2
    exit 1
fi
python3 -m venv --without-pip "$target"
"$target/bin/python" "$(echo wheels/pip-*.whl)/pip" install --quiet --no-index --find-links wheels -r requirements.txt triggerscope
cp -r models "$target/"
echo "installed: $target/bin/triggerscope --models-dir $target/models --help"
