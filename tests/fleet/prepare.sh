#!/bin/sh
# Installs the tools for test hosts, as root on Debian. On other systems the tests are skipped and say why.
set -eu
[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || exit 0
missing=
for pair in mmdebstrap:mmdebstrap systemd-nspawn:systemd-container dpkg-scanpackages:dpkg-dev ip:iproute2 \
    ssh:openssh-client promtool:prometheus; do
    command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair#*:}"
done
[ -z "$missing" ] && exit 0
echo "Installing$missing"
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086
if ! { apt-get update -qq &&
    apt-get install -qq --no-install-recommends -o Dpkg::Use-Pty=0 $missing >/dev/null; }; then
    echo "These packages can't be installed:$missing. Tests that need them are skipped." >&2
fi
