"""What rendered features must agree with: the tokens of a 2D foundation model, and each other within a surface."""

from torch import Tensor
from torch.nn import functional

from scene_completion_training.losses.means import weighted_mean

EDGE_TEMPERATURE = 25.0  # how quickly the smoothness of features ends at an edge of the image (SceneDINO)


def cosine_loss(predicted: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """1 − cos(F, F*), weighted mean over rows; zero, with a gradient of zero, where none has a weight.

    The published code has no mask: rays that end where no encoder view looks are drawn to what others see there.
    `predicted`: [P, D]; `target`: [P, D]; `weight`: of each row [P]; booleans say which are valid.
    """
    return weighted_mean(1.0 - functional.cosine_similarity(predicted, target, dim=-1, eps=1e-6), weight)


def demeaned_cosine_loss(predicted: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """As `cosine_loss`, with targets less their mean over the channels (CUA-O3D, for Stable Diffusion)."""
    return cosine_loss(predicted, target - target.mean(dim=-1, keepdim=True), weight)


def l1_loss(predicted: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """|F − F*|, mean over the channels and weighted mean over rows; arguments as of `cosine_loss`."""
    return weighted_mean((predicted - target).abs().mean(dim=-1), weight)


def feature_smoothness(features: Tensor, image: Tensor) -> Tensor:
    """mean_c |∂x F| e^{−25 |∂x I|} + the same along y: features change where the image does (SceneDINO).

    Features are brought to a root mean square of one a channel. Otherwise the loss falls as well when they all shrink,
    to which the cosine loss is blind. Returns mean over all h × w pixels; the forward differences of the last column
    and row are zero. `features`: expanded features of patches [P, h, w, D], of any length; `image`: patches [P, 3, h,
    w] in 0..1.
    """
    features = functional.normalize(features, dim=-1, eps=1e-6) * features.shape[-1] ** 0.5
    dx = (features[:, :, 1:] - features[:, :, :-1]).abs().mean(dim=-1)
    dy = (features[:, 1:] - features[:, :-1]).abs().mean(dim=-1)
    edge_x = (image[..., 1:] - image[..., :-1]).abs().mean(dim=1)
    edge_y = (image[..., 1:, :] - image[..., :-1, :]).abs().mean(dim=1)
    smooth = (dx * (-EDGE_TEMPERATURE * edge_x).exp()).sum() + (dy * (-EDGE_TEMPERATURE * edge_y).exp()).sum()
    return smooth / features[..., 0].numel()
