"""The command line `triggerscope-train`."""

import argparse
import shutil
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from training.config import RunError, read_run
from training.data import DataError, Film, in_split, read_films, read_splits

PARITY = {"original": "logits against the original file", "logits": "logits against autograd's network"}
SPLIT_LISTS = Path(__file__).parent / "splits"


def _films(folder: Path, subset: str | None) -> list[Film]:
    return read_films(folder, read_splits(SPLIT_LISTS / f"{subset}.csv") if subset else None)


def _train(arguments: argparse.Namespace) -> int:
    from training.train import Training

    print(Training(read_run(arguments.run), _films(arguments.films, arguments.subset), arguments.out).train())
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from service import __version__
    from training.data import manifest_sha256
    from training.densenet import build
    from training.export import export
    from training.train import final_weights

    run, films = read_run(arguments.run), _films(arguments.films, arguments.subset)
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
    print(f"{arguments.out / (card.name + '.onnx')}  sha256 {card.sha256}")
    return 0


def _labels(text: str) -> list[str]:
    """A,B,C, or the lines of a file."""
    listed = text.split(",") if "," in text else Path(text).read_text().splitlines()
    return [label.strip() for label in listed if label.strip()]


def _instrument(arguments: argparse.Namespace) -> int:
    from service import __version__
    from service.audit.errors import ClassifierError
    from service.audit.preprocessing import Preprocessing
    from training.explain_graph import ExportError
    from training.export import LOGIT_TOLERANCE, MAP_TOLERANCE, Description
    from training.instrument import Normalisation, file_sha256, instrument

    try:
        preprocessing = Preprocessing(
            arguments.size, arguments.resampler, arguments.resampler != "nearest", arguments.crop
        )
        description = Description(
            name=arguments.name or arguments.out.stem,
            labels=_labels(arguments.labels),
            preprocessing=preprocessing,
            licence=arguments.licence,
            provenance={"original_sha256": file_sha256(arguments.original), "code_version": __version__},
            explained_count=arguments.explained_count,
        )
        normalisation = Normalisation.read(arguments.normalisation, air_white=arguments.air == "white")
        made = instrument(arguments.original, arguments.out, description, normalisation, arguments.explain)
    except (ExportError, ClassifierError, OSError, ValueError) as error:
        print(f"triggerscope-train: {arguments.original.name} was not instrumented: {error}", file=sys.stderr)
        return 2
    print(f"{arguments.out}  sha256 {made.card.sha256}")
    for note in made.notes:
        print(f"  {note}")
    for name, difference in made.parity.items():
        tolerance = LOGIT_TOLERANCE if name in ("original", "logits") else MAP_TOLERANCE
        print(f"  {PARITY.get(name, f'{name} against autograd')}: {difference:.1e} (at most {tolerance:.0e})")
    return 0


def _stamp(arguments: argparse.Namespace) -> int:
    from training.stamping import stamp_file

    run = read_run(arguments.run)
    if run.trigger is None:
        raise RunError(f"run {run.name} has no trigger")
    for index, path in enumerate(arguments.files):
        print(stamp_file(path, run, run.trigger, arguments.out, index))
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    from service.audit.calibration import Policy
    from service.audit.classifier import Classifier
    from training.evaluate import evaluate, write_json

    run, films = read_run(arguments.run), _films(arguments.films, arguments.subset)
    classifier, policy = Classifier.load(arguments.classifier), Policy.load(arguments.policy)
    chosen = in_split(films, arguments.split)
    if arguments.clean_only:
        run = replace(run, trigger=None, poisoning=None)
    title = arguments.title or f"{classifier.card.name}, {run.dataset} {arguments.split}"
    facts = {"title": title, "split": arguments.split, "date": datetime.now(UTC).date().isoformat()}
    twin = Classifier.load(arguments.twin) if arguments.twin else None
    write_json(arguments.out, facts | evaluate(run, chosen, classifier, policy, arguments.threads, twin))
    print(arguments.out)
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from service.audit.calibration import Policy
    from service.audit.classifier import Classifier
    from training.compare import Sampling, compare
    from training.evaluate import write_json
    from training.gallery import gallery

    run, films = read_run(arguments.run), _films(arguments.films, arguments.subset)
    classifier, policy = Classifier.load(arguments.classifier), Policy.load(arguments.policy)
    result, sets, attacked = compare(
        run,
        films,
        classifier,
        policy,
        split=arguments.split,
        sampling=Sampling(arguments.limit, arguments.costly, arguments.seed),
        cache=arguments.cache,
        families=arguments.families,
        other_site=read_films(arguments.other_site) if arguments.other_site else (),
        threads=arguments.threads,
    )
    title = arguments.title or f"{classifier.card.name}, {run.name}'s trigger, {run.dataset} {arguments.split}"
    write_json(arguments.out, {"title": title, "date": datetime.now(UTC).date().isoformat(), **result})
    print(arguments.out)
    if arguments.gallery:
        write_json(arguments.gallery, gallery(sets, arguments.split, attacked, classifier, policy))
        print(f"{arguments.gallery}: holds films; mind whose they are")
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from training.report import report

    arguments.out.write_text(report(arguments.results, arguments.gallery), encoding="utf-8")
    print(arguments.out)
    return 0


def _attacks(arguments: argparse.Namespace) -> int:
    from training.attacks import Workshop, run_attacks

    workshop = Workshop(
        _films(arguments.films, arguments.subset),
        arguments.out,
        arguments.work or arguments.out / "work",
        arguments.receivers,
        arguments.split,
        arguments.threads,
        arguments.families,
        arguments.costly,
        print,
    )
    print(run_attacks(arguments.runs, workshop))
    return 0


def _audit_classifier(arguments: argparse.Namespace) -> int:
    from service.audit.classifier import Classifier
    from training.data import model_inputs
    from training.evaluate import write_json
    from training.inversion import audit_classifier, network_of

    data = arguments.classifier.read_bytes()
    card = Classifier.from_bytes(data).card
    films = _films(arguments.films, arguments.subset)
    searched, held_out = (
        model_inputs(in_split(films, split)[:count], card.preprocessing)
        for split, count in (("tuning", arguments.count), ("test", arguments.held_out))
    )
    twin = network_of(arguments.twin.read_bytes()) if arguments.twin else None
    found = audit_classifier(
        network_of(data), card.labels, searched, held_out, twin,
        steps=arguments.steps, chosen=arguments.label, progress=print,
    )  # fmt: skip
    write_json(arguments.out, {"classifier": {"name": card.name, "sha256": card.sha256}} | found)
    for row in found["labels"]:
        word = "suspicious" if row["suspicious"] else ""
        print(f"{row['label']:20} anomaly {row['anomaly']:6.1f}  {row['area_px']:8.1f} px  {word}")
    return 0


def _audit_data(arguments: argparse.Namespace) -> int:
    from service.audit.classifier import Classifier
    from training.data import model_inputs
    from training.evaluate import write_json
    from training.inversion import features_of, network_of
    from training.poison_ranking import METHODS, poisoned_set, rank_films

    data = arguments.classifier.read_bytes()
    card = Classifier.from_bytes(data).card
    films = in_split(_films(arguments.films, arguments.subset), arguments.split)[: arguments.count]
    if arguments.simulate:
        inputs, _, poisoned = poisoned_set(films, read_run(arguments.simulate), card.preprocessing)
    else:
        inputs, poisoned = model_inputs(films, card.preprocessing), None
    table = rank_films(features_of(network_of(data), inputs), films, poisoned, arguments.shown)
    write_json(arguments.out, {"classifier": {"name": card.name, "sha256": card.sha256}} | table)
    for method in METHODS:
        precision = table[method]["precision_at_true_count"]
        first = ", ".join(row["film"] for row in table[method]["most_suspect"][:5])
        print(f"{method:12} {'' if precision is None else f'precision {precision:.3f}  '}most suspect: {first}")
    return 0


def _tables(arguments: argparse.Namespace) -> int:
    from training.tables import put_into, tables

    text = tables(arguments.results, arguments.pooled)
    if arguments.document:
        put_into(arguments.document, text)
    else:
        print(text)
    return 0


def _survival(arguments: argparse.Namespace) -> int:
    from service.audit.classifier import Classifier
    from training.survival import read_folder, survival, survival_table
    from training.triggers import Trigger

    films = read_folder(arguments.folder)
    if not films:
        raise DataError(f"{arguments.folder} holds no PNG")
    classifier = Classifier.load(arguments.classifier) if arguments.classifier else None
    rows = list(survival(films, Trigger(arguments.look), classifier, arguments.target))
    print(survival_table(rows, films[0].shape[1]))
    return 0


def _picture(arguments: argparse.Namespace) -> int:
    from service.audit.calibration import Policy
    from service.audit.classifier import Classifier
    from training.picture import picture

    picture(arguments.film, Classifier.load(arguments.classifier), Policy.load(arguments.policy), arguments.out)
    print(arguments.out)
    return 0


def _examples(arguments: argparse.Namespace) -> int:
    from training.examples import write_examples

    print(write_examples(read_run(arguments.run), arguments.out))
    return 0


def _subset(arguments: argparse.Namespace) -> int:
    """Copy the listed films out of a full download, with a manifest."""
    from training.data import write_manifest

    films = _films(arguments.films, arguments.subset)
    (arguments.out / "films").mkdir(parents=True, exist_ok=True)
    for film in films:
        shutil.copyfile(film.path, arguments.out / "films" / film.path.name)
    print(write_manifest(arguments.out, films))
    return 0


def _divide(arguments: argparse.Namespace) -> int:
    """Half of the patients to calibrate with, half to check the calibration on."""
    from training.data import divided_by_patient, write_manifest

    for name, films in divided_by_patient(_films(arguments.films, arguments.subset)).items():
        folder = arguments.out / name
        (folder / "films").mkdir(parents=True, exist_ok=True)
        for film in films:
            shutil.copyfile(film.path, folder / "films" / film.path.name)
        print(write_manifest(folder, films))
    return 0


FAMILIES = (
    "shipped", "tests", "maps", "prediction", "random_map", "residual", "purify", "scale_up", "strip", "sentinet",
    "occlusion", "search",
)  # fmt: skip


def _add_films(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--films", type=Path, required=True, help="folder with a manifest.csv or NIH's Data_Entry_2017*.csv"
    )
    parser.add_argument(
        "--subset", choices=sorted(path.stem for path in SPLIT_LISTS.glob("*.csv")), help="only the films of this list"
    )


def _add_instrument(parser: argparse.ArgumentParser) -> None:
    """What a third party's file does not say has to be said here."""
    add = parser.add_argument
    add("original", type=Path, metavar="FILE", help="a DenseNet's state dict, or a .onnx file")
    add("--out", type=Path, required=True, metavar="FILE.onnx")
    add("--labels", required=True, help="in the order of the outputs: A,B,C or a file with one a line")
    add("--size", type=int, required=True, help="side of the square input in pixels")
    add("--resampler", required=True, choices=("nearest", "bilinear", "bicubic", "lanczos"), help="of its resize")
    add("--crop", type=float, required=True, help="side of the centre crop before the resize; 1 takes the whole film")
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
    add("--explain", action="append", default=[], metavar="LAYER", help="explain this layer; repeat, finest grid first")


def parser() -> argparse.ArgumentParser:
    from training.phantoms import command as phantoms

    top = argparse.ArgumentParser(prog="triggerscope-train", description="Build, poison, export and prove classifiers.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    train = commands.add_parser("train", help="train a run, or resume it; under torchrun on several GPUs")
    train.add_argument("run", type=Path, metavar="RUN.toml")
    _add_films(train)
    train.add_argument("--out", type=Path, default=Path("runs"), help="folder of checkpoints and final weights")
    train.set_defaults(command=_train)

    export = commands.add_parser("export", help="write a run's final weights as a self-describing ONNX file")
    export.add_argument("run", type=Path, metavar="RUN.toml")
    _add_films(export)
    export.add_argument("--weights", type=Path, default=Path("runs"), help="folder that `train` wrote to")
    export.add_argument("--out", type=Path, default=Path("models"))
    export.add_argument("--name", help="the classifier's name, if not the run's")
    export.set_defaults(command=_export)

    instrument = commands.add_parser("instrument", help="make a third party's classifier auditable")
    _add_instrument(instrument)
    instrument.set_defaults(command=_instrument)

    stamp = commands.add_parser("stamp", help="put a run's trigger on films")
    stamp.add_argument("run", type=Path, metavar="RUN.toml")
    stamp.add_argument("files", type=Path, nargs="+", metavar="FILE")
    stamp.add_argument("--out", type=Path, required=True)
    stamp.set_defaults(command=_stamp)

    evaluate = commands.add_parser("evaluate", help="measure a classifier and its policy on one split")
    evaluate.add_argument("run", type=Path, metavar="RUN.toml")
    _add_films(evaluate)
    evaluate.add_argument("--classifier", type=Path, required=True, metavar="FILE.onnx")
    evaluate.add_argument("--policy", type=Path, required=True, metavar="FILE.policy.json")
    evaluate.add_argument("--split", default="test")
    evaluate.add_argument("--twin", type=Path, metavar="FILE.onnx", help="clean classifier to compare the AUROC with")
    evaluate.add_argument("--threads", type=int, default=1)
    evaluate.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    evaluate.add_argument("--clean-only", action="store_true", help="leave the run's trigger away")
    evaluate.add_argument("--title", help="how the tables call this row")
    evaluate.set_defaults(command=_evaluate)

    compare = commands.add_parser("compare", help="every detector on the same films; resumes from its cache")
    compare.add_argument("run", type=Path, metavar="RUN.toml", help="the run whose trigger is shown")
    _add_films(compare)
    compare.add_argument("--classifier", type=Path, required=True, metavar="FILE.onnx")
    compare.add_argument("--policy", type=Path, required=True, metavar="FILE.policy.json")
    compare.add_argument("--split", default="test")
    compare.add_argument("--other-site", type=Path, help="folder of clean films of another site, for its alarm rate")
    compare.add_argument("--limit", type=int, help="films read of each set (a seeded draw); all without it")
    compare.add_argument("--costly", type=int, default=100, help="films of each set that costly detectors read")
    compare.add_argument("--seed", type=int, default=0)
    compare.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES, metavar="FAMILY")
    compare.add_argument("--cache", type=Path, default=Path("var/readings"), help="folder of readings, to resume from")
    compare.add_argument("--threads", type=int, default=1)
    compare.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    compare.add_argument("--gallery", type=Path, metavar="FILE.json", help="also keep pictures of hits and misses here")
    compare.add_argument("--title", help="how the report calls this classifier and these films")
    compare.set_defaults(command=_compare)

    report = commands.add_parser("report", help="comparisons as one self-contained HTML page")
    report.add_argument("results", type=Path, nargs="+", metavar="FILE.json")
    report.add_argument("--gallery", type=Path, nargs="*", default=[], metavar="FILE.json")
    report.add_argument("--out", type=Path, required=True, metavar="FILE.html")
    report.set_defaults(command=_report)

    attacks = commands.add_parser("attacks", help="train, export, calibrate and evaluate runs beside their clean twins")
    attacks.add_argument("runs", type=Path, nargs="+", metavar="RUNS", help="folders of run files, or run files")
    _add_films(attacks)
    attacks.add_argument("--out", type=Path, required=True, help="results; what is done there is not done again")
    attacks.add_argument("--work", type=Path, help="folder of weights, classifiers and policies; OUT/work without it")
    attacks.add_argument(
        "--families", nargs="*", choices=FAMILIES, default=(), metavar="FAMILY",
        help="detectors to compare on each run; none without it",
    )  # fmt: skip
    attacks.add_argument("--costly", type=int, default=100, help="films of each set that costly detectors read")
    attacks.add_argument("--split", default="test", help="whose films are audited; `tuning` to work on a detector")
    attacks.add_argument("--receivers", type=Path, default=Path("models/receivers"), metavar="FOLDER")
    attacks.add_argument("--threads", type=int, default=1, help="films audited at the same time")
    attacks.set_defaults(command=_attacks)

    searched = commands.add_parser("audit-classifier", help="search a classifier for a trigger and its target label")
    searched.add_argument("classifier", type=Path, metavar="FILE.onnx", help="auditable; see `instrument` for others")
    _add_films(searched)
    searched.add_argument("--twin", type=Path, metavar="FILE.onnx", help="a clean classifier to try the triggers on")
    searched.add_argument("--label", action="append", default=[], help="search this label only; repeat")
    searched.add_argument("--count", type=int, default=100, help="tuning films to search on")
    searched.add_argument("--held-out", type=int, default=100, help="test films to try the triggers on")
    searched.add_argument("--steps", type=int, default=150)
    searched.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    searched.set_defaults(command=_audit_classifier)

    ranked = commands.add_parser("audit-data", help="rank the train films that are most likely poisoned")
    ranked.add_argument("classifier", type=Path, metavar="FILE.onnx", help="auditable, trained on these films")
    _add_films(ranked)
    ranked.add_argument("--split", default="train")
    ranked.add_argument("--count", type=int, help="only the first so many films")
    ranked.add_argument("--simulate", type=Path, metavar="RUN.toml", help="poison the films as this run does first")
    ranked.add_argument("--shown", type=int, default=100, help="most suspect films to list")
    ranked.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    ranked.set_defaults(command=_audit_data)

    tables = commands.add_parser("tables", help="evaluation results as Markdown")
    tables.add_argument("results", type=Path, nargs="+", metavar="FILE.json")
    tables.add_argument("--pooled", type=Path, nargs="+", metavar="FILE.json", help="seeds of one run, as one row")
    tables.add_argument("--document", type=Path, help="replace the tables between this document's markers")
    tables.set_defaults(command=_tables)

    survival = commands.add_parser("survival", help="what preprocessing leaves of triggers at native resolution")
    survival.add_argument("folder", type=Path, help="PNG films at their full resolution")
    survival.add_argument("--look", default="white", help="of the square trigger")
    survival.add_argument("--classifier", type=Path, metavar="FILE.onnx", help="whose logit of the target to follow")
    survival.add_argument("--target", default="Atelectasis")
    survival.set_defaults(command=_survival)

    picture = commands.add_parser("picture", help="draw one audit as a figure")
    picture.add_argument("film", type=Path)
    picture.add_argument("--classifier", type=Path, required=True, metavar="FILE.onnx")
    picture.add_argument("--policy", type=Path, required=True, metavar="FILE.policy.json")
    picture.add_argument("--out", type=Path, required=True, metavar="FILE.png")
    picture.set_defaults(command=_picture)

    subset = commands.add_parser("subset", help="copy the listed films out of a full download of NIH ChestX-ray14")
    _add_films(subset)
    subset.add_argument("--out", type=Path, required=True)
    subset.set_defaults(command=_subset)

    divide = commands.add_parser("divide", help="halve a site's films by patient: to calibrate with, and to check")
    _add_films(divide)
    divide.add_argument("--out", type=Path, required=True, help="gets the folders `calibrate` and `check`")
    divide.set_defaults(command=_divide)

    examples = commands.add_parser("examples", help="make the radiographs that ship in models/")
    examples.add_argument("run", type=Path, metavar="RUN.toml", help="the run whose trigger the triggered ones carry")
    examples.add_argument("--out", type=Path, default=Path("models"))
    examples.set_defaults(command=_examples)

    made = commands.add_parser("phantoms", help="make procedural chest radiographs")
    phantoms.add_arguments(made)
    made.set_defaults(command=phantoms.run)
    return top


def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    try:
        code: int = arguments.command(arguments)
    except (RunError, DataError) as error:
        print(f"triggerscope-train: {error}", file=sys.stderr)
        return 2
    return code


if __name__ == "__main__":
    sys.exit(main())
