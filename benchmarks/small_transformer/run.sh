#!/usr/bin/env bash
# The small transformer, from faces to a folder for --backbone; goes on where it was.
#
#   benchmarks/small_transformer/run.sh FACES STATE [ROWS]
#
# FACES and what is set in the environment: as of tools/demo_backbone/run.sh, whose stages prepare
# the pictures. ROWS: 120000. STATE/model is what --backbone takes.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
demo=$here/../../tools/demo_backbone faces=${1:?FACES} state=${2:?STATE} rows=${3:-120000}
python=${PYTHON:-python}
export OMP_WAIT_POLICY=PASSIVE PYTHONUNBUFFERED=1
[ -f "$state/data/table.json" ] || STAGE=prepare PYTHON=$python "$demo/run.sh" "$faces" "$state"
"$python" "$demo/encode_latents.py" --data "$state/data" --parts "${PARTS:-8}" \
    --vae "$here/../../plugins/mcap_plugins/demo/model/vae" --out "$state/latents"
"$python" "$here/train.py" --data "$state/data" --latents "$state/latents" --out "$state/run" \
    --rows "$rows"
"$python" "$here/save_folder.py" --run "$state/run" --to "$state/model"
