"""The feature field: a density field whose points also carry a feature (SceneDINO, section 3.1).

Next to it: what makes tokens of rendered features (SceneDINO; FeatUp), the distillation head of unsupervised semantics
with its buffer of crops (STEGO; SceneDINO), and how much targets count by how rare their kind is.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from scene_completion_training.networks.density_field import DensityField, SingleViewObservation, part_of, sample_map
from scene_completion_training.networks.encoder_decoder import EncoderDecoder, make_decoder
from scene_completion_training.viewpoint import Viewpoint


class ChannelNorm(nn.Module):
    """Brings the channels of each pixel to mean zero and variance one, and scales each channel (LayerNorm).

    The cosine loss is blind to the length of features: a decoder's outputs grew three hundredfold within a thousand
    steps, and the point code had no effect any more.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Returns a map [B, C, h, w] of the same shape."""
        centred = x - x.mean(dim=1, keepdim=True)
        return centred * torch.rsqrt(centred.square().mean(dim=1, keepdim=True) + 1e-5) * self.weight + self.bias


MAP_CHANNELS = 64  # of the map that features are read from, where it is not that of the density


class FeatureField(nn.Module):
    """A single-view density field with hidden units for features, next to those for the density.

    f(x) = Wo · ReLU(Wf g(u, v) + Wγ γ(x) + b), with a feature map g of its own, decoded from the maps of the density's
    trunk. SceneDINO has one hidden layer for both. Apart, the density can stay exactly what it was validated as, and a
    robot evaluates the units of the features where voxels are occupied only. Features are composited along rays, and
    then expanded to the dimension of the targets (`expand`): 64 numbers instead of hundreds make the training
    affordable. `target_mean` [D] is taken from the targets, zero where they are learned as they are.
    """

    def __init__(
        self,
        density: DensityField,
        *,
        target_size: int,  # dimension D of the targets
        channels: int = 64,  # dimension of the features that are composited
        units: int = 128,
        expansion: int | nn.Module = 128,  # hidden width of the expansion, or another network in its place
        shared: bool = False,  # features come from the hidden units of the density (SceneDINO), not from a decoder
    ) -> None:
        super().__init__()
        self.density = density
        self.spec, self.camera, self.channels, self.shared = density.spec, density.camera, channels, shared
        if not shared:
            self.decoder = make_decoder(density.encoder.trunk, density.encoder.channels)
            self.normalise = ChannelNorm(self.decoder.width)
            self.project = nn.Conv2d(self.decoder.width, MAP_CHANNELS, 1)
            self.feature_layer = nn.Conv2d(MAP_CHANNELS, units, 1, bias=False)
            self.position_layer = nn.Linear(density.spec.size, units)
            # Kaiming initialisation of the joint layer, whose fan-in is map and code together.
            for weight in (self.feature_layer.weight, self.position_layer.weight):
                nn.init.normal_(weight, std=math.sqrt(2.0 / (MAP_CHANNELS + density.spec.size)))
            nn.init.zeros_(self.position_layer.bias)
        self.output_layer = nn.Linear(density.hidden if shared else units, channels)
        self.expansion = (
            expansion
            if isinstance(expansion, nn.Module)
            else nn.Sequential(nn.Linear(channels, expansion), nn.ReLU(inplace=True), nn.Linear(expansion, target_size))
        )
        self.target_size = target_size  # dimension of the expanded features
        self.target_mean: Tensor = nn.Buffer(torch.zeros(target_size))

    @classmethod
    def rebuilt(cls, state: Mapping[str, Tensor], viewpoint: Viewpoint, encoder: EncoderDecoder) -> "FeatureField":
        """An untrained field that weights fit, see `TrainedField`."""
        output = state["output_layer.weight"]
        target, expansion = (state.get(f"expansion.{layer}.weight") for layer in (2, 0))
        density = part_of(state, "density.")
        return cls(
            DensityField.rebuilt(density, viewpoint, encoder),
            target_size=len(output if target is None else target),
            channels=len(output),
            units=output.shape[1],
            expansion=nn.Identity() if expansion is None else len(expansion),
            shared="project.weight" not in state,
        )

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Loads weights of such a field, or those of a density field alone."""
        if any(name.startswith("density.") for name in weights):
            self.load_state_dict(dict(weights))
            return
        self.density.load_state_dict(dict(weights))
        if not self.shared:  # what sees edges for the depth sees them for the features too
            self.decoder.load_state_dict(self.density.encoder.decoder.state_dict())

    @property
    def positions(self) -> nn.Linear:
        """What the point code adds to the units of the features."""
        return self.density.position_layer if self.shared else self.position_layer

    @property
    def encoder(self) -> EncoderDecoder:
        """Encoder of the density."""
        return self.density.encoder

    def observe(self, image: Tensor) -> "FeatureObservation":
        """Encodes RGB images [B, 3, H, W] in 0..255."""
        maps = self.density.encoder.trunk_maps(image)
        return self._observed(maps, self.density.observe_maps(maps))

    def _observed(self, maps: list[Tensor], seen: SingleViewObservation) -> "FeatureObservation":
        if self.shared:
            units = seen.hidden_map
        else:
            with self.encoder.autocast(maps[0]):
                decoded = self.encoder.unflipped(self.decoder(maps))
            units = self.feature_layer(self.project(self.normalise(decoded.float())))
        return FeatureObservation(**vars(seen), feature_field=self, features_map=units)

    def expand(self, features: Tensor) -> Tensor:
        """Features [..., channels], of points or composited, in the space of the targets less their mean [..., D]."""
        return self.expansion(features)  # type: ignore[no-any-return]

    def codes(self, features: Tensor) -> Tensor:
        """Features [..., channels] of points as vectors [..., D]: what lies together in their space gets one class."""
        return normalised(self.expand(features))


@dataclass(frozen=True, eq=False)
class FeatureObservation(SingleViewObservation):
    """A `FeatureField` that has seen its image, as its density has: the image part [B, units, h, w] of its units."""

    feature_field: FeatureField
    features_map: Tensor

    def units(self, points: Tensor) -> Tensor:
        """Hidden units of the features [B, N, units] at points [B, N, 3], metres, optical frame."""
        field = self.feature_field
        coordinates: Tensor = field.spec.coordinates(points, field.camera)
        image_part = sample_map(self.features_map, coordinates).transpose(1, 2)
        return functional.relu(image_part + field.positions(field.spec.encode(coordinates)))

    def features(self, points: Tensor) -> Tensor:
        """Features [B, N, channels] at points [B, N, 3], before the expansion."""
        return self.feature_field.output_layer(self.units(points))  # type: ignore[no-any-return]


def normalised(features: Tensor) -> Tensor:
    """Features [..., D] of length one."""
    return functional.normalize(features, dim=-1, eps=1e-6)


class SalienceDownsampler(nn.Module):
    """Weighs the rays of a patch by their salience, and sums their features [D = `size`] (FeatUp's attention).

    π = softmax_j(s_j w_j + b_j), s_j = a · F_j + c, with w ~ N(1, 0.01) and b ~ N(0, 0.01) learned for each place j in
    the patch. Rays that cannot be supervised have no weight.
    """

    def __init__(self, size: int, places: int) -> None:
        super().__init__()
        self.salience = nn.Linear(size, 1)
        self.scale = nn.Parameter(1.0 + 0.01 * torch.randn(places))
        self.offset = nn.Parameter(0.01 * torch.randn(places))

    def forward(self, features: Tensor, valid: Tensor) -> Tensor:
        """One feature of length one a patch [P, D] of rays [P, J, D]; zero where none is valid [P, J]."""
        logit = self.salience(features)[..., 0] * self.scale + self.offset
        weights = torch.softmax(logit.masked_fill(~valid, -1e9), dim=1) * valid
        return functional.normalize(torch.einsum("pj,pjd->pd", weights, features), dim=-1, eps=1e-6)


class ArtefactField(nn.Module):
    """What in tokens depends on their place in the shifted grid, not on the scene: a map [*grid, D], dropped."""

    def __init__(self, size: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.values = nn.Parameter(1e-3 * torch.randn(*grid, size))

    def forward(self, cells: Tensor) -> Tensor:
        """Returns the artefacts [P, D] of cells (row, column) [P, 2]."""
        return self.values[cells[:, 0], cells[:, 1]]  # type: ignore[no-any-return]


DROPOUT = 0.1
NEAREST = 4  # crops that a similar one is drawn from (SceneDINO)


class DistillationHead(nn.Module):
    """z = W1 x + W3 ReLU(W2 x), of length one: features [D] to a space (64 in SceneDINO) that falls into clusters."""

    def __init__(self, size: int, channels: int = 64) -> None:
        super().__init__()
        self.drop_input = nn.Dropout(DROPOUT)
        self.drop_output = nn.Dropout(DROPOUT)
        self.linear = nn.Linear(size, channels)
        self.nonlinear = nn.Sequential(nn.Linear(size, size), nn.ReLU(inplace=True), nn.Linear(size, channels))

    def forward(self, features: Tensor) -> Tensor:
        """Returns z [..., channels] of features [..., D], which are brought to length one first."""
        x = self.drop_input(functional.normalize(features, dim=-1, eps=1e-6))
        out = self.drop_output(self.linear(x)) + self.drop_output(self.nonlinear(x))
        return functional.normalize(out, dim=-1, eps=1e-6)


class CropBuffer(nn.Module):
    """The last crops (256 in SceneDINO) with their mean features; partners are drawn from the nearest."""

    def __init__(self, capacity: int, points: int, size: int) -> None:
        super().__init__()
        self.features: Tensor = nn.Buffer(torch.zeros(capacity, points, size, dtype=torch.float16))
        self.means: Tensor = nn.Buffer(torch.zeros(capacity, size))
        self.filled: Tensor = nn.Buffer(torch.zeros((), dtype=torch.long))
        self.position: Tensor = nn.Buffer(torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def push(self, crops: Tensor) -> None:
        """Adds crops [N, P, D] of features of length one; the oldest leave."""
        capacity = len(self.features)
        crops = crops[-capacity:]
        slots = (self.position + torch.arange(len(crops), device=crops.device)) % capacity
        self.features[slots] = crops.to(self.features.dtype)
        self.means[slots] = functional.normalize(crops.mean(dim=1), dim=-1, eps=1e-6)
        self.position.copy_((self.position + len(crops)) % capacity)
        self.filled.copy_((self.filled + len(crops)).clamp_max(capacity))

    @torch.no_grad()
    def partners(self, crops: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor] | None:
        """For crops [N, P, D] one each of those nearest by mean feature, and any one; None before it holds enough.

        The nearest of all does not count: in a training it is the crop itself, which was pushed before.
        """
        filled = int(self.filled)
        if filled <= NEAREST:
            return None
        mean = functional.normalize(crops.mean(dim=1), dim=-1, eps=1e-6)
        nearest = (mean @ self.means[:filled].T).topk(NEAREST + 1, dim=1).indices[:, 1:].cpu()
        one = torch.randint(NEAREST, (len(crops), 1), generator=generator)
        any_one = torch.randint(filled, (len(crops),), generator=generator)
        chosen = torch.gather(nearest, 1, one)[:, 0]
        similar, other = (self.features[index.to(self.features.device)].float() for index in (chosen, any_one))
        return similar, other


KINDS = 48  # clusters of targets
MOST_FITTED = 16_384


class TargetRarity(nn.Module):
    """Weights of targets [N, D]: (share of their cluster) to the power −ρ, one on the mean; with ρ = 0 all count alike.

    Half way to 1 rare things are learned and are not seen everywhere.
    """

    def __init__(self, dim: int, power: float) -> None:
        super().__init__()
        self.power = power
        self.centres: Tensor = nn.Buffer(torch.zeros(KINDS if power else 0, dim))
        self.weights: Tensor = nn.Buffer(torch.ones(KINDS if power else 0))

    @torch.no_grad()
    def fit(self, targets: Tensor, seed: int) -> None:
        """Finds the clusters of targets [N, D] by their direction."""
        if not self.power:
            return
        from sklearn.cluster import KMeans

        chosen = targets[torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))[:MOST_FITTED]]
        directions = functional.normalize(chosen.float(), dim=-1)
        found = KMeans(KINDS, n_init=1, random_state=seed).fit(directions.numpy())
        shares = torch.bincount(torch.from_numpy(found.labels_).long(), minlength=KINDS) / len(directions)
        weights = shares.clamp_min(1e-4) ** -self.power
        self.centres.copy_(functional.normalize(torch.from_numpy(found.cluster_centers_), dim=-1))
        self.weights.copy_(weights / (shares * weights).sum())

    def forward(self, targets: Tensor) -> Tensor:
        """Weights [N] of targets [N, D]."""
        if not self.power:
            return targets.new_ones(len(targets))
        return self.weights[(functional.normalize(targets, dim=-1, eps=1e-6) @ self.centres.T).argmax(dim=1)]
