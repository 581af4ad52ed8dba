#!/usr/bin/env bash
# Sets up .venv on first use, then runs `python -m vlr_jax.main` with the flags given,
# or with the quickstart config where there are none.
#
#   bash launch/local.sh                                         the quickstart
#   bash launch/local.sh --config configs/vse_flickr8k.py        another run
#   bash launch/local.sh --extra=cuda --config …                 name the jax build (cpu, cuda, tpu) instead of finding it
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

case "${1:-}" in
    --extra=cpu) extras=; shift ;;
    --extra=*) extras=${1#--extra=}; shift ;;
    *) extras=$(find_accelerator) ;;
esac
set_up
if [ $# -eq 0 ]; then set -- --config configs/quickstart.py; fi
exec .venv/bin/python -m vlr_jax.main "$@"
