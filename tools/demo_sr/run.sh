#!/usr/bin/env bash
# demo-sr made sharp for a demo backbone: as it is now, or as it will be.
#
#   tools/demo_sr/run.sh FACES STATE MODEL [MODEL...]
#
# FACES: pictures with landmarks.csv and attributes.csv; STATE: a folder outside the repo, in which
# everything is kept and gone on with; MODEL: diffusers folders of the backbones whose portraits are
# to be made sharp. Called again with the same arguments it goes on where it was cut; with other
# models (AGAIN=1) their portraits are looked at, and training goes on from the weights that the
# package has, in a fifth of the steps.
#
# Variables:
#   PYTHON     default python
#   SFACE      its ONNX file (default: what `mcap models pull sface` fetches)
#   DATA       faces prepared at 256 (tools/demo_backbone/prepare.py), whose mattes put plain
#              backgrounds behind a third; without, none
#   LARGE      how many faces are drawn at 1024 pixels (default 220)
#   START      weights to go on from (default: those that the package has)
#   SR_STEPS   of demo-sr (default 1500, again 300)
#   AGAIN      1: other models than before
#   FACE_STEPS of demo-face (default 0, which leaves it out; the package's had 3600, again 500)
#   FACE       its weights to go on from (default: from nothing)
#   EXPORT     where the files go (default STATE/export)
set -euo pipefail

[ $# -ge 3 ] || { sed -n '2,/^set/{/^set/!p}' "$0"; exit 2; }
here=$(cd "$(dirname "$0")" && pwd); root=$(cd "$here/../.." && pwd)
faces=$1; state=$2; shift 2
python=${PYTHON:-python}; again=${AGAIN:-}
pairs=$state/pairs; export_to=${EXPORT:-$state/export}
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
export PYTHONPATH=$root:$root/plugins${PYTHONPATH:+:$PYTHONPATH}
mkdir -p "$state"

models=()
for model in "$@"; do models+=(--model "$model"); done
sface=${SFACE:-}
if [ -z "$sface" ]; then
    "$python" -m mcap models pull sface >&2
    sface=$("$python" -m mcap models path sface)
fi

work() { nice -n 19 "$python" "$@"; }

# What was trained for other models is not gone on with, and what they saw is not taken for this.
wanted=$(printf '%s\n' "$@")
if [ -n "$again" ] && [ "$wanted" != "$(cat "$state/models" 2>/dev/null || true)" ]; then
    rm -f "$pairs"/seen_*.npy "$state"/redrawn/* "$state"/sr/sharp.pt "$state"/face/face.pt
fi
printf '%s' "$wanted" >"$state/models"

start=${START:-$root/plugins/mcap_plugins/demo_sr/model.safetensors}
sr_steps=${SR_STEPS:-$([ -n "$again" ] && echo 300 || echo 1500)}

work "$here/draw_large.py" --faces "$faces" --out "$state/large" --count "${LARGE:-220}" --held-out 24
work "$here/prepare_pairs.py" --faces "$faces" --large "$state/large" "${models[@]}" --out "$pairs" \
    ${DATA:+--data "$DATA"}
work "$here/sharpen_sr.py" --pairs "$pairs" --sface "$sface" \
    --start "$start" --out "$state/sr" --steps "$sr_steps"
work "$here/export_sr.py" --out "$state/sr" --state sharp.pt --to "$export_to/demo_sr.safetensors"

# tools/demo_face: the face restorer, after demo-sr, on whose pictures it works.
steps=${FACE_STEPS:-0}
if [ "$steps" -gt 0 ]; then
    face=$here/../demo_face
    # Of the last of the models, which is the newest.
    work "$face/redraw.py" --faces "$faces" --large "$state/large" --model "${!#}" \
        --with "$export_to/demo_sr.safetensors" --out "$state/redrawn"
    work "$face/train_face.py" --pairs "$state/redrawn" --sface "$sface" --out "$state/face" \
        --steps "$steps" ${FACE:+--start "$FACE" --alone 0}
    work "$face/export_face.py" --out "$state/face" --to "$export_to/demo_face.safetensors"
fi
