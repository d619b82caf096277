#!/usr/bin/env bash
# Making pools: every method on 43 traffic signs (ResNet-18 of width 16, rate 0.5), the two that remove channels also on
# CIFAR-10; what makes members err apart; memory; members made at once.
# Usage: benchmarks/compress.sh DATA OUT     DATA holds gtsrb-*.tar.gz and cifar10-*.tar.gz. The originals are
# OUT/gtsrb.safetensors and OUT/cifar10.safetensors (gtsrb.sh and cifar10.sh make the same); trained where they are missing.
# About four hours of one core. A run that was stopped goes on; tables replace the committed ones when they are whole.
set -euo pipefail
data=$1 out=$2
here=$(dirname "$0")
mkdir -p "$out"
signs="$data/gtsrb-train.tar.gz" things="$data/cifar10-train.tar.gz"
[ -e "$out/gtsrb.safetensors" ] ||
    pdtool train --model resnet18:width=16 --data "$signs" --out "$out/gtsrb.safetensors"
[ -e "$out/cifar10.safetensors" ] ||
    pdtool train --model resnet18:width=16 --data "$things" --epochs 15 --flip --out "$out/cifar10.safetensors"
pools=()
for method in random-channel l1-norm lottery-ticket subnetwork mutation-nai mutation-gf mutation-ws mutation-ns; do
    recipe=()
    case $method in random-channel | l1-norm) recipe=(--recipe paper) ;; esac
    pdtool compress --weights "$out/gtsrb.safetensors" --data "$signs" --method $method --members 3 --max-drop 1 \
        "${recipe[@]}" --out "$out/gtsrb-$method"
    pools+=("$out/gtsrb-$method")
done
pdtool compress --weights "$out/gtsrb.safetensors" --data "$signs" --method prune-and-scale --tau 20 --max-drop 1 \
    --out "$out/gtsrb-prune-and-scale"
python "$here/methods.py" "$signs" "$data/gtsrb-test-public.tar.gz" "$out" \
    "${pools[@]}" "$out/gtsrb-prune-and-scale" > "$out/methods-gtsrb.md"
pools=()
for method in random-channel l1-norm; do
    pdtool compress --weights "$out/cifar10.safetensors" --data "$things" --method $method --members 3 --max-drop 1 \
        --recipe paper --epochs 5 --flip --out "$out/cifar10-$method"
    pools+=("$out/cifar10-$method")
done
python "$here/methods.py" "$things" "$data/cifar10-test-public.tar.gz" "$out" "${pools[@]}" \
    > "$out/methods-cifar10.md"
python "$here/independence.py" "$out/gtsrb.safetensors" "$signs" "$data/gtsrb-test-public.tar.gz" "$out" \
    > "$out/independence.md"
[ -e "$out/memory.md" ] || python "$here/memory.py" "$out/gtsrb.safetensors" "$signs" "$out/memory" > "$out/memory.md"
python "$here/at_once.py" "$out/gtsrb.safetensors" "$signs" "$out/at-once" --workers 1 2 > "$out/at-once.md"
mv "$out"/{methods-gtsrb,methods-cifar10,independence,memory,at-once}.md "$here"
