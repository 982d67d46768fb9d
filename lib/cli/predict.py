"""`predict`: read photos of digits with a trained network."""

from __future__ import annotations

import argparse
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from lib.cli.output import UsageError, json_text, write_error, write_line
from lib.files import regular_file
from lib.text.formatting import percent
from lib.text.untrusted_text import visible

if TYPE_CHECKING:
    from lib.inference.predict import Prediction
    from lib.storage.checkpoints import Checkpoint


def add_predict(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Each image shows one digit, dark on light or light on dark. Exit status: 0 all images were read, 1 some could "
        "not be read, 2 invalid arguments."
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="a PNG or JPEG file")
    parser.add_argument("--checkpoint", metavar="NAME|PATH", help="the network to use instead of the first shipped one")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line for each image")
    parser.set_defaults(command=predict)


def predict(options: argparse.Namespace) -> int:
    """Print the prediction for each image. Return 0, or 1 if an image could not be read.

    Raises UsageError and OutputError.
    """
    from lib.data import dataset
    from lib.evaluation import calibration
    from lib.evaluation.stored_calibration import stored_calibration
    from lib.inference import photos, predict
    from lib.storage import checkpoints

    try:
        checkpoint = _checkpoint(options.checkpoint)
        network = checkpoints.network(checkpoint)
        found = stored_calibration(checkpoint) or calibration.calibrate(network, dataset.load())
    except (checkpoints.CheckpointError, dataset.DatasetError) as error:
        raise UsageError(str(error)) from error
    status = 0
    for name in options.images:
        try:
            with regular_file.opened(name) as file:
                content = file.read(photos.MAX_BYTES + 1) or b""
            prediction = predict.predict(network, photos.photo_to_image(content), found.temperature, found.gaussians)
        except (photos.PhotoError, OSError) as error:
            status = 1
            problem = (
                f"It cannot be opened ({error.strerror}): check its name." if isinstance(error, OSError) else str(error)
            )
            if options.json:
                write_line(json_text({"file": name, "error": problem}))
            else:
                write_error(f"{visible(name)}: {problem}")
            continue
        write_line(_prediction_line(name, prediction, options.json))
    return status


def _prediction_line(name: str, prediction: Prediction, as_json: bool) -> str:
    if not as_json:
        doubt = "" if prediction.is_confident else ", uncertain"
        return (
            f"{visible(name)}: reads {prediction.digit} with a probability of {percent(prediction.confidence)}{doubt}"
        )
    return json_text(
        {
            "file": name,
            "digit": prediction.digit,
            "certain": prediction.is_confident,
            "confidence": prediction.confidence,
            "novelty": prediction.ood_percentile,
            "entropy": prediction.entropy,
            "probabilities": prediction.probabilities,
        }
    )


def _checkpoint(name: str | None) -> Checkpoint:
    """Return the checkpoint with this name or path; without a name, the first shipped one that can be read.

    Raises CheckpointError and UsageError.
    """
    from lib.storage import checkpoints

    if name is None:
        for path in checkpoints.shipped():
            with suppress(checkpoints.CheckpointError):
                found = checkpoints.load(path)
                if found.weights:
                    return found
        raise UsageError("There is no trained network: checkpoints/ is empty. Restore it from the project.")
    if name.endswith(checkpoints.SUFFIX):
        return checkpoints.load(Path(name))
    found_paths = {path.stem: path for path in reversed(checkpoints.paths())}
    if name not in found_paths:
        raise UsageError(f"There is no checkpoint {name}: name one of {', '.join(sorted(found_paths))}, or a file.")
    return checkpoints.load(found_paths[name])
