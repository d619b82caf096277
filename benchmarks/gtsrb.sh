#!/usr/bin/env bash
# The whole way on real colour images: 43 German traffic signs, ResNet-18 of width 16, 32 members at rate 0.5.
# Usage: benchmarks/gtsrb.sh DATA OUT     DATA holds gtsrb-train.tar.gz and gtsrb-test-public.tar.gz
# Calibration uses the first half of the test tracks, attacks the second half; the results are in benchmarks/README.md.
set -euo pipefail
data=$1 out=$2
mkdir -p "$out"
test="$data/gtsrb-test-public.tar.gz"
pdtool train --model resnet18:width=16 --data "$data/gtsrb-train.tar.gz" --test "$test" --out "$out/model.safetensors"
pdtool compress --weights "$out/model.safetensors" --data "$data/gtsrb-train.tar.gz" \
    --method random-channel --members 32 --rate 0.5 --recipe paper --out "$out/pool"
pdtool export "$out/pool" --out "$out/bundle"
python benchmarks/record_votes.py "$out/pool" "$out/bundle" "$test" benchmarks/votes/gtsrb.npz
pdtool calibrate "$out/bundle" --data "$test#1/2" --evidence label --target-fpr 0.2 --report "$out/calibration.html"
pdtool evaluate "$out/bundle" --pool "$out/pool" --data "$test#2/2" \
    --attack fgsm:epsilon=0.0075 --attack fgsm:epsilon=0.03 --attack deepfool --attack pgd \
    --out "$out/evaluation"
pdtool profile "$out/bundle" --device jetson-orin-nano-8gb --out "$out/profile.html"
