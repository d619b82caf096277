#!/usr/bin/env bash
# Votes of a CIFAR-10 pool: ResNet-18 of width 16, 32 members at rate 0.5, trained shortly (15 epochs, members 2).
# Usage: benchmarks/cifar10.sh DATA OUT     DATA holds cifar10-train.tar.gz and cifar10-test-public.tar.gz
set -euo pipefail
data=$1 out=$2
mkdir -p "$out"
pdtool train --model resnet18:width=16 --data "$data/cifar10-train.tar.gz" --test "$data/cifar10-test-public.tar.gz" \
    --epochs 15 --flip --out "$out/model.safetensors"
pdtool compress --weights "$out/model.safetensors" --data "$data/cifar10-train.tar.gz" \
    --method random-channel --members 32 --rate 0.5 --recipe paper --epochs 2 --flip --out "$out/pool"
pdtool export "$out/pool" --out "$out/bundle"
python benchmarks/record_votes.py "$out/pool" "$out/bundle" "$data/cifar10-test-public.tar.gz" \
    benchmarks/votes/cifar10.npz --limit 400
