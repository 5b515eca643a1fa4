# Moves what is in the folders of a spool aside: set-aside.sh SPOOL. Prints where to; nothing where there was nothing.
# The folders themselves stay: units have them mounted. So do hidden files, which are no documents.
set -eu
cd "$1"
aside=$1/aside-$(date -u +%Y%m%dT%H%M%SZ)
found=
for folder in raw temp processed archive errors; do
    [ -n "$(find $folder -mindepth 1 -maxdepth 1 ! -name '.*' 2>/dev/null | head -n 1)" ] || continue
    found=yes
    install -d -m 0750 -o llm -g llm "$aside" "$aside/$folder"
    find $folder -mindepth 1 -maxdepth 1 ! -name '.*' -exec mv -t "$aside/$folder" {} +
done
[ -z "$found" ] || echo "$aside"
