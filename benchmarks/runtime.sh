#!/bin/sh
# What screening costs: benchmarks/runtime.sh POOL ORIGINAL TRAIN TEST OUT
# POOL: of 32 members at rate 0.5 (gtsrb.sh makes it), ORIGINAL: its model.safetensors, TRAIN and TEST: gtsrb archives.
set -eu
pool=$1 original=$2 train=$3 test=$4 out=$5
here=$(dirname "$0")
export OMP_NUM_THREADS=1
mkdir -p "$out"
python "$here/threads.py" --out "$out/threads.md"
pdtool export "$pool" --out "$out/bundle" --force -q
pdtool calibrate "$out/bundle" --data "$test#1/2" --evidence label --target-fpr 0.2 -q
python "$here/screening.py" "$out/bundle" "$pool" "$test" > "$out/screening.md"
python "$here/soak.py" "$out/bundle" "$test" --frames 100000 --budget 24MiB > "$out/soak.md"
# Members nearly as large as the original, so that original and one member fit into a small part of the whole.
for members in 48 32; do
    pdtool compress --weights "$original" --data "$train" --members $members --rate 0.1 --recipe paper --epochs 1 --max-drop 0.2 --out "$out/wide-$members" -q
    pdtool export "$out/wide-$members" --batch 8 --out "$out/wide-$members-bundle" --force -q
    pdtool calibrate "$out/wide-$members-bundle" --data "$test#1/2" --evidence label --target-fpr 0.2 -q
done
rm -rf "$out/wide-48-fixed" && cp -r "$out/wide-48-bundle" "$out/wide-48-fixed"
pdtool calibrate "$out/wide-48-fixed" --data "$test#1/2" --evidence label --target-fpr 0.2 --rule fixed -q
python "$here/budget.py" "$out/wide-48-bundle" "$out/wide-48-fixed" "$test" --share 8 > "$out/budget.md"
python "$here/budget.py" "$out/wide-32-bundle" "$test" --share 5.9 >> "$out/budget.md"
