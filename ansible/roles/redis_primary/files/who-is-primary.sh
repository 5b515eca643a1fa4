# Prints the address of the Redis primary. $1: the service that the sentinels watch. $2, $3: the sentinels and the
# servers, each as address:port, in one word; $4: --tls and what belongs to it, or nothing.
# SENTINEL_PASSWORD and OPERATOR_PASSWORD are set above this text: what stands on a command line can be read by everybody.
set -u

ask() {
    address=${1%:*} port=${1##*:}
    shift
    # shellcheck disable=SC2086 # the options of TLS are several words
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

# No sentinel answers. A server that says it is the primary, and has replicas, is.
for server in $servers; do
    role=$(REDISCLI_AUTH=${OPERATOR_PASSWORD:-} ask "$server" --user operator info replication | tr -d '\r')
    case $role in
    *role:master*connected_slaves:[1-9]*)
        echo "${server%:*}"
        exit 0
        ;;
    esac
done
