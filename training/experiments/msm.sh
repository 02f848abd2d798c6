#!/usr/bin/env bash
# Masked Scene Modeling, small: rendered rooms, trainings, scores. What exists is not made again, and a training that was
# cut goes on. In an environment with the extra `train`:    bash training/experiments/msm.sh
#   OUT=runs/msm      folder for all of it
#   ROOMS=64 PROBED=16 TEST_ROOMS=8   rooms to learn from, those of them with labels, and rooms to score on
#   STEPS=300         of each training                 LANES=2                  trainings at a time, a core each
#   ENCODER=...       text encoder of the sentences; without it there are none
#   MODEL=... LAYER=11   2D model whose lifted features are scored, too; without it there are none
set -euo pipefail
HERE="$(cd "$(dirname "$0")/.." && pwd)" CONFIG="$(cd "$(dirname "$0")/.." && pwd)/configs/rooms_masked_scene.yaml"
OUT=${OUT:-runs/msm} ROOMS=${ROOMS:-64} PROBED=${PROBED:-16} TEST_ROOMS=${TEST_ROOMS:-8} STEPS=${STEPS:-300} LANES=${LANES:-2}
ENCODER=${ENCODER-sentence-transformers/all-MiniLM-L6-v2} MODEL=${MODEL-facebook/dinov2-small} LAYER=${LAYER:-11} FRAMES=${FRAMES:-16}
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
for name in MODEL ENCODER; do [ ! -e "${!name}" ] || printf -v "$name" %s "$(realpath "${!name}")"; done
mkdir -p "$OUT/logs" && cd "$OUT"
# Another run with other settings would mix two: it needs a folder of its own.
settings() { for name in "$@"; do echo "$name=${!name}"; done; }
settings ROOMS PROBED TEST_ROOMS STEPS MODEL ENCODER LAYER FRAMES > logs/settings.new
[ ! -f logs/settings ] || cmp -s logs/settings logs/settings.new || { echo "$PWD has other settings: give another OUT" >&2; exit 1; }
mv logs/settings.new logs/settings

render() {  # FOLDER FIRST COUNT
  for n in $(seq "$2" $(($2 + $3 - 1))); do
    [ -d "rooms/$1/$n/sequence" ] || scene-completion world room --seed "$n" --frames "$FRAMES" --rate 0.6 \
      --size 320 240 --supersampling 1 --output "rooms/$1/$n" >> logs/rooms.log 2>&1
  done
}
render train 0 "$ROOMS"
render test 2000 "$TEST_ROOMS"
mkdir -p rooms/labelled
for n in $(seq 0 $(((PROBED < ROOMS ? PROBED : ROOMS) - 1))); do ln -sfn "../train/$n" "rooms/labelled/$n"; done

train() {  # NAME KEY=VALUE ...
  local name=$1; shift
  [ -f "$name/done" ] && return
  echo "$(date +%T) $name"
  scene-completion train --config "$CONFIG" data.root=rooms data.workers=0 data.cache=kept "steps=$STEPS" "$@" \
    "output=$name" >> "logs/$name.log" 2>&1 || { echo "failed, see $PWD/logs/$name.log" >&2; return 1; }
  touch "$name/done"
}
labelled() {  # the same network, with labels
  local name=$1; shift
  CONFIG="$HERE/configs/rooms_supervised.yaml" train "$name" 'data.sources=[{folder: labelled}]' "$@"
}
lane() {
  case $1 in
    0) train masked; train masked_1 seed=1; train masked_2 seed=2
       labelled supervised; labelled fine_tuned start_from=masked/checkpoints/last.ckpt; labelled supervised_share share=10
       train attention network.attending=2 ;;
    1) train no_masking ablation.no_masking; train top_down ablation.top_down_masking
       train plain predictor=false decorrelation=0; train one_direction ablation.one_direction
       train last_level ablation.last_level_only; train published_rate learning_rate=0.0015
       train attention_only ablation.attention_only ;;
  esac
}
if [ "$LANES" = 2 ]; then lane 0 & first=$!; lane 1 || { wait $first; exit 1; }; wait $first; else lane 0; lane 1; fi

score() {  # NAME --checkpoint FILE ... OPTIONS
  local name=$1; shift
  [ -f "scores/$name/results.json" ] && return
  echo "$(date +%T) scores of $name"
  scene-completion evaluate points --probe-on rooms/labelled --data rooms/test "$@" --output "scores/$name" \
    > "logs/scores_$name.log" 2>&1 || { echo "failed, see $PWD/logs/scores_$name.log" >&2; return 1; }
}
of() { for name in "$@"; do printf '%s ' "$name/checkpoints/last.ckpt"; done; }
score masked --checkpoint $(of masked) --ablations ${ENCODER:+--phrases made --text-encoder "$ENCODER"} \
  ${MODEL:+--foundation "$MODEL" "$LAYER" --cache lifted}
score seeds --checkpoint $(of masked_1 masked_2)
score ablations --checkpoint $(of one_direction no_masking top_down last_level attention attention_only published_rate plain)
score labelled --checkpoint $(of supervised fine_tuned supervised_share)
