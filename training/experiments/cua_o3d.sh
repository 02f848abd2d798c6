#!/usr/bin/env bash
# CUA-O3D, small: rendered rooms, three 2D teachers, trainings, scores. What exists is not made again, and a training that
# was cut goes on. In an environment with the extra `train`:    bash training/experiments/cua_o3d.sh
#   OUT=runs/cua_o3d   folder for all of it        ROOMS=48 LABELLED=16 TEST_ROOMS=8   to distil, for the text-aligned
#   STEPS=200          of each training                                                teacher's layer, and to score on
#   DINOV2=... DEPTH=... ENCODER=...               the models, whose features have 384 numbers
# The text-aligned teacher, in LSeg's place, is a linear layer on DINOv2 that learned from labels of rooms of its own.
. "$(dirname "$0")/common.sh"
OUT=${OUT:-runs/cua_o3d} ROOMS=${ROOMS:-48} LABELLED=${LABELLED:-16} TEST_ROOMS=${TEST_ROOMS:-8} STEPS=${STEPS:-200}
DINOV2=${DINOV2:-facebook/dinov2-small} DEPTH=${DEPTH:-depth-anything/Depth-Anything-V2-Small-hf}
ENCODER=${ENCODER:-sentence-transformers/all-MiniLM-L6-v2} LAYER=${LAYER:-11} FRAMES=${FRAMES:-16}
begin "DINOV2 DEPTH ENCODER" "ROOMS LABELLED TEST_ROOMS STEPS LAYER FRAMES"
rooms train 0 "$ROOMS"
rooms labelled 900 "$LABELLED"
rooms test 2000 "$TEST_ROOMS"
once text python -m scene_completion_training.points.text_teacher --labelled rooms/labelled --views rooms/train rooms/test \
  --model "$DINOV2" --layer "$LAYER" --text-encoder "$ENCODER" --cache lifted --output text

TEACHERS="[{name: text, loss: cosine, dim: 384, model: \"files:text\"},
  {name: dinov2, loss: l1, dim: 384, model: \"$DINOV2\", layer: $LAYER, cell: 14},
  {name: depth, loss: demeaned_cosine, dim: 384, model: \"$DEPTH\", cell: 14}]"
distil() {  # NAME KEY=VALUE ...
  wanted "$1" || return 0
  once "$1" scene-completion train --config "$CONFIGS/rooms_agglomeration.yaml" data.workers=0 "teachers=$TEACHERS" \
    "steps=$STEPS" "output=$1" "${@:2}"
}
labelled() {
  wanted "$1" || return 0
  once "$1" scene-completion train --config "$CONFIGS/rooms_supervised.yaml" network=minkowski data.workers=0 \
    'data.sources=[{folder: train, labels: scannet20}]' data.voxel_size=0.1 data.cache=kept "steps=$STEPS" "output=$1" "${@:2}"
}
scores() {  # NAME OPTION ...
  wanted "$1" || return 0
  once "scores_$1" scene-completion evaluate points --checkpoint "$1/checkpoints/last.ckpt" --data rooms/test \
    --labels scannet20 --output "scores/$1" "${@:2}"
}
WORDS=(--text-encoder "$ENCODER" --cache lifted) PROBES=(--probe-on rooms/train)
row() {  # NAME KEY=VALUE ...
  distil "$@"
  scores "$1" "${WORDS[@]}" "${PROBES[@]}"
}
distil learned
scores learned "${WORDS[@]}" "${PROBES[@]}" --ambiguity --pictures pictures
row slides ablation.slides
row equal_weights ablation.equal_weights
row text_alone 'only=[text]' regulariser=none
row text_and_dinov2 'only=[text,dinov2]' regulariser=none
labelled supervised
scores supervised
labelled supervised_geometry ablation.geometry_alone
scores supervised_geometry
for name in dinov2_alone depth_alone; do
  distil "$name" "only=[${name%_alone}]" regulariser=none
  scores "$name" "${PROBES[@]}"
done
