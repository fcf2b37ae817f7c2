#!/usr/bin/env bash
# Runs once in the new conda environment: installs exactly what envs/lock.txt names.
# Dependencies are all in the lock, hence --no-deps (cellpose's numpy limit is overridden there).
set -euo pipefail
lock=${MYOSTAGE_LOCK:-envs/lock.txt}
if [[ ! -f $lock ]]; then
    echo "$PWD/$lock is missing: start snakemake in the folder of the Snakefile, or set MYOSTAGE_LOCK" >&2
    exit 1
fi
python -m pip install --require-hashes --requirement "$(dirname "$lock")/uv.txt"
python -m uv pip install --python "$(command -v python)" --compile-bytecode --no-deps --require-hashes --requirement "$lock"
