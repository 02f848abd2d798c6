"""Features of a text-aligned 2D model for rooms, of any 2D model and some labelled rooms: where LSeg cannot be had.

    python -m scene_completion_training.points.text_teacher --labelled FOLDER --views FOLDER ... --model MODEL \
        --text-encoder MODEL --cache DIR --output DIR

A linear layer on tokens of the model, lifted to points, learns the classes of --labelled, as LSeg learned from labelled
images. The feature of a token is the mixture of the embeddings of the classes' sentences by their probabilities. It is
written for every view of --views, where `files:DIR` reads it. Scenes whose folder is there are left as they are.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy.special import softmax

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.progress import watched
from scene_completion_ros.whole_files import whole_folder
from scene_completion_training.evaluation.probes import PointMethod, fit_linear_probe, labelled_points, lifted_features
from scene_completion_training.foundation.encoded_words import PhraseList, TextEncoder, make_bank
from scene_completion_training.foundation.teachers import open_teacher
from scene_completion_training.points.data import PixelTeacher, phrases
from scene_completion_training.points.opening import open_scenes

CELL, PROBED, TEMPLATE = 14, 1000, "a {} in a scene"


def main(argv: Sequence[str] | None = None) -> None:
    """Fits the layer and writes the features."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag in ("--labelled", "--cache", "--output"):
        parser.add_argument(flag, type=Path, required=True)
    parser.add_argument("--views", type=Path, nargs="+", required=True)
    for flag in ("--model", "--text-encoder"):
        parser.add_argument(flag, required=True)
    parser.add_argument("--layer", type=int, default=-1)
    parser.add_argument("--labels", default="scannet20")
    args = parser.parse_args(argv)

    lifted = lifted_features(args.cache, PixelTeacher("tokens", model=args.model, layer=args.layer, cell=CELL))
    labelled_scenes = open_scenes(args.labelled, labels=args.labels)
    known = labelled_points(PointMethod("tokens", lifted), labelled_scenes.values(), PROBED)
    values = known.values((0,))
    seen = values.any(axis=1)
    probe = fit_linear_probe(values[seen], known.classes[seen], len(known.class_names))
    sentences = phrases(known.class_names)
    bank = make_bank(TextEncoder(args.text_encoder), PhraseList(phrases=tuple(sentences), template=TEMPLATE))
    rows, model = bank.rows(sentences), open_teacher(args.model, args.layer)
    for folder in args.views:
        for name, scene in watched(open_scenes(folder).items(), "scene"):
            if (args.output / name).exists():
                continue
            with whole_folder(args.output / name) as part:
                for view in scene.views:
                    image = view.image()
                    size = [max(1, round(edge / CELL)) * CELL for edge in image.shape[1::-1]]  # whole tokens
                    shown = torch.from_numpy(cv2.resize(image, size, interpolation=cv2.INTER_AREA)).permute(2, 0, 1)
                    tokens = model.features(shown[None], CELL)[0].cpu().numpy()
                    mixed = softmax(probe.logits(tokens.reshape(len(tokens), -1).T), axis=1) @ rows
                    np.save(part / f"{view.name}.npy", mixed.T.reshape(-1, *tokens.shape[1:]).astype(np.float16))


if __name__ == "__main__":
    try:
        main()
    except SceneCompletionError as error:
        sys.exit(f"error: {error}")
