#!/usr/bin/env bash
# A throw-away PostgreSQL server for tests, with durability on as in production.
#   postgres.sh start DIR PORT   makes the cluster in DIR if needed, starts it, prints its URL;
#                                PORT 0 picks a free one; a running server is left and named again
#   postgres.sh stop DIR         stops it; DIR can then be removed
# Run as root it gives DIR to the user postgres, since the server refuses to be root; every directory
# above DIR must then be searchable by that user. Socket and TCP both trust: loopback only.
set -euo pipefail

usage() {
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

[[ $# -ge 2 ]] || usage
action=$1
dir=$(realpath -m -- "$2")

bin=${WAYMARK_TEST_PG_BIN:-}
if [[ -z $bin ]]; then
    bin=$(find /usr/lib/postgresql -mindepth 2 -maxdepth 2 -name bin 2>/dev/null | sort -V | tail -n 1)
fi
if [[ ! -x $bin/initdb ]]; then
    echo "postgres.sh: no PostgreSQL server found; run tests/run --setup-only" >&2
    exit 1
fi

as_server() {
    if [[ $(id -u) -eq 0 ]]; then
        setpriv --reuid=postgres --regid=postgres --init-groups --inh-caps=-all \
            env -C "$dir" HOME="$dir" "$@"
    else
        env -C "$dir" "$@"
    fi
}

running() {
    [[ -f $dir/data/postmaster.pid ]] && as_server "$bin/pg_ctl" -D "$dir/data" status >/dev/null
}

start_on() {
    local options="-p $1 -c listen_addresses=127.0.0.1 -c unix_socket_directories=$dir"
    options+=" -c fsync=on -c synchronous_commit=on -c full_page_writes=on"
    options+=" -c shared_buffers=128MB -c max_connections=200"
    # Standard streams closed: a daemon holding the caller's pipe would make the caller wait forever.
    as_server "$bin/pg_ctl" -D "$dir/data" -l "$dir/server.log" -o "$options" -w -t 60 start \
        </dev/null >/dev/null 2>&1
}

start() {
    local wanted=$1 port attempt
    mkdir -p "$dir"
    exec 9>"$dir.lock"
    flock 9
    if [[ $(id -u) -eq 0 ]]; then
        chown postgres:postgres "$dir"
        if ! setpriv --reuid=postgres --regid=postgres --init-groups test -x "$dir"; then
            echo "postgres.sh: the user postgres cannot reach $dir: chmod o+x its parents" >&2
            exit 1
        fi
    fi
    if [[ ! -f $dir/data/PG_VERSION ]]; then
        as_server "$bin/initdb" -D "$dir/data" -A trust -U postgres -E UTF8 --locale=C --no-sync \
            </dev/null >"$dir.initdb.log" 2>&1 9>&- || { cat "$dir.initdb.log" >&2; exit 1; }
        rm -f "$dir.initdb.log"
    fi
    if ! running; then
        for attempt in $(seq 20); do
            port=$wanted
            [[ $port -ne 0 ]] || port=$((20000 + RANDOM % 12000))
            if start_on "$port" 9>&-; then
                break
            fi
            if [[ $wanted -ne 0 || $attempt -eq 20 ]]; then
                tail -n 20 "$dir/server.log" >&2
                exit 1
            fi
        done
    fi
    # Line 4 of postmaster.pid is the port in use.
    echo "postgres://postgres@127.0.0.1:$(sed -n 4p "$dir/data/postmaster.pid")/postgres"
}

stop() {
    if running; then
        as_server "$bin/pg_ctl" -D "$dir/data" -m fast -w -t 60 stop </dev/null >/dev/null
    fi
    rm -f "$dir.lock"
}

case $action in
start)
    [[ $# -eq 3 && $3 =~ ^[0-9]+$ ]] || usage
    start "$3"
    ;;
stop)
    [[ $# -eq 2 ]] || usage
    stop
    ;;
*) usage ;;
esac
