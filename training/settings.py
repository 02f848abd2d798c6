"""Settings that the stages of density fields share: loss weights, rendering, steps and rates."""

# No postponed annotations here: the configuration parser resolves those of a base class in the wrong module.
from dataclasses import dataclass, field
from typing import Literal

from scene_completion_training.networks.encoder_decoder import TrunkName


@dataclass
class LossWeights:
    """Weights of the losses; zero leaves a loss out.

    Attributes:
        photometric: SSIM + L1 with minimum over source views.
        smoothness: Edge-aware smoothness (1e-3 in BTS).
        stereo_depth: Rendered depth against stereo depth.
        dense_depth: Inverse depth in channel 0 of the feature map against stereo depth.
        occupancy: Density logits at voxel centres against fused stereo occupancy.
        occupancy_offset: Offset of the logit in that loss at the start, see `OccupancyLink`.
        sparsity: Mean opacity at random points of the view: empty where nothing says otherwise.
        emptiness: Occupancy probability at such points against "free". What no view ever saw (behind the last surface,
            below the road) has no voxels in `occupancy`, and would be taken for solid: it lies behind surfaces, as the
            only voxels do that are known there. It acts beside `occupancy` alone.
    """

    photometric: float = 1.0
    smoothness: float = 1e-3
    stereo_depth: float = 1.0
    dense_depth: float = 1.0
    occupancy: float = 1.0
    occupancy_offset: float = 3.0
    sparsity: float = 0.01
    emptiness: float = 0.0


@dataclass
class RenderSettings:
    """Rendering at training time.

    Attributes:
        every: Steps between rendered ones; dense depth and occupancy are in every step.
        patches: 8×8 patches per image (32 in BTS on KITTI raw: 2048 rays).
        samples: Samples per ray.
        near: Nearest sample, metres.
        far: Farthest sample, metres.
    """

    every: int = 1
    patches: int = 8
    samples: int = 64
    near: float = 3.0
    far: float = 80.0


@dataclass
class StageSettings:
    """What every stage that trains a density field needs.

    Attributes:
        losses: Loss weights.
        render: Rendering at training time.
        encoder: Trunk of the encoder: "efficientnet_lite0", or "resnet50" and "vision_transformer" as in the papers.
        encoder_weights: Local folder or hub name of its weights; by default those that the trunk is known by.
        seed: Seed of samples, rays and initial weights; together with the step it determines everything random.
        steps: Optimiser steps of the whole training.
        learning_rate: Adam learning rate after the warm-up.
        schedule: "cosine" to zero over all steps, or "step": a tenth of the rate after `decay_at` of them.
        decay_at: Share of the steps after which "step" lowers the rate.
        trunk_rate: Factor on `learning_rate` for the blocks of the pretrained trunk that learn.
        hidden: Width of the head's hidden layer (64 in BTS; of each view 128 in MVBTS).
        frozen_blocks: First blocks of the pretrained trunk that keep their weights (EfficientNet-Lite0 has 16,
            ResNet-50 four).
        head_rate: Factor on `learning_rate` for the head.
        depth_only_steps: First steps, in which only the dense depth is trained: the losses on the density say little
            while the features hold no depth, and their gradients drown the one that would put it there.
        half_resolution_steps: First steps, taken with images of half the size: four times as fast (progressive
            resizing). Points are queried in normalised coordinates, so nothing else changes.
        warmup: Steps of linear warm-up.
        pretrained: Start the trunk from its ImageNet weights.
        voxel_size: δ of the opacity, metres.
    """

    losses: LossWeights = field(default_factory=LossWeights)
    render: RenderSettings = field(default_factory=RenderSettings)
    encoder: TrunkName = "efficientnet_lite0"
    encoder_weights: str = ""
    seed: int = 0
    steps: int = 10_000
    learning_rate: float = 3e-4
    schedule: Literal["cosine", "step"] = "cosine"
    decay_at: float = 0.8
    trunk_rate: float = 0.5
    hidden: int = 64
    frozen_blocks: int = 16
    head_rate: float = 1.0
    depth_only_steps: int = 0
    half_resolution_steps: int = 0
    warmup: int = 200
    pretrained: bool = True
    voxel_size: float = 0.2


@dataclass
class TeacherSettings(StageSettings):
    """What the multi-view teacher needs.

    Attributes:
        encoder_views: Images that are encoded: the sample's own, and so many less one from further along (3 in MVBTS).
        view_dropout: Probability with which a point does without a view in training (the first is never dropped).
    """

    encoder_views: int = 3
    view_dropout: float = 0.5


@dataclass
class DistillationSettings:
    """What the student learns from the teacher.

    Attributes:
        weight: Weight of the loss (0.01 in KDBTS).
        space: What is compared: clipped densities as in KDBTS, the opacity of a voxel, or the occupancy probability,
            which a teacher has that was trained with `losses.occupancy`.
        limit: Where densities are clipped, per metre.
        along_rays: Compare along the rendered rays too, not only at voxels and in the view at large. It costs as much
            as the rest, and holds the student to the teacher's surfaces, which are softer than its own.
        freeze_encoder: The encoder stays that of the teacher, and only the student's head learns.
    """

    weight: float = 0.01
    space: Literal["density", "opacity", "occupancy"] = "density"
    limit: float = 2.0
    along_rays: bool = True
    freeze_encoder: bool = False


@dataclass
class StudentSettings(StageSettings):
    """What the distilled student needs.

    Attributes:
        teacher: Checkpoint of the teacher.
        encoder_views: Images that the teacher encodes.
        distillation: What is learned from it.
    """

    teacher: str = ""
    encoder_views: int = 3
    distillation: DistillationSettings = field(default_factory=DistillationSettings)


@dataclass
class FeatureSettings:
    """What the feature field learns from a 2D foundation model.

    Attributes:
        targets: Folder of precomputed targets, see `scene-completion features`; without one they are computed from
            `model` while training.
        model: Local folder or hub name of the foundation model, where there are no precomputed targets.
        layer: Its hidden layer.
        cell: Edge of the square of pixels that a token covers, in the canonical image.
        channels: Dimension of the features that are composited (64 in SceneDINO).
        units: Hidden units of the features.
        rays: Rays along the edge of a token (8 in SceneDINO, one a pixel). Fewer leave time for more tokens.
        samples: Samples of a ray whose features are composited: those of the largest weight. Most have next to none.
        weight: Weight of the cosine loss against the tokens (0.2 in SceneDINO).
        smoothness: Weight of the smoothness of the features within a patch (0.25 in SceneDINO).
        downsampler: How the rays of a patch become a token: weighted by a learned salience, or not at all, each ray
            being compared with the bilinearly enlarged tokens.
        own_view: Share of the tokens that are drawn from the sample's own view, whose every token says something of its
            image; the others are drawn from all views that render (which is all there is in SceneDINO: 0).
        centred: Learn tokens less their mean. Most of a token is the same in all of them; the cosine of whole tokens
            hardly tells two things apart.
        artefacts: Learn what tokens say of their place in the image, and drop it.
        freeze_density: The density stays as it is in `start_from`; only the features learn. Otherwise everything learns
            together, from the losses of the density as well.
    """

    targets: str = ""
    model: str = ""
    layer: int = -1
    cell: int = 16
    channels: int = 64
    units: int = 64
    rays: int = 4
    samples: int = 8
    weight: float = 0.2
    smoothness: float = 0.25
    downsampler: Literal["salience", "none"] = "salience"
    own_view: float = 0.5
    centred: bool = True
    artefacts: bool = True
    freeze_density: bool = True


@dataclass
class FeatureFieldSettings(StageSettings):
    """What the feature field needs.

    Attributes:
        features: What it learns from a 2D foundation model.
    """

    features: FeatureSettings = field(default_factory=FeatureSettings)


@dataclass
class SemanticsSettings(StageSettings):
    """What unsupervised semantics need (the second stage of SceneDINO).

    Attributes:
        features_from: Checkpoint of the stage `feature_field`, which stays as it is.
        channels: Dimension in which points are clustered.
        bins: Quantile bins of the depth; one neighbourhood is drawn from each.
        radius: Radius of a neighbourhood, metres.
        apart: Distance that neighbourhoods of an image keep, metres, where there is room.
        crop_points: Occupied points of a neighbourhood; those with fewer are dropped.
        buffer: Neighbourhoods that others are compared with.
        forces: "estimated" from the data before the first step, or those found on KITTI-360 for DINO features.
        pairs: Kinds of pairs that act; the ablation leaves out "similar".
    """

    features_from: str = ""
    channels: int = 64
    bins: int = 5
    radius: float = 0.5
    apart: float = 3.0
    crop_points: int = 576
    buffer: int = 256
    forces: Literal["estimated", "kitti_360"] = "estimated"
    pairs: list[str] = field(default_factory=lambda: ["self", "similar", "random"])


@dataclass
class SupervisedSettings(StageSettings):
    """What a field needs that learns classes from labelled voxels: a measuring instrument, see the stage.

    Attributes:
        label_points: Labelled voxel centres a sample.
        channels: Dimension of the features before the expansion to classes, as in `FeatureSettings`.
        units: Hidden units of the features, as in `FeatureSettings`.
    """

    label_points: int = 4096
    channels: int = 64
    units: int = 64
