# Moves what is in the folders of a spool aside: set-aside.sh SPOOL. Prints where to; nothing where there was nothing.
set -eu
cd "$1"
[ -n "$(find raw temp processed archive errors -type f -o -type l 2>/dev/null | head -n 1)" ] || exit 0
aside=$1/aside-$(date -u +%Y%m%dT%H%M%SZ)
install -d -m 0750 -o llm -g llm "$aside"
for folder in raw temp processed archive errors; do
    [ ! -d $folder ] || mv $folder "$aside/"
done
systemd-tmpfiles --create llm.conf
echo "$aside"
