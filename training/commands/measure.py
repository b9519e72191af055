"""`triggerscope-train evaluate`, `compare`, `survival`, `resampling`, `poisoned-calibration` and `parity`."""

import argparse
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from training.attack.config import RunError, read_run
from training.attack.data import DataError, in_split, read_films
from training.commands.attacks import FAMILIES
from training.commands.films import Commands, add_films, read_listed


def add(commands: "Commands[argparse.ArgumentParser]") -> None:
    evaluate = commands.add_parser("evaluate", help="measure a classifier and its policy on one split")
    evaluate.add_argument("run", type=Path, metavar="RUN.toml")
    add_films(evaluate)
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
    add_films(compare)
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

    survival = commands.add_parser("survival", help="what preprocessing leaves of triggers at native resolution")
    survival.add_argument("folder", type=Path, help="PNG films at their full resolution")
    survival.add_argument("--look", default="white", help="of the square trigger")
    survival.add_argument("--classifier", type=Path, metavar="FILE.onnx", help="whose logit of the target to follow")
    survival.add_argument("--target", default="Atelectasis")
    survival.set_defaults(command=_survival)

    resampling = commands.add_parser(
        "resampling", help="films made for another resampler, and clean ones: what is told"
    )
    resampling.add_argument(
        "classifiers", type=Path, nargs="+", metavar="FILE.onnx", help="with FILE.policy.json beside it"
    )
    resampling.add_argument("--attacked", type=int, default=0, help="phantoms to attack, at each side")
    resampling.add_argument("--sides", type=int, nargs="+", default=[2240], help="of the attacked phantoms, in pixels")
    resampling.add_argument("--clean", type=int, default=0, help="clean phantoms of 1,024 px")
    resampling.add_argument("--folder", type=Path, help="clean PNG films at their full resolution")
    resampling.add_argument("--first-seed", type=int, default=960_000, help="of the attacked; the clean ones follow")
    resampling.add_argument("--target", default="Atelectasis")
    resampling.set_defaults(command=_resampling)

    poisoned = commands.add_parser("poisoned-calibration", help="calibrate on phantoms of which some carry the trigger")
    poisoned.add_argument("run", type=Path, metavar="RUN.toml", help="the run whose trigger they carry")
    poisoned.add_argument("--classifier", type=Path, required=True, metavar="FILE.onnx")
    poisoned.add_argument(
        "--policy", type=Path, required=True, metavar="FILE.policy.json", help="whose receivers serve"
    )
    poisoned.add_argument("--draws", type=int, default=5, help="calibrations at each rate")
    poisoned.add_argument("--clean-draws", type=int, default=50)
    poisoned.add_argument("--pool", type=int, default=700, help="phantoms that draws and test films are from")
    poisoned.add_argument("--first-phantom", type=int, default=40000, help="seed of the first phantom")
    poisoned.add_argument("--seed", type=int, default=0, help="of the draws")
    poisoned.add_argument("--threads", type=int, default=1)
    poisoned.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    poisoned.set_defaults(command=_poisoned_calibration)

    parity = commands.add_parser("parity", help="derived maps beside autograd's, for torchvision's networks")
    parity.add_argument("folder", type=Path, help="films to measure on")
    parity.add_argument("--count", type=int, default=20)
    parity.add_argument("--settling", type=int, default=24, help="further films, whose statistics batch norms get")
    parity.add_argument("--architecture", action="append", help="of torchvision; repeat; all three without it")
    parity.set_defaults(command=_parity)


def _evaluate(arguments: argparse.Namespace) -> int:
    from service.audit.calibration import Policy
    from service.audit.pipeline import SCORES_VERSION
    from service.graphs.examiner import load_classifier
    from training.measure.evaluate import evaluate
    from training.measure.results import write_result

    run, films = read_run(arguments.run), read_listed(arguments.films, arguments.subset)
    classifier, policy = load_classifier(arguments.classifier), Policy.load(arguments.policy)
    chosen = in_split(films, arguments.split)
    if arguments.clean_only:
        run = replace(run, trigger=None, poisoning=None)
    title = arguments.title or f"{classifier.card.name}, {run.dataset} {arguments.split}"
    facts = {"title": title, "split": arguments.split, "date": datetime.now(UTC).date().isoformat()}
    facts |= {"scores_version": SCORES_VERSION}
    twin = load_classifier(arguments.twin) if arguments.twin else None
    write_result(arguments.out, facts | evaluate(run, chosen, classifier, policy, arguments.threads, twin))
    print(arguments.out)
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from service.audit.calibration import Policy
    from service.graphs.examiner import load_classifier
    from training.measure.compare import Sampling, compare
    from training.measure.results import write_json, write_result
    from training.show.gallery import gallery

    run, films = read_run(arguments.run), read_listed(arguments.films, arguments.subset)
    classifier, policy = load_classifier(arguments.classifier), Policy.load(arguments.policy)
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
    write_result(arguments.out, {"title": title, "date": datetime.now(UTC).date().isoformat(), **result})
    print(arguments.out)
    if arguments.gallery:
        write_json(arguments.gallery, gallery(sets, arguments.split, attacked, classifier, policy))
        print(f"{arguments.gallery}: holds films; mind whose they are")
    return 0


def _survival(arguments: argparse.Namespace) -> int:
    from service.graphs.examiner import load_classifier
    from training.attack.triggers import Trigger
    from training.measure.survival import read_folder, survival
    from training.show.survival import survival_table

    films = read_folder(arguments.folder)
    if not films:
        raise DataError(f"{arguments.folder} holds no PNG")
    classifier = load_classifier(arguments.classifier) if arguments.classifier else None
    rows = list(survival(films, Trigger(arguments.look), classifier, arguments.target))
    print(survival_table(rows, films[0].shape[1]))
    return 0


def _resampling(arguments: argparse.Namespace) -> int:
    from service.audit.calibration import Policy
    from service.graphs.examiner import load_classifier
    from training.measure.resampling import CLEAN_SIDE_PX, attacked, clean, phantom
    from training.measure.survival import read_folder
    from training.show.resampling import attacked_table, clean_table

    pairs = [(load_classifier(path), Policy.load(path.with_suffix(".policy.json"))) for path in arguments.classifiers]
    if arguments.attacked:
        seeds = range(arguments.first_seed, arguments.first_seed + arguments.attacked)
        rows = []
        for side in arguments.sides:
            films = [phantom(seed, side) for seed in seeds]
            rows += [row for pair in pairs for row in attacked(films, pair, arguments.target)]
        print(attacked_table(rows), flush=True)
    found = []
    if arguments.clean:
        first = arguments.first_seed + arguments.attacked
        drawn = (phantom(seed, CLEAN_SIDE_PX) for seed in range(first, first + arguments.clean))
        found += [(f"phantoms, {CLEAN_SIDE_PX} px", row) for row in clean(drawn, pairs)]
    if arguments.folder:
        found += [("films of the folder", row) for row in clean(read_folder(arguments.folder), pairs)]
    if found:
        print(clean_table(found))
    return 0


def _poisoned_calibration(arguments: argparse.Namespace) -> int:
    from service.audit.calibration import Policy
    from service.audit.pipeline import SCORES_VERSION
    from training.measure.poisoned_calibration import Films, Plan, Remembering, poisoned_calibration
    from training.measure.results import write_result
    from training.show.poisoned_calibration import poisoned_calibration_table

    run, classifier = read_run(arguments.run), Remembering.load(arguments.classifier)
    if run.trigger is None:
        raise RunError(f"run {run.name} has no trigger")
    pool = Films.made(arguments.first_phantom, arguments.pool, classifier, run.trigger, run.seed)
    result = poisoned_calibration(
        classifier,
        pool,
        Policy.load(arguments.policy).reference.receivers,
        Plan(draws=arguments.draws, clean_draws=arguments.clean_draws, seed=arguments.seed),
        arguments.threads,
        lambda draw: print(f"{100 * draw.rate:g} % seed {draw.seed}: {draw}", flush=True),
    )
    facts = {
        "title": f"{classifier.card.name}, phantoms",
        "scores_version": SCORES_VERSION,
        "first_phantom": arguments.first_phantom,
    }
    write_result(arguments.out, facts | result)
    print(poisoned_calibration_table(result))
    print(arguments.out)
    return 0


def _parity(arguments: argparse.Namespace) -> int:
    from service.audit.preprocessing import Preprocessing
    from training.attack.data import model_inputs
    from training.measure.parity import ARCHITECTURES, parity

    chosen = in_split(read_films(arguments.folder), "tuning")[: arguments.count + arguments.settling]
    inputs = model_inputs(chosen, Preprocessing())
    films, settling = inputs[: arguments.count], inputs[arguments.count :]
    for architecture in arguments.architecture or ARCHITECTURES:
        for row in parity(architecture, films, settling):
            print(row, flush=True)
    return 0
