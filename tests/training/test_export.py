"""The folded encoder of a bundle."""

import torch

from scene_completion_training.export import fold, without_places


def test_folding_two_convolutions_is_exact() -> None:
    torch.manual_seed(0)
    first, second = torch.nn.Conv2d(5, 7, 1).double(), torch.nn.Conv2d(7, 3, 1, bias=False).double()
    x = torch.rand(2, 5, 4, 4, dtype=torch.float64)
    folded = fold(first, second).double()
    assert torch.allclose(folded(x), second(first(x)), atol=1e-6)


def test_a_bundle_names_no_file_of_the_machine_that_trained() -> None:
    places = ("output", "start_from", "teacher", "features_from", "encoder_weights")
    files = dict.fromkeys(places, "/home/ada/last.ckpt")
    features = {"targets": "/home/ada/features", "model": "/home/ada/dinov2", "layer": 11}
    data = {"root": "/home/ada", "cache": "/home/ada/cache", "sources": []}
    kept = without_places({"steps": 4, **files, "features": features, "data": data})
    assert kept == {"steps": 4, "features": {"model": "dinov2", "layer": 11}, "data": {"sources": []}}
