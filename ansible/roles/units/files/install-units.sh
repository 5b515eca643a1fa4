# Copies the systemd files of a release to their places: install-units.sh ROOT RELEASE CHECK.
# Prints `install PATH` for each file that is missing or differs, and `remove PATH` for each file that only a former
# release had; the role removes those once no unit uses them. With CHECK `true` it changes nothing.
set -eu
root=$1 release=$2 check=$3
from=$root/releases/$release/share/systemd
list=$root/units.list # every file that was ever installed

if [ ! -d "$from" ]; then
    echo "install all units of $release (it is not built yet)"
    exit 0
fi

places() { # where a file goes
    case $1 in
    sysusers.d/* | tmpfiles.d/*) echo "/usr/lib/$1" ;;
    llm-worker@?*.service.d/*)
        # The settings of a queue are for all its workers, but systemd 252 looks for drop-ins by the full unit name only.
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
        echo "install $to"
        [ "$check" = true ] || install -D -m 0644 -o root -g root "$file" "$to"
    done
done
[ "$check" = true ] || { touch "$list" && sort -u -o "$list" "$new" "$list"; }
if [ -e "$list" ]; then
    grep -vxFf "$new" "$list" | while read -r file; do
        [ ! -e "$file" ] || echo "remove $file"
    done
fi
