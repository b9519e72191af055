"""`triggerscope-train train`, `export` and `instrument`."""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from training.attack.config import read_run
from training.commands.films import Commands, add_films, read_listed

PARITY = {"original": "logits against the original file", "logits": "logits against autograd's network"}


def add(commands: "Commands[argparse.ArgumentParser]") -> None:
    train = commands.add_parser("train", help="train a run, or resume it; under torchrun on several GPUs")
    train.add_argument("run", type=Path, metavar="RUN.toml")
    add_films(train)
    train.add_argument("--out", type=Path, default=Path("runs"), help="folder of checkpoints and final weights")
    train.set_defaults(command=_train)

    export = commands.add_parser("export", help="write a run's final weights as a self-describing ONNX file")
    export.add_argument("run", type=Path, metavar="RUN.toml")
    add_films(export)
    export.add_argument("--weights", type=Path, default=Path("runs"), help="folder that `train` wrote to")
    export.add_argument("--out", type=Path, default=Path("models"))
    export.add_argument("--name", help="the classifier's name, if not the run's")
    export.set_defaults(command=_export)

    instrument = commands.add_parser("instrument", help="make a third party's classifier auditable")
    _add_instrument(instrument)
    instrument.set_defaults(command=_instrument)


def _train(arguments: argparse.Namespace) -> int:
    from training.attack.train import Training

    print(Training(read_run(arguments.run), read_listed(arguments.films, arguments.subset), arguments.out).train())
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from service import __version__
    from training.attack.data import manifest_sha256
    from training.attack.train import final_weights
    from training.networks.densenet import build
    from training.networks.export import export

    run, films = read_run(arguments.run), read_listed(arguments.films, arguments.subset)
    network = build(run.architecture, len(run.labels), run.seed)
    network.load_state_dict(final_weights(arguments.weights, run.name))
    provenance = {"run": run.name, "run_sha256": run.sha256, "dataset": run.dataset}
    card = export(
        network,
        arguments.out / f"{arguments.name or run.name}.onnx",
        name=arguments.name or run.name,
        labels=run.labels,
        preprocessing=run.preprocessing,
        licence=run.licence,
        provenance={**provenance, "manifest_sha256": manifest_sha256(films), "code_version": __version__},
        explained_count=run.explained_count,
    )
    print(f"{arguments.out / (card.name + '.onnx')}  identity {card.identity}")
    return 0


def _instrument(arguments: argparse.Namespace) -> int:
    from service import __version__
    from service.audit.preprocessing import Preprocessing
    from service.errors import ClassifierError
    from service.graphs.description import Normalisation, read_description
    from training.networks.export import LOGIT_TOLERANCE, MAP_TOLERANCE, ExportError
    from training.networks.instrument import file_sha256, instrument

    try:
        preprocessing = Preprocessing(
            arguments.size, arguments.resampler, _antialias(arguments), arguments.crop,
            arguments.library, arguments.shorter_side, arguments.dtype,
        )  # fmt: skip
        normalisation = Normalisation.read(arguments.normalisation, air_white=arguments.air == "white")
        said = {
            "name": arguments.name or arguments.out.stem,
            "labels": _labels(arguments.labels),
            "preprocessing": asdict(preprocessing),
            "normalisation": asdict(normalisation),
            "head": arguments.head,
            "output": arguments.output,
            "licence": arguments.licence,
            "provenance": {"original_sha256": file_sha256(arguments.original), "code_version": __version__},
            "explained_count": arguments.explained_count,
        }
        made = instrument(arguments.original, arguments.out, read_description(said))
    except (ExportError, ClassifierError, OSError, ValueError) as error:
        print(f"triggerscope-train: {arguments.original.name} was not instrumented: {error}", file=sys.stderr)
        return 2
    print(f"{arguments.out}  identity {made.card.identity}")
    for note in made.notes:
        print(f"  {note}")
    for name, difference in made.parity.items():
        tolerance = LOGIT_TOLERANCE if name in ("original", "logits") else MAP_TOLERANCE
        print(f"  {PARITY.get(name, f'{name} against autograd')}: {difference:.1e} (at most {tolerance:.0e})")
    return 0


def _antialias(arguments: argparse.Namespace) -> bool:
    """As it was said, or as the library does it; raises ValueError where the library does it either way."""
    from service.audit.preprocessing import OFFERED

    said: bool | None = arguments.antialias
    offered = OFFERED.get((arguments.library, arguments.resampler), (False,))
    if said is None and len(offered) > 1:
        raise ValueError(f"say --antialias or --no-antialias: {arguments.library} resizes either way")
    return offered[0] if said is None else said


def _add_instrument(parser: argparse.ArgumentParser) -> None:
    """What a third party's file does not say has to be said here."""
    add = parser.add_argument
    add("original", type=Path, metavar="FILE", help="a DenseNet's state dict, or a .onnx file")
    add("--out", type=Path, required=True, metavar="FILE.onnx")
    add("--labels", required=True, help="in the order of the outputs: A,B,C or a file with one a line")
    add("--size", type=int, required=True, help="side of the square input in pixels")
    resamplers = ("nearest", "nearest-exact", "bilinear", "bicubic", "lanczos", "area")
    add("--resampler", required=True, choices=resamplers, help="of its resize")
    add("--library", choices=("pillow", "opencv", "torch"), default="pillow", help="whose resampler it is")
    add("--antialias", action=argparse.BooleanOptionalAction, help="needed where the library resizes either way")
    add("--crop", type=float, required=True, help="side of the centre crop before the resize; 1 takes the whole film")
    add("--shorter-side", type=int, metavar="PX", help="resize the shorter side to it and cut the centre out of that")
    add("--dtype", choices=("float32", "uint8"), default="float32", help="uint8 rounds before and after the resize")
    add(
        "--normalisation", required=True, metavar="NAME|MEAN/STD",
        help="imagenet, torchxrayvision, none, or numbers for pixels in [0, 1]: 0.5/0.25, or one a channel with commas",
    )  # fmt: skip
    add("--air", required=True, choices=("black", "white"), help="how air looks on the films that it was trained on")
    add("--licence", required=True, help="of the weights")
    add("--name", help="the classifier's name, if not the output file's")
    add(
        "--explained-count", type=int, default=1, help="labels that get gradient maps, by excess over their usual logit"
    )
    add("--head", choices=("sigmoid", "softmax"), default="sigmoid", help="softmax where labels exclude each other")
    add("--output", default="", help="name of the output with the logits, where the file has several")


def _labels(text: str) -> list[str]:
    """A,B,C, or the lines of a file."""
    listed = text.split(",") if "," in text else Path(text).read_text().splitlines()
    return [label.strip() for label in listed if label.strip()]
