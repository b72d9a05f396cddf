#!/usr/bin/env bash
# OpenSSH's own SFTP server on a free port of this machine, for whoever runs it.
#   sftp.sh --record FILE HOME
# HOME is where SFTP users start. Beside it come the keys: HOME.key and HOME.key.pub (the client's), HOME.host.pub, and
# HOME.fingerprint (of the host key). FILE gets the server's log. Prints READY <port> once it answers.
set -euo pipefail

[[ $# -eq 3 && $1 == --record ]] || { sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2; }
record=$2
home=$(realpath -- "$3")
sshd=/usr/sbin/sshd
[[ -x $sshd ]] || { echo "sftp.sh: no $sshd: run tests/run --setup-only" >&2; exit 1; }
# Without this folder a server that root starts refuses to begin.
[[ $(id -u) -ne 0 ]] || mkdir -p /run/sshd

ssh-keygen -q -t ed25519 -N '' -C client -f "$home.key"
ssh-keygen -q -t ed25519 -N '' -C host -f "$home.host"
ssh-keygen -l -f "$home.host.pub" | cut -d ' ' -f 2 >"$home.fingerprint"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat >"$home.config" <<CONFIG
Port $port
ListenAddress 127.0.0.1
HostKey $home.host
AuthorizedKeysFile $home.key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
MaxStartups 100
Subsystem sftp internal-sftp -d $home
CONFIG
(
    until (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do sleep 0.05; done
    echo "READY $port"
) &
exec "$sshd" -D -f "$home.config" -E "$record"
