# Prints the address of the Redis primary: who-is-primary.sh SERVICE SENTINELS SERVERS [TLS]. SENTINELS and SERVERS are
# lists of address:port, separated by spaces, in one argument. TLS: the TLS options of redis-cli in one argument.
# The role sets SENTINEL_PASSWORD and OPERATOR_PASSWORD above this text; every user could read them on a command line.
set -u

ask() {
    address=${1%:*} port=${1##*:}
    shift
    # shellcheck disable=SC2086 # the TLS options are several words
    timeout 2 redis-cli $tls --no-auth-warning -h "$address" -p "$port" "$@" 2>/dev/null
}

service=$1 sentinels=$2 servers=$3 tls=${4:-}
command -v redis-cli >/dev/null || exit 0

for sentinel in $sentinels; do
    primary=$(REDISCLI_AUTH=${SENTINEL_PASSWORD:-} ask "$sentinel" sentinel get-master-addr-by-name "$service" | head -n 1)
    case $primary in
    *.*.*.* | *:*:*)
        echo "$primary"
        exit 0
        ;;
    esac
done

# No sentinel answers. A server with the role of a primary and with replicas is the primary.
for server in $servers; do
    role=$(REDISCLI_AUTH=${OPERATOR_PASSWORD:-} ask "$server" --user operator info replication | tr -d '\r')
    case $role in
    *role:master*connected_slaves:[1-9]*)
        echo "${server%:*}"
        exit 0
        ;;
    esac
done
