# Lets units run, and no others of the release's: run-units.sh CHECK RESTART AUTOSCALE PATIENCE UNIT...
# With RESTART `true` those that run are restarted, one after the other. With AUTOSCALE `true` workers that nobody enabled
# are left alone. Prints what it changes; with CHECK `true`, what it would change.
set -u
check=$1 restart=$2 autoscale=$3 patience=$4
shift 4
failed=

act() { # says and does
    echo "$*"
    [ "$check" = true ] && return
    if ! timeout "$patience" systemctl "$@"; then
        failed="$failed $2"
        systemctl --no-pager --lines=15 status "$2" >&2
    fi
}

# What of ours is enabled or runs, and is not wanted here.
ours='llm-ingest.service llm-collector.service llm-scheduler.service llm-worker@*.service llm-api.service
    llm-api@*.service llm-autoscale.timer'
for unit in $(
    set -f # the patterns are systemctl's and find's
    {
        systemctl list-unit-files --state=enabled --plain --no-legend $ours
        systemctl list-units --all --plain --no-legend $ours
        for pattern in $ours; do
            find /etc/systemd/system -path "*.wants/$pattern" -printf '%f\n' 2>/dev/null
        done
    } | cut -d ' ' -f 1 | sort -u
); do
    wanted="$*"
    case " $wanted " in *" $unit "*) continue ;; esac
    case $unit in
    *@.service) continue ;; # a template
    esac
    if [ "$(systemctl is-enabled "$unit" 2>/dev/null)" = enabled ]; then
        act disable "$unit"
    else
        case $unit in
        llm-worker@*) [ "$autoscale" = true ] && continue ;;
        esac
    fi
    case $(systemctl is-active "$unit" 2>/dev/null) in
    active | activating | reloading) act stop "$unit" ;;
    esac
done

for unit in llm.target "$@"; do
    [ "$(systemctl is-enabled "$unit" 2>/dev/null)" = enabled ] || act enable "$unit"
    state=$(systemctl is-active "$unit" 2>/dev/null)
    if [ "$state" != active ]; then
        # One that failed too often has to be forgiven before it may start.
        [ "$check" = true ] || systemctl reset-failed "$unit" 2>/dev/null
        act start "$unit"
    elif [ "$restart" = true ] && [ "$unit" != llm.target ]; then
        act restart "$unit"
    fi
done

if [ -n "$failed" ]; then
    echo "These units do not run:$failed. What they say is above; all of it: journalctl -u UNIT" >&2
    exit 1
fi
