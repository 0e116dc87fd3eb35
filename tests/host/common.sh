# What the tests of a whole host have in common: checks of the host, the load client, the server's figures, and the telling. They
# source it, and set CONNECTIONS and BROADCASTS.
set -euo pipefail
export LC_ALL=C DEBIAN_FRONTEND=noninteractive
load= # the load client's process, while it runs
server=http://127.0.0.1:3001

# begin SCRIPT ARGUMENTS...: checks the host and the arguments; $package is the package, $scratch a folder until the end.
begin() {
  local script=$1
  [ "${2:-}" = --change-this-host ] && [ -f "${3:-}" ] || {
    sed -n '2,/^set/s/^# \{0,1\}//p' "$script" >&2
    exit 2
  }
  package=$(realpath "$3")
  [ "$(id -u)" -eq 0 ] || fail "root alone can install packages"
  command -v curl >/dev/null || fail "curl is missing"
  [ -d /run/systemd/system ] || fail "systemd does not run this host"
  ! command -v fanfare >/dev/null || fail "there is a fanfare on this host already"
  scratch=$(mktemp -d)
  trap '[ -z "$load" ] || kill "$load"; rm -rf "$scratch"' EXIT
}

# ---- the load client ----

# start_load NAME URL FLAGS...: $CONNECTIONS clients, $BROADCASTS broadcasts, then held until end_load.
start_load() {
  local name=$1
  shift
  fanfare load "$@" --clients "$CONNECTIONS" --json "$scratch/$name.json" \
    --publish-url $server/publish --publish-token-file /etc/fanfare/publish-token \
    --publish-rate lockstep --publish-count "$BROADCASTS" --settle 20m --duration 2h \
    --connect-timeout 20m --no-default-thresholds >"$scratch/$name.out" 2>"$scratch/$name.err" &
  load=$!
}

end_load() {
  kill -INT "$load"
  wait "$load" || fail "the load client: $(tail -n 5 "$scratch/$1.out" "$scratch/$1.err")"
  load=
}

figure() { sed -n "s/^ *\"$2\": \([^,]*\),\{0,1\}$/\1/p" "$scratch/$1.json"; }

exactly_once() {
  local name
  check "$BROADCASTS broadcasts, each to each" same "$(figure "$1" delivered_events)" $((BROADCASTS * CONNECTIONS))
  for name in lost duplicated disordered corrupted unresolved; do
    check "none was $name" same "$(figure "$1" ${name}_events)" 0
  done
}

kernel_memory_and_times() {
  show "the kernel's for each, in bytes, with the client's end" "$(figure "$1" kernel_bytes_per_connection)"
  show "seconds to open them" "$(figure "$1" connecting_seconds)"
  show "the slowest broadcast, from publishing to the last subscriber, in us" "$(figure "$1" last_subscriber_max_us)"
}

# ---- the server ----

# What fanfare tune may change of the kernel, as far as it is there.
kernel_settings() {
  sysctl -ea 2>/dev/null --pattern '^(fs\.(nr_open|file-max|epoll)|net\.core\.(somaxconn|netdev_max_backlog)|net\.ipv4\.tcp_(mem|max_)|net\.netfilter\.nf_conntrack_(max|buckets))'
}

main_pid() { systemctl show -P MainPID fanfare; }
resident_bytes() { awk '/^VmRSS:/ { print $2 * 1024 }' "/proc/$1/status"; }
metrics_status() { curl -so /dev/null -w '%{http_code}' "$@" $server/metrics; }
# The bound of the histogram's bucket that holds the longest turn.
longest_turn() {
  operator_sees metrics | awk -F '[" ]' '/^fanfare_loop_turn_duration_seconds_bucket/ && $4 != last { last = $4; bound = $2 } END { print bound }'
}
delivered_are() { [[ $(operator_sees metrics) == *$'\n'"fanfare_delivered_events_total $1"$'\n'* ]]; }
debug_has() { [[ $(operator_sees dashboard/debug) == *"$1"* ]]; }
streams_are() { [[ $(curl -s --max-time 20 $server/health) == *"\"streams\":$1}"* ]]; }
operator_sees() { curl -s --max-time 20 -H "@$scratch/operator" "$server/$1"; }

# What a package may leave behind, without what the host writes on its own account.
files_of_the_host() {
  find /etc /usr /var /run/systemd/system /opt -xdev \( -path /var/lib/dpkg -o -path /var/log -o -path /var/cache \
    -o -path /var/tmp -o -path /var/lib/nginx -o -path /var/lib/systemd/timers -o -path /var/lib/systemd/coredump \) \
    -prune -o -print | sort
}

# ---- telling ----

step() {
  echo "${1//_/ }"
  "$1"
}

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

# check WHAT COMMAND...: the command must succeed.
check() {
  local what=$1
  shift
  "$@" >"$scratch/said" 2>&1 || fail "$what: $(cat "$scratch/said")"
  echo "  ok $what"
}

# wait_for SECONDS WHAT COMMAND...: the command must succeed at some time.
wait_for() {
  local until=$((SECONDS + $1)) what=$2
  shift 2
  until "$@"; do
    [ $SECONDS -lt "$until" ] || fail "$what: not in time"
    [ -z "$load" ] || kill -0 "$load" 2>/dev/null || fail "the load client ended: $(tail -n 5 "$scratch"/*.err)"
    sleep 0.5
  done
  echo "  ok $what"
}

show() { echo "     $1: $2"; }
same() { [ "$1" = "$2" ] || { echo "$1 is not $2" && return 1; }; }
quietly() { "$@" >"$scratch/said" 2>&1 || fail "$*: $(cat "$scratch/said")"; }
