"""Novel views: a field sees one image, and what another camera sees is rendered in the colours of that image.

So Behind the Scenes is scored (`evaluator_nvs` of its code): the target is the other camera of the stereo pair on KITTI
raw, and a frame before or after on RealEstate10K. Pictures are compared as large as the network sees them, without
their edges. Samples along rays lie in the middle of their intervals instead of anywhere, and what is left of a ray
ends at its last one.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scene_completion_ros.errors import ConfigurationError, SequenceError
from scene_completion_ros.evaluation.image_similarity import border_cropped, psnr, ssim
from scene_completion_ros.evaluation.metric import Column, Metric, Row, Tally
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_ros.sequences.rigs import reference_camera, stereo_pair
from scene_completion_training.evaluation.checkpoints import FieldModel
from scene_completion_training.evaluation.perceptual_distance import PerceptualDistance
from scene_completion_training.networks.observed_field import ObservedField
from scene_completion_training.rendering.colours import sample_colours
from scene_completion_training.rendering.patches import render_rays
from scene_completion_training.rendering.rays import image_rays

STEREO = "stereo"  # as target: the other camera of the pair, at the same time


@dataclass(frozen=True, eq=False)
class NovelView:
    """A view beside a frame whose image a model sees."""

    sequence: PosedSequence
    index: int
    target: str  # how the command line names the view: `STEREO`, or frames later
    seen: int  # frame of the view
    camera: str


@dataclass(frozen=True, eq=False)
class Figures:
    """What was computed of one view, by name; nothing where nothing counts."""

    target: str
    values: dict[str, float]


class ViewSynthesis:
    """A density field as a method that renders views; it is scored by LPIPS, too, where its weights are given."""

    def __init__(self, model: FieldModel, samples: int, distance: PerceptualDistance | None = None) -> None:
        self.name = model.name
        self._model, self._samples = model, samples
        self._similarities = {"psnr": psnr, "ssim": ssim} | ({"lpips": distance} if distance else {})

    def answer(self, view: NovelView) -> Figures:
        """Render a view from a frame, and compare it with its picture."""
        model, sequence = self._model, view.sequence
        seen, (first, *_) = model.encode(sequence, view.index)
        encoder_from_world = sequence.world_from_camera(first.index, first.camera).inverse()
        pose = (encoder_from_world @ sequence.world_from_camera(view.seen, view.camera)).matrix
        source, true = (
            model.image(sequence, index, camera) / 255.0
            for index, camera in ((first.index, first.camera), (view.seen, view.camera))
        )
        rendered = render_view(seen, model, source, torch.from_numpy(pose).float(), self._samples)
        pictures = [border_cropped(image.permute(1, 2, 0).numpy()) for image in (rendered, true)]
        return Figures(view.target, {name: score(*pictures) for name, score in self._similarities.items()})


@torch.inference_mode()
def render_view(
    seen: ObservedField, model: FieldModel, source: Tensor, encoder_from_view: Tensor, samples: int
) -> Tensor:
    """What a view sees, in the colours that the first encoder view has there: [3, H, W] in 0..1.

    `seen`: the field with its images encoded; `source`: image of the first encoder view [3, H, W] in 0..1; beyond its
    edges their colours hold; `encoder_from_view`: pose [4, 4] of the view in the encoder view's frame.
    """
    camera, spec = model.camera, model.field.spec
    source = source.to(model.device)
    masks, own = torch.ones_like(source[None, :1], dtype=torch.bool), torch.eye(4, device=model.device)[None, None]
    parts = []
    for rays in image_rays(camera, encoder_from_view.to(model.device)):
        rendered = render_rays(seen, rays, samples=samples, near=spec.near, far=spec.far, jitter=False)
        colours, _ = sample_colours(source[None, None], masks, camera, own, rendered.points)
        parts.append(torch.einsum("rk,rkc->cr", rendered.weights[0], colours.reshape(-1, samples, 3)))
    return torch.cat(parts, dim=1).reshape(3, camera.height, camera.width).cpu()


def novel_views(sequence: PosedSequence, indices: Iterable[int], targets: Sequence[str]) -> Iterator[NovelView]:
    """The target views of frames; those before the first and behind the last frame are left out.

    Raises SequenceError where the recording has no stereo pair, and its other camera is a target.
    """
    left = reference_camera(sequence)
    for index in indices:
        for target in targets:
            if target == STEREO:
                yield NovelView(sequence, index, target, index, _other_camera(sequence, left))
            elif 0 <= (seen := index + int(target)) < len(sequence):
                yield NovelView(sequence, index, target, seen, left)


def check_targets(targets: Sequence[str]) -> None:
    """Raises a `ConfigurationError` for what is neither `STEREO` nor a number of frames other than 0."""
    for target in targets:
        if target != STEREO and not (target.removeprefix("-").isdecimal() and int(target)):
            what = f"{target} is no view"
            raise ConfigurationError(what, where="--targets", cure=f"Name {STEREO}, or frames later (negative: before)")


def _other_camera(sequence: PosedSequence, left: str) -> str:
    try:
        return next(name for name in stereo_pair(sequence)[:2] if name != left)
    except SequenceError as error:
        raise SequenceError(error.what, where=error.where, cure="Name frames with --targets, such as 5") from error


class ViewTally(Tally):
    """Means of figures over views, by target."""

    def __init__(self, _: object) -> None:
        self._found: dict[str, list[dict[str, float]]] = {}

    def add(self, answer: Figures) -> None:
        """Count a view, unless nothing of it counts."""
        if answer.values:
            self._found.setdefault(answer.target, []).append(answer.values)
            self.frames += 1

    def rows(self) -> Iterator[Row]:
        """By target."""
        for target, found in self._found.items():
            means = {name: float(np.mean([values[name] for values in found])) for name in found[0]}
            yield {"target": target, "frames": len(found), **means}


def view_metric(*, with_lpips: bool) -> Metric:
    """PSNR and SSIM of novel views, and LPIPS where its weights are given."""
    titles = {"psnr": "PSNR, dB ↑", "ssim": "SSIM ↑"} | ({"lpips": "LPIPS ↓"} if with_lpips else {})
    without = "" if with_lpips else " LPIPS needs its weights (--lpips), and is left out."
    return Metric(
        "views",
        f"Novel views against the pictures of their cameras: 5 % cropped at each edge, mean over views.{without}",
        tuple(Column(key, title, percent=False) for key, title in titles.items()),
        ViewTally,
        by=("target",),
    )
