# Deletes all but the newest releases: prune.sh ROOT KEEP. The release in use and the former one always stay. Prints
# the releases that it deleted.
set -eu
root=$1 keep=$2
cd "$root/releases"
in_use=$(basename "$(readlink "$root/current")")
before=$(basename "$(readlink "$root/previous" || echo /)")
kept=0
ls -1t | while read -r release; do
    kept=$((kept + 1))
    if [ "$kept" -gt "$keep" ] && [ "$release" != "$in_use" ] && [ "$release" != "$before" ]; then
        rm -rf "./$release"
        echo "$release"
    fi
done
