#!/usr/bin/env bash
# Masked Scene Modeling, small: rendered rooms, trainings, scores. What exists is not made again, and a training that was
# cut goes on. In an environment with the extra `train`:    bash training/experiments/msm.sh
#   OUT=runs/msm      folder for all of it
#   ROOMS=64 PROBED=16 TEST_ROOMS=8   rooms to learn from, those of them with labels, and rooms to score on
#   SHARE=10          percent of the rooms with labels, for the row of few labels
#   STEPS=300         of each training                 LANES=2                  trainings at a time, a core each
#   ABLATIONS=...     --ablations, for probes of single levels and of few labels; empty for none
#   ENCODER=...       text encoder of the sentences; without it there are none
#   MODEL=... LAYER=11   2D model whose lifted features are scored, too; without it there are none
. "$(dirname "$0")/common.sh"
OUT=${OUT:-runs/msm} ROOMS=${ROOMS:-64} PROBED=${PROBED:-16} TEST_ROOMS=${TEST_ROOMS:-8} STEPS=${STEPS:-300} LANES=${LANES:-2}
SHARE=${SHARE:-10} ABLATIONS=${ABLATIONS---ablations}
ENCODER=${ENCODER-sentence-transformers/all-MiniLM-L6-v2} MODEL=${MODEL-facebook/dinov2-small} LAYER=${LAYER:-11} FRAMES=${FRAMES:-16}
begin "MODEL ENCODER" "ROOMS PROBED TEST_ROOMS STEPS SHARE ABLATIONS LAYER FRAMES"
rooms train 0 "$ROOMS"
rooms test 2000 "$TEST_ROOMS"
mkdir -p rooms/labelled
for n in $(seq 0 $(((PROBED < ROOMS ? PROBED : ROOMS) - 1))); do ln -sfn "../train/$n" "rooms/labelled/$n"; done

train() {  # NAME KEY=VALUE ...
  wanted "$1" || return 0
  once "$1" scene-completion train --config "$CONFIGS/rooms_masked_scene.yaml" data.root=rooms data.workers=0 data.cache=kept \
    "steps=$STEPS" "output=$1" "${@:2}"
}
labelled() {  # the same network, with labels
  wanted "$1" || return 0
  once "$1" scene-completion train --config "$CONFIGS/rooms_supervised.yaml" data.root=rooms data.workers=0 data.cache=kept \
    "steps=$STEPS" "output=$1" 'data.sources=[{folder: labelled}]' "${@:2}"
}
lane() {
  case $1 in
    0) train masked; train masked_1 seed=1; train masked_2 seed=2
       labelled supervised; labelled fine_tuned start_from=masked/checkpoints/last.ckpt; labelled supervised_share "share=$SHARE"
       train attention network.attending=2 ;;
    1) train no_masking ablation.no_masking; train top_down ablation.top_down_masking
       train plain predictor=false decorrelation=0; train one_direction ablation.one_direction
       train last_level ablation.last_level_only; train published_rate learning_rate=0.0015
       train attention_only ablation.attention_only ;;
  esac
}
if [ "$LANES" = 2 ]; then
  lane 0 & jobs=$!; lane 1 & jobs="$jobs $!"; failed=0
  for job in $jobs; do wait "$job" || failed=1; done  # both end before this does
  [ $failed = 0 ]
else lane 0; lane 1; fi

score() {  # NAME "ROW ..." OPTION ...: of the rows that are trained, again where one came later than the scores
  local name files=()
  for name in $2; do
    [ -f "logs/$name.done" ] || continue
    files+=("$name/checkpoints/last.ckpt")
    [ ! "logs/$name.done" -nt "logs/scores_$1.done" ] || rm -f "logs/scores_$1.done"
  done
  [ ${#files[@]} = 0 ] || once "scores_$1" scene-completion evaluate points --probe-on rooms/labelled --data rooms/test \
    --output "scores/$1" --overwrite --checkpoint "${files[@]}" "${@:3}"
}
score masked masked $ABLATIONS ${ENCODER:+--phrases made --text-encoder "$ENCODER"} \
  ${MODEL:+--foundation "$MODEL" "$LAYER" --cache lifted}
score seeds "masked_1 masked_2"
score ablations "one_direction no_masking top_down last_level attention attention_only published_rate plain"
score labelled "supervised fine_tuned supervised_share"
