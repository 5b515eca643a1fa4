#!/bin/sh
# Builds a release from the files in this folder: build-release PYTHON RELEASE. It needs neither a network nor pip.
# A complete release has the file .complete. An incomplete one is built again.
set -eu
umask 022
python=$1 release=$2
here=$(cd "$(dirname "$0")" && pwd)

[ ! -e "$release/.complete" ] || exit 0
"$python" -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else 1)' || {
    echo "$python is older than Python 3.11. Install a newer one, and let llm_python name it." >&2
    exit 1
}
rm -rf "$release"
# pip runs from its wheel, so that neither the release needs pip nor the host python3-venv.
"$python" -m venv --without-pip "$release"
pip=$(ls "$here"/wheels/pip-*.whl)
"$release/bin/python" "$pip/pip" install --quiet --disable-pip-version-check --no-cache-dir --no-index \
    --find-links "$here/wheels" --find-links "$here/handlers" \
    "$here"/wheels/llm_json_scheduler-*.whl $(ls "$here"/handlers/*.whl 2>/dev/null)
mkdir -p "$release/share"
cp -R "$here/systemd" "$release/share/systemd"
"$release/bin/llmctl" --help >/dev/null
touch "$release/.complete"
