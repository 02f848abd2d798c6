"""The encoder keeps its frozen parts frozen."""

import pytest
import torch

from scene_completion_training.networks.encoder_decoder import EncoderDecoder


@pytest.mark.parametrize("called", [False, True])
def test_batch_normalisation_keeps_its_statistics_in_training(called: bool) -> None:
    network = EncoderDecoder((64, 96), pretrained=False)
    if called:
        network.train()
    assert network.training
    before = {k: v.clone() for k, v in network.state_dict().items() if "running" in k}
    network(torch.rand(1, 3, 64, 96) * 255)
    after = network.state_dict()
    assert before and all(torch.equal(after[k], v) for k, v in before.items())


def test_imagenet_weights_are_loaded_and_frozen_as_far_as_asked() -> None:
    network = EncoderDecoder(pretrained=True)
    fresh = EncoderDecoder(pretrained=False)
    assert not torch.equal(network.trunk.blocks[5]._project_conv.weight, fresh.trunk.blocks[5]._project_conv.weight)
    assert not any(p.requires_grad for p in network.trunk.parameters())
    assert all(p.requires_grad for p in network.decoder.parameters())
    partly = EncoderDecoder(pretrained=True, frozen_blocks=5)
    assert not any(p.requires_grad for p in partly.trunk.blocks[4].parameters())
    assert all(p.requires_grad for p in partly.trunk.blocks[5].parameters())


def test_the_full_size_trunk_is_frozen_as_far_as_asked() -> None:
    network = EncoderDecoder((64, 96), trunk="resnet50", pretrained=False)
    network.trunk.freeze(1)
    norms = {name: m.training for name, m in network.trunk.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    assert not any(training for name, training in norms.items() if name.startswith(("stem", "stages.0.")))
    assert all(
        training for name, training in norms.items() if not name.startswith(("stem", "stages.0."))
    )  # as published
    assert not any(m.training for m in network.eval().modules())
    learning = {name.split(".")[1] for name, p in network.trunk.named_parameters() if p.requires_grad}
    assert not any(p.requires_grad for p in network.trunk.stem.parameters()) and learning >= {"1", "2", "3"}
    assert "0" not in learning
