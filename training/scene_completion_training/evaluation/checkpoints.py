"""Training checkpoints as predictors."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from scene_completion_ros.errors import ConfigurationError, SequenceError
from scene_completion_ros.geometry import Camera, Resampler, RigidTransform
from scene_completion_ros.inference.head import PointCodeSpec
from scene_completion_ros.sequences.posed_sequence import PosedSequence, reference_camera, stereo_pair
from scene_completion_training.arrays import Bytes, Floats
from scene_completion_training.checkpoints import Checkpoint, run_name
from scene_completion_training.data.drawn_views import metres_travelled, nearest_along
from scene_completion_training.data.prepared import DOWNWARD, looking_aside
from scene_completion_training.data.view_batches import ENCODED_M
from scene_completion_training.evaluation.predictor import Prediction, Predictor
from scene_completion_training.networks.density_field import DensityField, MultiViewField, ObservedField
from scene_completion_training.workers import accelerator

# Places along the drive of the first, second, and further views that a multi-view field encodes. The first is at the
# evaluated frame. The others are at these shares of the farthest that it was trained with.
VIEW_SHARES = (0.0, 2 / 3, 1 / 3, 1.0)
# Rows of MVBTS: which it encodes of left now and a frame later, right likewise, and the fisheyes ten frames later.
PUBLISHED_VIEWS: dict[str, tuple[int, ...]] = {
    "mono": (0,),
    "temporal": (0, 1),
    "stereo": (0, 2),
    "stereo-temporal": (0, 1, 2, 3),
    "fisheyes": (0, 2, 4, 6),
    "all": tuple(range(8)),
}
FISHEYE_FRAMES = 10
_CHUNK = 1 << 16  # points in memory at a time


@dataclass(frozen=True)
class EncodedView:
    """A view that a field encodes: frame and camera, and whether it is that of a side camera, turned down."""

    index: int
    camera: str
    aside: bool = False


def open_checkpoint(path: Path, views: Sequence[str] = ("1",)) -> "list[FieldModel]":
    """Open a checkpoint, once for each choice of encoded views: a number of `VIEW_SHARES`, or one of `PUBLISHED_VIEWS`.

    Raises BundleError where the file is no such checkpoint; ConfigurationError where it cannot encode so many views.
    """
    checkpoint = Checkpoint.read(path)
    multi_view = checkpoint.stage_class.field_class is MultiViewField
    counts = [str(count + 1) for count in range(len(VIEW_SHARES))]
    possible = [*counts, *PUBLISHED_VIEWS] if multi_view else ["1", "mono"]
    if not views or not set(views) <= set(possible):
        what = f"views {', '.join(views)}, but a field of stage {checkpoint.stage} encodes {' or '.join(possible)}"
        raise ConfigurationError(what, where=str(path), cure="Choose --views accordingly, or leave it out")
    name, half = run_name(path), checkpoint.half_resolution
    if not multi_view:
        return [FieldModel(checkpoint.density_field(), name, half_resolution=half)]
    field = checkpoint.field_of(MultiViewField)
    along = [share * ENCODED_M * checkpoint.viewpoint.volume.scale for share in VIEW_SHARES]
    models: list[FieldModel] = []
    for choice in views:
        if choice in PUBLISHED_VIEWS:
            chosen = functools.partial(published_views, choice=choice)
            models.append(FieldModel(field, f"{name}, {choice}", chosen, half_resolution=half))
            continue
        count = int(choice)
        chosen = functools.partial(views_along, along=along[:count])
        models.append(FieldModel(field, f"{name}, {count} view{'s' * (count > 1)}", chosen, half_resolution=half))
    return models


class FieldModel(Predictor):
    """A trained density field."""

    def __init__(
        self,
        field: DensityField | MultiViewField,  # the field, with the weights that would be exported
        name: str,
        # The views that it encodes of a frame of a sequence. The first is that of the reference camera, and only a
        # multi-view field has others.
        views: Callable[[PosedSequence, int], Sequence[EncodedView]] | None = None,
        *,
        half_resolution: bool = False,  # it was trained on images of half the size, and sees such
    ) -> None:
        self.device = accelerator()
        self.field = field.eval().to(self.device)
        self.half_resolution, self.name = half_resolution, name
        self._views = views or functools.partial(views_along, along=(0.0,))
        # What a camera would see at a frame in place of a camera of the sequence.
        self.image = CanonicalImages(field.camera, half_resolution)

    @property
    def camera(self) -> Camera:
        """Camera of the images as the network sees them."""
        full = self.field.camera
        return full.resized(full.width // 2, full.height // 2) if self.half_resolution else full

    def complete(self, sequence: PosedSequence, index: int) -> Prediction:
        """Encode the views of a frame; where the drive ends, those before it stand in for those after."""
        seen, views = self.encode(sequence, index)
        return observed_density(seen, sequence.cameras[views[0].camera], self.field.spec, self.device)

    def encode(self, sequence: PosedSequence, index: int) -> tuple[ObservedField, Sequence[EncodedView]]:
        """The field that has seen the views of a frame, and these; points are those of the first one."""
        views = self._views(sequence, index)
        images = torch.stack([self.image(sequence, view.index, view.camera, aside=view.aside) for view in views])[None]
        images = images.to(self.device)
        with torch.inference_mode():
            if isinstance(self.field, MultiViewField):
                encoder_from_world = sequence.world_from_camera(index, views[0].camera).inverse()
                turned = {True: RigidTransform(DOWNWARD, np.zeros(3)), False: RigidTransform.identity()}
                seen = (sequence.world_from_camera(v.index, v.camera) @ turned[v.aside] for v in views)
                poses = [(encoder_from_world @ pose).matrix for pose in seen]
                stacked = torch.from_numpy(np.stack(poses)[None]).float().to(self.device)
                return self.field.observe(images, stacked), views
            return self.field.observe(images[:, 0]), views


class CanonicalImages:
    """Images of sequences as a network sees them, halved where it was trained on halved ones."""

    def __init__(self, camera: Camera, half_resolution: bool) -> None:
        self.camera, self.half_resolution = camera, half_resolution

        def resampler(camera: Camera, aside: bool) -> Resampler:
            return Resampler(camera, self.camera, source_from_target_rotation=DOWNWARD if aside else None)

        self.resampler = lru_cache(maxsize=4)(resampler)

    def __call__(self, sequence: PosedSequence, index: int, name: str, *, aside: bool = False) -> Tensor:
        """RGB image [3, H, W] in 0..255 of a camera, of a side camera turned down."""
        return self.of(sequence.image(index, name), sequence.cameras[name], aside=aside)

    def of(self, image: Bytes, camera: Camera, *, aside: bool = False) -> Tensor:
        """The same of an image [h, w, 3] that is at hand."""
        full = torch.from_numpy(self.resampler(camera, aside)(image)).permute(2, 0, 1).float()
        return functional.avg_pool2d(full, 2) if self.half_resolution else full


def observed_density(seen: ObservedField, camera: Camera, spec: PointCodeSpec, device: torch.device) -> Prediction:
    """What a field that has seen its images makes of them."""
    density = functools.partial(in_chunks, lambda points: seen.density(points[None])[0], device=device, chunk=_CHUNK)
    return Prediction(camera, density, (spec.near, spec.far))


def in_chunks(
    function: Callable[[Tensor], Tensor], points: Floats, device: torch.device | None = None, chunk: int = 1 << 14
) -> Floats:
    """What a function gives for points [N, 3] on a device, a chunk of them at a time, so that memory lasts."""
    with torch.inference_mode():
        parts = [function(part.to(device)).cpu() for part in torch.split(torch.from_numpy(points), chunk)]
    return torch.cat(parts).numpy()


def published_views(sequence: PosedSequence, index: int, choice: str) -> list[EncodedView]:
    """The views of a row of MVBTS, see `PUBLISHED_VIEWS`; beyond the end of the drive its last frame stands in.

    Raises SequenceError where the rig has no stereo pair, or no two cameras that look aside, and the row needs them.
    """
    wanted, last = PUBLISHED_VIEWS[choice], len(sequence) - 1
    left = reference_camera(sequence)
    cameras = [left]
    if max(wanted) > 1:
        cameras.append(next(name for name in stereo_pair(sequence)[:2] if name != left))
    if max(wanted) > 3:
        cameras += looking_aside(sequence, left)[:2]
    if max(wanted) > 3 and len(cameras) < 4:
        what = f"{choice} views, but fewer than two cameras look aside"
        raise SequenceError(what, where=sequence.name, cure="Take other --views")
    views = []
    for number in wanted:
        camera, later = divmod(number, 2)
        along = index + later + (FISHEYE_FRAMES if camera > 1 else 0)
        views.append(EncodedView(min(along, last), cameras[camera], camera > 1))
    return views


def views_along(sequence: PosedSequence, index: int, along: Sequence[float]) -> list[EncodedView]:
    """Frame and camera of views: what the reference camera sees from so many metres along the drive (first ignored).

    Where a drive is too short, it is the nearest frame that is not taken yet, of two as near the one further along.
    Raises SequenceError where the sequence has fewer frames than that.
    """
    count = len(along)
    if count > len(sequence):
        cure = "Take fewer --views or a longer drive"
        raise SequenceError(f"{len(sequence)} frames cannot give {count} views", where=sequence.name, cure=cure)
    name = reference_camera(sequence)
    travelled = metres_travelled([sequence.world_from_camera(k, name).translation for k in range(len(sequence))])
    taken: list[int] = []
    for metres in along:
        wanted = nearest_along(travelled, index, metres) if taken else index
        taken.append(min((k for k in range(len(sequence)) if k not in taken), key=lambda k: (abs(k - wanted), -k)))
    return [EncodedView(k, name) for k in taken]
