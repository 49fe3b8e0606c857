#!/usr/bin/env bash
# The UNet, the text encoder and the identity word on one GPU, from a folder that pack.py made; needs
# no network and nothing beside that folder but torch, diffusers, transformers and safetensors.
#
#   bash PACK/gpu.sh OUT
#
# Goes on from the packed weights as if they had seen no rows, and leaves OUT/average.fp16.safetensors
# (which run.sh goes on with when it is put into STATE/run). In the environment:
#   SECONDS_LEFT  for the training; the rate reaches 0 when they are over (default 540)
#   BATCH         (default 512)      ROWS    at most (default 20000000)
#   DEVICE        (default cuda)     PYTHON  (default python)
#   COMPILE=0     without torch.compile
set -euo pipefail

pack=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${1:-${OUT:-}}
if [ -z "$out" ]; then
    echo "usage: gpu.sh OUT" >&2
    exit 2
fi
python=${PYTHON:-python} device=${DEVICE:-cuda} batch=${BATCH:-512}
work=$(mktemp -d)
mkdir -p "$out"
# Also of a run that is cut short, since the last state is less than a minute old.
finish() {
    cp "$work/run/average.fp16.safetensors" "$out/" 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 143' TERM

"$python" "$pack/pack.py" --unpack "$pack" --to "$work"
begin=$work/start.safetensors
"$python" "$pack/pack.py" --forget-rows "$work/run/average.fp16.safetensors" --to "$begin"
rm "$work/run/average.fp16.safetensors"
compile=()
[ "${COMPILE:-1}" = 0 ] || compile=(--compile)
# A schedule by the clock: how many rows a second a GPU does is not known before. States are kept
# now and then, so that a run that is cut short leaves its averaged weights.
"$python" "$pack/train_unet.py" --data "$work/data" --out "$work/run" --start "$begin" \
    --rows "${ROWS:-20000000}" --seconds "${SECONDS_LEFT:-540}" --batch "$batch" \
    --device "$device" --flat 0.6 --save-every 60 "${compile[@]}" --threads 1 |
    tee "$out/log"
