#!/bin/sh
# Portraits of many people: one subfolder of PEOPLE each, named for the person.
#
#     examples/batch.sh PEOPLE OUT [OPTIONS FOR mcap train...]
#
# For every PEOPLE/NAME, trains OUT/NAME.mcap and draws into OUT/NAME. Safe to repeat: mcap skips
# what is done and unchanged and goes on where it was interrupted. One person's failure stops
# nobody else; the end says who failed, and the exit status is then 1.
#
# From the environment: STYLE (passport), COUNT (pictures a person; the profile's), MCAP (mcap).
set -u

if [ "$#" -lt 2 ] || [ ! -d "$1" ]; then
    echo "usage: $0 PEOPLE OUT [OPTIONS FOR mcap train...]" >&2
    echo "PEOPLE is a folder with one subfolder of photos a person" >&2
    exit 2
fi
people=$1
out=$2
shift 2
style=${STYLE:-passport}
count=${COUNT:-}
mcap=${MCAP:-mcap}

# Ctrl-C ends the whole batch, not only the person it is at; mcap has then saved its state.
trap 'exit 130' INT TERM

mkdir -p -- "$out" || exit 1
found=0
failed=''
for folder in "$people"/*/; do
    [ -d "$folder" ] || continue # nothing matched: the pattern itself
    found=$((found + 1))
    name=$(basename -- "$folder")
    subject=$out/$name.mcap
    echo "== $name" >&2
    # /dev/null: a question must never make the batch wait.
    "$mcap" train --source "$folder" --style "$style" --out "$subject" "$@" </dev/null &&
        "$mcap" generate "$subject" --style "$style" ${count:+--count "$count"} \
            --out "$out/$name" </dev/null
    status=$?
    [ "$status" -eq 130 ] && exit 130
    [ "$status" -eq 0 ] || failed="$failed $name($status)"
done

if [ "$found" -eq 0 ]; then
    echo "$people has no subfolders; each person's photos go into one of their own" >&2
    exit 2
fi
if [ -n "$failed" ]; then
    echo "failed (exit status):$failed" >&2
    exit 1
fi
