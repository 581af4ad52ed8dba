# Sourced by local.sh and test.sh: makes .venv and installs the project with the extras named in $extras.
# Installs again only when pyproject.toml, the extras or the interpreter changed.
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# XLA:CPU takes the scratch memory of a step anew each time; kept by the allocator it is not faulted in again
# which helps large steps. Small ones, with many threads at the one arena, lose by it: docs/performance.md.
export MALLOC_MMAP_THRESHOLD_=2000000000 MALLOC_TRIM_THRESHOLD_=4000000000 MALLOC_ARENA_MAX=1

find_python() {
    for name in python3 python python3.13 python3.12 python3.11; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then echo "$name"; return; fi
    done
    echo "vlr_jax needs Python 3.11 or newer; none of python3, python, python3.13, python3.12, python3.11 is." >&2
    return 1
}

find_accelerator() {  # the extra that brings jax's own build for the device of this machine; empty on a CPU
    if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1; then echo cuda
    elif [ -e /dev/accel0 ] || { [ -n "${TPU_NAME:-}" ] && [ -e /dev/vfio/0 ]; }; then echo tpu
    fi
}

set_up() {
    if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        local python; python=$(find_python)
        echo "vlr_jax: making .venv with $("$python" --version)"
        "$python" -m venv --clear .venv || { echo "vlr_jax: $python can't make environments; on Debian: apt install python3-venv" >&2; return 1; }
    fi
    local wanted stamp=".venv/installed-${extras:-base}"
    wanted="$(cksum < pyproject.toml) $(.venv/bin/python --version)"
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        echo "vlr_jax: installing into .venv (about a minute and 1 GB)${extras:+ with extras: $extras}"
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".${extras:+[$extras]}"
        echo "$wanted" > "$stamp"
    fi
}
