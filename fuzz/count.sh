#!/usr/bin/env bash
# Fuzzes with every target and prints how often as a table. A target that fails ends it, with its crash in artifacts/.
#
#     fuzz/count.sh [EXECUTIONS [EXECUTIONS OF decapsulate AND conversation [SECONDS AT MOST, EACH; 0: any]]]
set -euo pipefail
cd "$(dirname "$0")/.."

runs="${1:-5000000}"
runs_of_slow="${2:-600000}"
seconds="${3:-0}"

# The stable toolchain takes the fuzzer's flags, too.
export RUSTC_BOOTSTRAP=1
log="$(mktemp)"
trap 'rm -f "$log"' EXIT

python3 fuzz/seeds.py
# Without a sanitizer: what is looked for are panics, failed assertions, and memory or time without bound.
cargo fuzz build -s none

printf '| target | executions | seconds | reached the consistency check |\n|---|---|---|---|\n'
for target in $(cargo fuzz list); do
    count="$runs"
    case "$target" in decapsulate | conversation) count="$runs_of_slow" ;; esac
    if ! cargo fuzz run -s none "$target" -- "-runs=$count" "-max_total_time=$seconds" >"$log" 2>&1; then
        tail -n 60 "$log" >&2
        exit 1
    fi
    read -r executions took < <(sed -n 's/^Done \([0-9]*\) runs in \([0-9]*\) second.*/\1 \2/p' "$log")
    # The target prints every thousandth, so these are rounded down.
    reached="$(awk '/^reached the consistency check/ { last[$5] = $6 } END { for (s in last) print s, last[s] }' "$log" |
        sort | paste -sd , | sed 's/,/, /g')"
    printf '| %s | %s | %s | %s |\n' "$target" "$executions" "$took" "$reached"
done
