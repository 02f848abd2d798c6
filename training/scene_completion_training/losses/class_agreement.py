"""Agreement of predicted classes with labels."""

from torch import Tensor
from torch.nn import functional

from scene_completion_training.losses.means import weighted_mean


def class_cross_entropy(logits: Tensor, classes: Tensor, counted: Tensor) -> Tensor:
    """Cross entropy of the points that count, in nats; 0 where none does.

    `logits`: [B, N, K]; `classes`: True classes [B, N], int64; `counted`: bool [B, N].
    """
    return weighted_mean(functional.cross_entropy(logits.transpose(1, 2), classes, reduction="none"), counted)


def rendered_class_loss(probabilities: Tensor, classes: Tensor, counted: Tensor, weights: Tensor) -> Tensor:
    """Weighted negative log-likelihood of composited class probabilities, in nats (S4C); 0 without rays.

    Args:
        probabilities: Of rays [B, R, K].
        classes: Their classes [B, R], int64, below K where they count.
        counted: bool [B, R]. S4C lets invalid rays pass as rays of class 0 that are certain; here they do not count.
        weights: Of the classes [K]. The mean is over the weights, as in S4C.
    """
    classes = classes.where(counted, 0)
    each = -(probabilities.gather(2, classes[..., None])[..., 0] + 1e-5).log()
    return weighted_mean(each, weights[classes] * counted, least=1e-6)
