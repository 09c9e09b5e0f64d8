#!/usr/bin/env bash
# For RUSTC_WRAPPER: leaves the fuzzer's instrumentation, and assertions for debugging, out of what is not ours. It then
# learns from our branches alone, and whole conversations, most of whose branches are tokio's, run several times as fast.
set -euo pipefail

arguments=("$@")
# Cargo says this of crates from a registry only.
if [[ " $* " == *" --cap-lints "* ]]; then
    arguments=()
    for argument in "$@"; do
        case "$argument" in
        -Cpasses=sancov-module | -Cllvm-args=-sanitizer-coverage-* | -Cdebug-assertions) ;;
        *) arguments+=("$argument") ;;
        esac
    done
fi
exec "${arguments[@]}"
