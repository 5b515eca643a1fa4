# Moves the files of a spool aside: set-aside.sh SPOOL. Prints the new folder, or nothing if the spool has no files.
# The folders stay, because units have them mounted. Hidden files stay, because they are no documents.
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
