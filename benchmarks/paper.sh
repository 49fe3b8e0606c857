#!/bin/sh
# The comparison of docs/evaluate.md at full size: every recipe on Stable Diffusion 1.5.
#
#     benchmarks/paper.sh PEOPLE OUT [OPTIONS FOR mcap evaluate...]
#
# PEOPLE has a subfolder of photos for each person, eight people or more. First it says how many
# hours, how much memory and how many gigabytes to fetch (--dry-run: only that), then it fetches CLIP
# for the measures that need it, trains, draws and measures. It may be stopped at any time: the same
# command goes on. OUT/report.html is the result.
#
# From the environment: BACKBONE (sd15), STYLES (passport,business), AGAINST (the recipes),
# REPEATS (3), MCAP (mcap).
set -eu

if [ "$#" -lt 2 ] || [ ! -d "$1" ]; then
    echo "usage: $0 PEOPLE OUT [OPTIONS FOR mcap evaluate...]" >&2
    echo "PEOPLE is a folder with one subfolder of photos a person" >&2
    exit 2
fi
people=$1
out=$2
shift 2
mcap=${MCAP:-mcap}
# Without dreambooth, whose trainings keep a whole UNet each: 3.4 GB. AGAINST names it where wanted.
# Nor with instant: these models bring no identity encoder.
rivals=released,textual-inversion,dreambooth-lora,custom-diffusion,pivotal-tuning
without=no-refocusing,no-composed,no-identity,no-masks
against=${AGAINST:-$rivals,$without}

compare() {
    "$mcap" evaluate --source "$people" --style "${STYLES:-passport,business}" \
        --against "$against" --repeats "${REPEATS:-3}" --backbone "${BACKBONE:-sd15}" \
        --out "$out" "$@"
}

echo "each training leaves 20 to 100 MB in $out" >&2
for option in "$@"; do
    [ "$option" = --dry-run ] && { compare "$@"; exit; }
done
compare --dry-run "$@" >/dev/null
"$mcap" models pull clip-l14 aesthetics || echo "without CLIP: its measures are left out" >&2
compare "$@"
