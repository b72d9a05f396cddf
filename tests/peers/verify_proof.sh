#!/usr/bin/env bash
# Verifies a receipt with software that is not ours: proofbundle's C2SP tlog-proof verifier.
#   verify_proof.sh PROOF ENTRY VKEY [ORIGIN]
# PROOF is the .tlog-proof file, ENTRY the file with the log entry's exact bytes, VKEY the log's verifier
# key (name+hash+key) or a file that holds it. Prints proofbundle's JSON; exits 0 only if it accepts.
set -euo pipefail

if [[ $# -lt 3 || $# -gt 4 ]]; then
    sed -n '2,5s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
tools=${WAYMARK_TEST_PEERS:-$here/../../.tests}
vkey=$3
if [[ -f $vkey ]]; then
    vkey=$(tr -d '\r\n' <"$vkey")
fi
origin=()
if [[ $# -eq 4 ]]; then
    origin=(--expected-origin "$4")
fi
exec "$tools/py/bin/proofbundle" verify-proof "$1" --payload-file "$2" --log-vkey "$vkey" \
    ${origin[@]+"${origin[@]}"} --json
