#!/bin/sh
# Packs all that a host needs to build a release:
#   make-bundle.sh BUNDLE WHEELHOUSE UNITS BUILD_SCRIPT VERSION [HANDLER_WHEEL...]
# The same content gives the same bundle. Prints "made" if the bundle is new.
set -eu
bundle=$1 wheelhouse=$2 units=$3 build=$4 version=$5
shift 5
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/wheels" "$work/handlers" "$(dirname "$bundle")"
for wheel in "$wheelhouse"/*.whl; do
    case ${wheel##*/} in
    llm_json_scheduler-"$version"-*) ;;
    llm_json_scheduler-*) continue ;; # another version of the project
    esac
    ln -s "$(realpath "$wheel")" "$work/wheels/"
done
for wheel in "$@"; do
    ln -s "$(realpath "$wheel")" "$work/handlers/"
done
cp -R "$units" "$work/systemd"
cp "$build" "$work/build-release"
chmod 755 "$work/build-release"
tar --create --dereference --sort=name --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX --mtime=@0 \
    --file "$work/bundle.tar" -C "$work" build-release handlers systemd wheels
if ! cmp --silent "$work/bundle.tar" "$bundle"; then
    mv "$work/bundle.tar" "$bundle.new"
    mv "$bundle.new" "$bundle"
    echo made
fi
