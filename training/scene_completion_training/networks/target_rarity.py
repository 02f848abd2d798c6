"""How much a target counts by how rare its kind is: most of a street is road, leaves and walls."""

import torch
from torch import Tensor, nn
from torch.nn import functional

KINDS = 48  # clusters that targets are told apart by
MOST_FITTED = 16_384


class TargetRarity(nn.Module):
    """Weights of targets [N, D]: (share of their cluster) to the power −ρ, one on the mean.

    With ρ = 0 all count alike; with ρ = 1 all clusters do. Half way, as labelled points are drawn, rare things are
    learned and are not seen everywhere.
    """

    def __init__(self, dim: int, power: float) -> None:
        super().__init__()
        self.power = power
        self.centres: Tensor
        self.weights: Tensor
        self.register_buffer("centres", torch.zeros(KINDS if power else 0, dim))
        self.register_buffer("weights", torch.ones(KINDS if power else 0))

    @torch.no_grad()
    def fit(self, targets: Tensor, seed: int) -> None:
        """Finds the clusters of targets [N, D] by their direction."""
        if not self.power:
            return
        from sklearn.cluster import KMeans

        generator = torch.Generator().manual_seed(seed)
        chosen = targets[torch.randperm(len(targets), generator=generator)[:MOST_FITTED]]
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
