#!/usr/bin/env bash
# The third version of the demo backbone, from faces to a diffusers folder: goes on with whatever
# stage is next, and may be called, stopped and called again at any time.
#
#   tools/demo_backbone/run.sh FACES STATE
#
# FACES: a folder that prepare.py reads. STATE: a folder outside the repo that outlives the process;
# its file pid says whom to stop (TERM: the state is kept) or to pause.
# In the environment:
#   PYTHON     the interpreter (default python), with mcap importable
#   MODEL      diffusers folder of the version before (default the packaged one): its autoencoder
#              and its tokenizer go on
#   WEIGHTS    safetensors with a trained UNet to begin with (begin.py). On a new machine none is
#              needed: it goes on from STATE/run/average.fp16.safetensors, or from that file in
#              progress/ beside this script, at the row that the file names
#   SEGMENTER  selfie_segmentation.tflite; without, npm fetches it
#   SFACE      its ONNX file (default: what `mcap models pull sface` fetches)
#   ROWS       of the UNet (default 1000000)
#   PICTURES   of the decoder (default 30000)
#   PARTS      of latents (default 16), the first of which training waits for
#   THREADS    of the trainings: 1, 2 or auto, whichever is quicker at the time (default)
#   STAGE      this stage alone: prepare, text, begin, encode, unet, decoder or export
#   DRY=1      says which stage is next, and ends
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
faces=${1:-${FACES:-}} state=${2:-${STATE:-}}
if [ -z "$faces" ] || [ -z "$state" ]; then
    echo "usage: run.sh FACES STATE" >&2
    exit 2
fi
python=${PYTHON:-python}
model=${MODEL:-$here/../../plugins/mcap_plugins/demo/model}
rows=${ROWS:-1000000} pictures=${PICTURES:-30000} parts=${PARTS:-16} threads=${THREADS:-auto}
data=$state/data run=$state/run kept=$here/progress/average.fp16.safetensors
latents=(--data "$data" --vae "$model/vae" --out "$run")

next_stage() {
    "$python" "$here/stage.py" "$state" --rows "$rows" --pictures "$pictures"
}

weight() { # name, path or nothing: where a weight lies, fetched if need be
    if [ -n "$2" ]; then
        echo "$2"
    else
        "$python" -m mcap models pull "$1" >&2 && "$python" -m mcap models path "$1"
    fi
}

segmenter() {
    local file=${SEGMENTER:-$state/package/selfie_segmentation.tflite}
    if [ ! -f "$file" ]; then
        (cd "$state" && npm pack --silent @mediapipe/selfie_segmentation@0.1.1675465747 >/dev/null &&
            tar xzf mediapipe-selfie_segmentation-0.1.1675465747.tgz)
    fi
    echo "$file"
}

# In the background and waited for, so that a signal is handed on at once; never from a function in
# the background, whose subshell would get the signal in the program's place.
work() {
    "$python" "$@" &
    wait $!
}

# A trainer keeps its state when it is told to stop.
stop() {
    kill -TERM $(jobs -p) 2>/dev/null || true
    wait
    exit 143
}

stage() {
    case $1 in
    prepare)
        # Into variables first: a command substitution that fails among arguments ends nothing.
        local tflite sface
        tflite=$(segmenter)
        sface=$(weight sface "${SFACE:-}")
        work "$here/prepare.py" --faces "$faces" --segmenter "$tflite" --sface "$sface" --out "$data"
        ;;
    text) work "$here/text.py" --start "$model/tokenizer" --out "$run" ;;
    begin)
        work "$here/begin.py" --tokenizer "$run/tokenizer" ${WEIGHTS:+--weights "$WEIGHTS"} \
            --out "$run/start.safetensors"
        ;;
    encode) work "$here/encode_latents.py" "${latents[@]}" --parts 1 ;;
    unet)
        local first=$run/average.fp16.safetensors
        # A new machine goes on from the weights that the repository keeps, at their row.
        [ -f "$first" ] || [ ! -f "$kept" ] || cp "$kept" "$first"
        [ -f "$first" ] || first=$run/start.safetensors
        "$python" "$here/encode_latents.py" "${latents[@]}" --parts "$parts" &
        local encoder=$!
        work "$here/train_unet.py" --data "$data" --out "$run" --start "$first" --rows "$rows" \
            --threads "$threads"
        # The UNet has had its rows by now, with or without the last parts.
        wait $encoder || echo "not all parts were encoded"
        ;;
    decoder)
        local sface
        sface=$(weight sface "${SFACE:-}")
        work "$here/train_decoder.py" --data "$data" --model "$model" --out "$run" \
            --sface "$sface" --pictures "$pictures" --threads "$threads"
        ;;
    export) work "$here/export.py" --run "$run" --model "$model" --to "$state/model" ;;
    *)
        echo "there is no stage '$1'" >&2
        exit 2
        ;;
    esac
}

main() {
    if [ -n "${DRY:-}" ]; then
        echo "${STAGE:-$(next_stage)}"
        exit
    fi
    mkdir -p "$run"
    # One at a time. The lock falls with the last process that has it open: with run.sh, or, where
    # that alone was killed, with the training that it left behind.
    exec 9>"$state/lock"
    if ! flock -n 9; then
        echo "another run.sh is at work on $state"
        exit
    fi
    echo $$ >"$state/pid"
    renice -n 19 -p $$ >/dev/null
    # Where Linux groups processes by session, nice counts within a session alone; a session of our
    # own (setsid) gives way to the others by its group's value.
    if [ -w /proc/$$/autogroup ] && [ "$(($(ps -o sid= -p $$)))" = $$ ]; then
        echo 19 >/proc/$$/autogroup
    fi
    # Threads that wait by spinning take the time of those that work where the machine is shared.
    export OMP_WAIT_POLICY=PASSIVE PYTHONUNBUFFERED=1
    trap stop TERM INT
    if [ -n "${STAGE:-}" ]; then
        stage "$STAGE"
        exit
    fi
    local before='' now
    while now=$(next_stage) && [ "$now" != done ]; do
        if [ "$now" = "$before" ]; then
            echo "stage $now left nothing behind" >&2
            exit 1
        fi
        echo "$(date -u +%FT%TZ) stage $now"
        stage "$now"
        before=$now
    done
    echo "$(date -u +%FT%TZ) done: $state/model"
    exit
}

# Read whole before anything runs, so that a newer copy put in its place does no harm.
main
