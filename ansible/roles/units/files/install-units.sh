# Installs a release's units, verbatim: install-units.sh ROOT RELEASE CHECK. Prints each file that changes; with CHECK
# `true`, that would change. What a former release brought and this one does not is removed.
set -eu
root=$1 release=$2 check=$3
from=$root/releases/$release/share/systemd
list=$root/units.list # what is installed

if [ ! -d "$from" ]; then
    echo "all units of $release (it is not built yet)"
    exit 0
fi

places() { # where a file of the folder goes
    case $1 in
    sysusers.d/* | tmpfiles.d/*) echo "/usr/lib/$1" ;;
    llm-worker@?*.service.d/*)
        # A queue's weight holds for all its workers, and systemd looks for that of each under its own name.
        folder=${1%%.service.d/*}
        echo "/etc/systemd/system/$1"
        for number in 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do
            echo "/etc/systemd/system/$folder.$number.service.d/${1##*/}"
        done
        ;;
    *) echo "/etc/systemd/system/$1" ;;
    esac
}

new=$(mktemp)
trap 'rm -f "$new"' EXIT
cd "$from"
find . -type f \( -name '*.service' -o -name '*.timer' -o -name '*.target' -o -name '*.slice' -o -name '*.socket' \
    -o -name '*.path' -o -name '*.conf' -o -name '*.preset' \) | sed 's|^\./||' | sort | while read -r file; do
    for to in $(places "$file"); do
        echo "$to" >>"$new"
        cmp -s "$file" "$to" && continue
        echo "$to"
        [ "$check" = true ] || install -D -m 0644 -o root -g root "$file" "$to"
    done
done
if [ -e "$list" ]; then
    grep -vxFf "$new" "$list" | while read -r gone; do
        echo "$gone (removed)"
        [ "$check" = true ] || rm -f "$gone"
    done || true
fi
[ "$check" = true ] || install -m 0644 "$new" "$list"
