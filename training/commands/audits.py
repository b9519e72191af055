"""`triggerscope-train audit-classifier` and `audit-data`."""

import argparse
from pathlib import Path

from training.attack.config import read_run
from training.attack.data import in_split
from training.commands.films import Commands, add_films, read_listed


def add(commands: "Commands[argparse.ArgumentParser]") -> None:
    searched = commands.add_parser("audit-classifier", help="search a classifier for a trigger and its target label")
    searched.add_argument("classifier", type=Path, metavar="FILE.onnx", help="see `instrument` for others'")
    add_films(searched)
    searched.add_argument("--twin", type=Path, metavar="FILE.onnx", help="a clean classifier to try the triggers on")
    searched.add_argument("--label", action="append", default=[], help="search this label only; repeat")
    searched.add_argument("--count", type=int, default=100, help="tuning films to search on")
    searched.add_argument("--held-out", type=int, default=100, help="test films to try the triggers on")
    searched.add_argument("--steps", type=int, default=150)
    searched.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    searched.set_defaults(command=_audit_classifier)

    ranked = commands.add_parser("audit-data", help="rank the train films that are most likely poisoned")
    ranked.add_argument("classifier", type=Path, metavar="FILE.onnx", help="self-described, trained on these films")
    add_films(ranked)
    ranked.add_argument("--split", default="train")
    ranked.add_argument("--count", type=int, help="only the first so many films")
    ranked.add_argument("--simulate", type=Path, metavar="RUN.toml", help="poison the films as this run does first")
    ranked.add_argument("--shown", type=int, default=100, help="most suspect films to list")
    ranked.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    ranked.set_defaults(command=_audit_data)


def _audit_classifier(arguments: argparse.Namespace) -> int:
    from service.graphs.examiner import load_classifier
    from training.attack.data import model_inputs
    from training.measure.inversion import audit_classifier
    from training.measure.results import write_json
    from training.networks.onnx_network import network_of

    card = load_classifier(arguments.classifier).card
    films = read_listed(arguments.films, arguments.subset)
    searched, held_out = (
        model_inputs(in_split(films, split)[:count], card.preprocessing)
        for split, count in (("tuning", arguments.count), ("test", arguments.held_out))
    )
    twin = network_of(arguments.twin.read_bytes()) if arguments.twin else None
    found = audit_classifier(
        network_of(arguments.classifier.read_bytes()), card.labels, searched, held_out, twin,
        steps=arguments.steps, chosen=arguments.label, progress=print,
    )  # fmt: skip
    write_json(arguments.out, {"classifier": {"name": card.name, "sha256": card.sha256}} | found)
    for row in found["labels"]:
        word = "suspicious" if row["suspicious"] else ""
        print(f"{row['label']:20} anomaly {row['anomaly']:6.1f}  {row['area_px']:8.1f} px  {word}")
    return 0


def _audit_data(arguments: argparse.Namespace) -> int:
    from service.graphs.examiner import load_classifier
    from training.attack.data import model_inputs
    from training.measure.inversion import features_of
    from training.measure.poison_ranking import METHODS, poisoned_set, rank_films
    from training.measure.results import write_json
    from training.networks.onnx_network import network_of

    card = load_classifier(arguments.classifier).card
    films = in_split(read_listed(arguments.films, arguments.subset), arguments.split)[: arguments.count]
    if arguments.simulate:
        inputs, _, poisoned = poisoned_set(films, read_run(arguments.simulate), card.preprocessing)
    else:
        inputs, poisoned = model_inputs(films, card.preprocessing), None
    network = network_of(arguments.classifier.read_bytes())
    table = rank_films(features_of(network, inputs), films, poisoned, arguments.shown)
    write_json(arguments.out, {"classifier": {"name": card.name, "sha256": card.sha256}} | table)
    for method in METHODS:
        precision = table[method]["precision_at_true_count"]
        first = ", ".join(row["film"] for row in table[method]["most_suspect"][:5])
        print(f"{method:12} {'' if precision is None else f'precision {precision:.3f}  '}most suspect: {first}")
    return 0
