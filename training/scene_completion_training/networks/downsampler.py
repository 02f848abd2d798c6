"""From rendered features, one a ray, to the tokens of a vision transformer, one a patch (SceneDINO; FeatUp)."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class SalienceDownsampler(nn.Module):
    """Weighs the rays of a patch by how much each says, and sums their features (FeatUp's attention downsampler).

    π = softmax_j(s_j w_j + b_j), s_j = a · F_j + c, with w ~ N(1, 0.01) and b ~ N(0, 0.01) learned for each place j in
    the patch. Rays that cannot be supervised have no weight. Features have D = `size` dimensions.
    """

    def __init__(self, size: int, places: int) -> None:
        super().__init__()
        self.salience = nn.Linear(size, 1)
        self.scale = nn.Parameter(1.0 + 0.01 * torch.randn(places))
        self.offset = nn.Parameter(0.01 * torch.randn(places))

    def forward(self, features: Tensor, valid: Tensor) -> Tensor:
        """Returns one feature of length one a patch [P, D] of its rays [P, J, D], of which some are valid [P, J].

        The feature of a patch without valid rays is zero.
        """
        logit = self.salience(features)[..., 0] * self.scale + self.offset
        weights = torch.softmax(logit.masked_fill(~valid, -1e9), dim=1) * valid
        return functional.normalize(torch.einsum("pj,pjd->pd", weights, features), dim=-1, eps=1e-6)


class ArtefactField(nn.Module):
    """What a token says of its place in the image instead of the scene: a constant map that is learned and dropped.

    It is added to the downsampled prediction [D = `size`] at the token's place (row, column) in the transformer's grid.
    The random shift of that grid against the image is what tells it from the scene.
    """

    def __init__(self, size: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.values = nn.Parameter(1e-3 * torch.randn(*grid, size))

    def forward(self, cells: Tensor) -> Tensor:
        """Returns the artefacts [P, D] of cells (row, column) [P, 2]."""
        return self.values[cells[:, 0], cells[:, 1]]  # type: ignore[no-any-return]
