#!/usr/bin/env bash
# train.sh - from Debian's texts to one trained model: ./train.sh yoco|transformer DIR [dense|distill|joint]
#
# The last argument names the last phase to run; left out, all three.
#
# Needs Python with PyTorch, numpy and safetensors, an NVIDIA GPU, and apt-get with network for the texts. A phase goes on
# where it was stopped, and one that is done is not done again. DIR/BACKBONE/log.jsonl tells what was run and, at the end of
# each phase, a hash of the weights, to compare with that of logs/ (README.md says what comes again on the same kind of GPU
# with the same PyTorch). DIR/BACKBONE/model-distill is then what workloads/models has, model-joint what joint training makes
# of it.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
usage="usage: train.sh yoco|transformer DIR [dense|distill|joint]"
backbone=${1:?$usage}
folder=${2:?$usage}
last=${3:-joint}

case $backbone in
yoco)
    dense=(--steps 2124 --lengths 0.2015:512,0.5494:2048,1:8192 --decay-from 0.689)
    distill=(--steps 900)
    joint=(--steps 300)
    ;;
transformer)
    dense=(--steps 2074 --lengths 0.2502:512,0.6490:2048,1:8192 --decay-from 0.806)
    distill=(--steps 1200)
    joint=(--steps 250)
    ;;
*) echo "train.sh: $backbone: expected yoco or transformer" >&2; exit 2 ;;
esac

[[ $last =~ ^(dense|distill|joint)$ ]] || { echo "train.sh: $last: expected dense, distill or joint" >&2; exit 2; }
mkdir -p "$folder"
[ -f "$folder/corpus.xz" ] || python3 "$here/corpus.py" build "$folder"
phase() {
    local name=$1
    shift
    # One seed of Python's hashes, so that no order of a set can change what is compiled.
    [ -d "$folder/$backbone/model-$name" ] || PYTHONHASHSEED=0 python3 "$here/train.py" "$name" --backbone "$backbone" "$@" \
        --corpus "$folder/corpus.xz" --heldout "$folder/heldout.txt" --out "$folder/$backbone"
    [ "$name" != "$last" ] || exit 0
}
small=(--samples 24 --cases 2 --sparse-samples 8)     # `clsa eval` is the evaluation; this only tells whether it goes well
phase dense "${dense[@]}" --samples 0       # distillation leaves the backbone as it is: one evaluation tells of both
phase distill "${distill[@]}" "${small[@]}"
phase joint "${joint[@]}" "${small[@]}"
