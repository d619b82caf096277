#!/usr/bin/env bash
# Every method on 43 traffic signs (ResNet-18 of width 16, rate 0.5), the two that remove channels also on CIFAR-10.
# Usage: benchmarks/methods.sh DATA OUT     DATA holds gtsrb-*.tar.gz and cifar10-*.tar.gz, OUT/gtsrb.safetensors and
# OUT/cifar10.safetensors the originals, trained as in gtsrb.sh and cifar10.sh; where they are missing they are trained.
# About two hours of one core. A run that was stopped goes on.
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
    pdtool compress --weights "$out/gtsrb.safetensors" --data "$signs" --method $method --members 3 --max-drop 1 \
        --out "$out/gtsrb-$method"
    pools+=("$out/gtsrb-$method")
done
pdtool compress --weights "$out/gtsrb.safetensors" --data "$signs" --method prune-and-scale --tau 20 --max-drop 1 \
    --out "$out/gtsrb-prune-and-scale"
python "$here/methods.py" "$signs" "$data/gtsrb-test-public.tar.gz" "$out/gtsrb-attacked.npz" \
    "${pools[@]}" "$out/gtsrb-prune-and-scale" > "$here/methods-gtsrb.md"
pools=()
for method in random-channel l1-norm; do
    pdtool compress --weights "$out/cifar10.safetensors" --data "$things" --method $method --members 3 --max-drop 1 \
        --epochs 5 --flip --out "$out/cifar10-$method"
    pools+=("$out/cifar10-$method")
done
python "$here/methods.py" "$things" "$data/cifar10-test-public.tar.gz" "$out/cifar10-attacked.npz" "${pools[@]}" \
    > "$here/methods-cifar10.md"
