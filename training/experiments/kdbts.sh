#!/usr/bin/env bash
# KDBTS, small: the real posed stereo drives alone, with losses at half and at full resolution. What exists is not made
# again, and a training that was cut goes on. In an environment with the extra `train`:
#   bash training/experiments/kdbts.sh
#   OUT=runs/kdbts   folder for all of it      DATA=$SCENE_COMPLETION_DATA   with the folders of `kitti_folders`
#   STEPS=750        of teacher and student; the baseline takes both         PRIOR_STEPS=500   of the positional prior
#   SEEDS=0          LOSSES="half full"          WINDOWS="06 09"   DRIVES=...
. "$(dirname "$0")/common.sh"
OUT=${OUT:-runs/kdbts} DATA=${DATA:-${SCENE_COMPLETION_DATA:?}} STEPS=${STEPS:-750} SEEDS=${SEEDS:-0} LOSSES=${LOSSES:-half full} WINDOWS=${WINDOWS:-06 09}
PRIOR_STEPS=${PRIOR_STEPS:-500}
POSED='[{folder: kitti_raw/2011_09_26_0013}, {folder: kitti_more/kitti_raw_0039_gray}, {folder: kitti_gray/00, poses: poses_gt.txt}]'
DRIVES=${DRIVES:-$POSED}
begin DATA "STEPS PRIOR_STEPS WINDOWS DRIVES"
export SCENE_COMPLETION_DATA=$DATA

field() {  # NAME LOSSES SEED KEY=VALUE ...
  wanted "${1%%_*}" || return 0
  local half=0; [ "$2" = full ] || half=1000000
  once "$1" scene-completion train --config "$CONFIGS/comparison.yaml" "data.root=$DATA" "data.sources=$DRIVES" \
    data.cache=prepared "half_resolution_steps=$half" "steps=$STEPS" "prior_steps=$PRIOR_STEPS" "seed=$3" "output=$1" "${@:4}"
}
for seed in $SEEDS; do for losses in $LOSSES; do
  run=${losses}_$seed
  field "teacher_$run" "$losses" "$seed" stage=teacher
  field "student_$run" "$losses" "$seed" stage=student hidden=128 depth_only_steps=0 encoder_views=4 distillation.weight=1 \
    distillation.space=occupancy "teacher=teacher_$run/checkpoints/last.ckpt"
  field "baseline_$run" "$losses" "$seed" "steps=$((2 * STEPS))" hidden=128
  for kind in teacher student baseline; do
    wanted $kind || continue
    views=(); [ $kind != teacher ] || views=(--views 1 4)
    once "scores_${kind}_$run" scene-completion evaluate geometry --windows $WINDOWS --scans 10 --every 7 \
      --calibrate-on "$DATA/kitti_windows/sequences/04" "${views[@]}" --checkpoint "${kind}_$run/checkpoints/last.ckpt" --output "scores/${kind}_$run"
  done
done; done
