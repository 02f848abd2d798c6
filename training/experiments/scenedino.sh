#!/usr/bin/env bash
# SceneDINO's ablations, small: rendered towns, DINOv2 Small, half-size images, the density of `kitti_student`. What exists
# is not made again, and a training that was cut goes on. In an environment with the extra `train`:
#   bash training/experiments/scenedino.sh
#   OUT=runs/scenedino   folder for all of it    FIELD_STEPS=500 SEMANTICS_STEPS=300   of each training
#   MODEL=... LAYER=11   the 2D model            SEED=0                                 of the trainings and clusters
#   TRAIN="101 ..." TEST="2001 ..."              seeds of the towns
# Rows without a field of their own take that of `full`, which is then to be among ROWS or there.
. "$(dirname "$0")/common.sh"
OUT=${OUT:-runs/scenedino} MODEL=${MODEL:-facebook/dinov2-small} LAYER=${LAYER:-11} SEED=${SEED:-0}
FIELD_STEPS=${FIELD_STEPS:-500} SEMANTICS_STEPS=${SEMANTICS_STEPS:-300}
TRAIN=${TRAIN:-$(seq 101 112)} TEST=${TEST:-$(seq 2001 2006)}
STUDENT="$(python -c 'from scene_completion_ros.inference.bundle import DEFAULT_BUNDLE; print(DEFAULT_BUNDLE)')"
begin MODEL "FIELD_STEPS SEMANTICS_STEPS LAYER TRAIN TEST"
for n in $TRAIN $TEST; do
  once "town_$n" scene-completion world street-kitti360 --seed "$n" --frames 6 --rate 2.5 --size 928 280 \
    --supersampling 1 --output "towns/$n"
done
places() { for n in "$@"; do printf 'towns/%s ' "$n"; done; }
sources=$(for n in $TRAIN; do printf '{folder: "%s/sequence"}, ' "$n"; done)
DATA=(data.root=towns "data.sources=[${sources%, }]" data.cache=prepared)
FIELD=("${DATA[@]}" "start_from=$STUDENT")
features() { once "$1" scene-completion features images "$CONFIGS/feature_field.yaml" "${FIELD[@]}" --model "$MODEL" \
  --layer "$LAYER" --output "$1" "${@:2}"; }
field() {  # NAME TARGETS KEY=VALUE ...
  wanted "$1" || return 0
  once "$1_$SEED" scene-completion train --config "$CONFIGS/feature_field.yaml" "${FIELD[@]}" "steps=$FIELD_STEPS" \
    "half_resolution_steps=$FIELD_STEPS" "seed=$SEED" "features.targets=$2" "output=$1_$SEED" "${@:3}"
}
first=($TRAIN)
row() {  # NAME FIELD KEY=VALUE ...: the second stage of a field, and its scores
  wanted "$1" || return 0
  once "semantics_$1_$SEED" scene-completion train --config "$CONFIGS/semantics.yaml" "${DATA[@]}" "seed=$SEED" \
    "features_from=$2_$SEED/checkpoints/last.ckpt" "output=semantics_$1_$SEED" "${@:3}"
  once "scores_$1_$SEED" scene-completion evaluate semantics --student "$STUDENT" --data $(places $TEST) --every 2 \
    --checkpoint "semantics_$1_$SEED/checkpoints/last.ckpt" --cluster-on $(places "${first[@]:0:6}") \
    --name-on $(places "${first[@]:0:4}") --seed "$SEED" --output "scores/$1_$SEED"
}
# Densities are those of the student in all rows; IoU differs by clusters that get no class. The weight of smoothness is
# the published one, for features of 384 numbers: 0.25 / √384.
WEIGHT=features.smoothness=0.01276 LEARN=steps=$SEMANTICS_STEPS
features tokens --variants 4
field full tokens $WEIGHT
row full full $LEARN
row no_distillation full ablation.no_distillation
for name in no_knn no_neighbourhood five_crop; do row "$name" full $LEARN "ablation.$name"; done
field no_smoothness tokens ablation.no_smoothness
row no_smoothness no_smoothness $LEARN
field no_decomposition tokens $WEIGHT ablation.no_decomposition
row no_decomposition no_decomposition $LEARN
! wanted no_downsampler || features tokens_upsampled --upsampled 2
field no_downsampler tokens_upsampled $WEIGHT ablation.no_downsampler
row no_downsampler no_downsampler $LEARN
