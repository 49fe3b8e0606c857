#!/bin/sh
# Portraits of many people: examples/batch.sh PEOPLE OUT [OPTIONS FOR mcap batch run...]
# PEOPLE has a subfolder of photos a person. From the environment: STYLE, COUNT (pictures a person).
people=${1:?PEOPLE, a folder with a subfolder of photos a person} out=${2:?OUT, a folder} && shift 2
exec mcap batch run "$people" --out "$out" --style "${STYLE:-passport}" ${COUNT:+--generate "$COUNT"} "$@"
