"""Used once, to give the results of before their version of the score; it checks them and passes over what it cannot.

python -m training.measure.stamp_results results --commit COMMIT --films FOLDER... [--policies FOLDER]

A result that carries the hash of service/audit gets a version where it is the hash of that folder at the commit, where
the folder's code is still the same but for its imports, and where the run file and the films' table are those that it
names; a comparison, where besides the detectors' code is still that of the commit that wrote it. Any other result is
audited again: its first films must get the same verdicts, ranks and scores.
"""

import argparse
import ast
import hashlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from service.audit.calibration import Policy
from service.audit.classifier import Classifier
from service.audit.pipeline import SCORES_VERSION
from training.attack.config import Run, read_run
from training.attack.data import Film, in_split, label_matrix, manifest_sha256, model_inputs, read_films
from training.attack.poisoning import attackable
from training.attack.train import triggered_inputs
from training.measure.detectors import versions_of
from training.measure.evaluate import Audited, all_logits, audit_all
from training.measure.results import read_result, write_json, write_result

RUNS, MODELS = Path("training/runs"), Path("models")
CODE, HASH = "service/audit", "audit_code_sha256"
DETECTORS = {"training/detectors": "training/measure/detectors"}  # then, and now
SAMPLE = 25  # films that are audited again, clean and triggered
RELATIVE, RANKS = 1e-3, 5e-3  # of a score, of its p-value
OTHERS = ("data-audit", "classifier-audit", "bench.json")  # no score made them

Table = dict[str, Any]


class RefusedError(Exception):
    """Why a result gets no version."""


def git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], check=True, capture_output=True).stdout  # noqa: S603, S607  # our own


def sources(commit: str, folder: str) -> dict[str, bytes]:
    names = git("ls-tree", "--name-only", commit, f"{folder}/").decode().split()
    return {Path(name).name: git("show", f"{commit}:{name}") for name in sorted(names) if name.endswith(".py")}


def without_imports(source: bytes) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module):
            node.body = [item for item in node.body if not isinstance(item, ast.Import | ast.ImportFrom)]
            node.body = [item for item in node.body if not _is_text(item)]
    return ast.dump(tree)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def changed(then: dict[str, bytes], folder: str) -> list[str]:
    """Modules of both trees whose code differs in more than imports and the module's docstring."""
    now = {path.name: path.read_bytes() for path in Path(folder).glob("*.py")}
    return [name for name in then if name in now and without_imports(then[name]) != without_imports(now[name])]


def check_recorded(path: Path, table: Table, expected: str, runs: dict[str, Run], manifests: set[str]) -> None:
    """Raises RefusedError unless all that the result names is what it names."""
    if table[HASH] != expected:
        raise RefusedError("another version of the score made it")
    run = runs.get(path.name.split(".")[0])
    if run is None or run.sha256 != table["run_sha256"]:
        raise RefusedError("its run file is not there or was changed since")
    if table["manifest_sha256"] not in manifests:
        raise RefusedError("its films are not at hand")
    if path.name.endswith(".comparison.json"):
        commit = git("log", "-1", "--format=%H", "--", str(path)).decode().strip()
        for then, now in DETECTORS.items():
            kept = {name: text for name, text in sources(commit, then).items() if name in READERS}
            if not kept or changed(kept, now):
                raise RefusedError(f"detectors changed since: {changed(kept, now)}")


READERS = ("audit_tests.py", "fusion.py", "maps.py", "nulls.py", "perturbed.py", "reading.py", "search.py")


def check_again(table: Table, runs: dict[str, Run], folders: Sequence[list[Film]], policies: list[Policy]) -> str:
    """Audit the first films again. Raises RefusedError where that cannot be done, or where something else is found."""
    classifier = _of(table["classifier"]["sha256"], [*MODELS.glob("*.onnx")])
    policy, anew = _policy(table, policies)
    run = runs[table["run"]]
    films = next((found for f in folders if len(found := in_split(f, table["split"])) == table["victim"]["films"]), [])
    if not films:
        raise RefusedError("its films are not at hand")
    inputs = model_inputs(films, classifier.card.preprocessing)
    count = _check_rows(audit_all(inputs[:SAMPLE], classifier, policy, "clean"), table["clean"]["films"])
    if "triggered" in table and run.poisoning:
        labels, target = label_matrix(films, classifier.card.labels), run.poisoning.target
        chosen = attackable(labels, classifier.card.labels.index(target), run.poisoning, all_logits(inputs, classifier))
        attacked = [films[int(i)] for i in np.flatnonzero(chosen)][:SAMPLE]
        stamped = triggered_inputs(attacked, run, classifier.card.preprocessing)
        count += _check_rows(audit_all(stamped, classifier, policy, "triggered"), table["triggered"]["films"])
    return f"{count} films audited again{anew}"


def _of(sha256: str, paths: list[Path]) -> Classifier:
    for path in paths:
        if hashlib.sha256(path.read_bytes()).hexdigest() == sha256:
            return Classifier.load(path, providers=["CPUExecutionProvider"])
    raise RefusedError("its classifier is not at hand")


def _policy(table: Table, policies: list[Policy]) -> tuple[Policy, str]:
    for policy in policies:
        if policy.sha256 == table["policy"]["sha256"]:
            return policy, ""
    for policy in policies:
        if policy.name == table["policy"]["name"] and policy.classifier_sha256 == table["classifier"]["sha256"]:
            return policy, ", under its policy made anew"
    raise RefusedError("its policy is not at hand")


def _check_rows(found: Sequence[Audited], recorded: Sequence[Table]) -> int:
    for number, (one, row) in enumerate(zip(found, recorded, strict=False)):
        near = abs(one.score - row["score"]) <= max(RELATIVE * abs(row["score"]), RELATIVE)
        if one.verdict != row["verdict"] or not near or abs(one.p_value - row["p_value"]) > RANKS:
            raise RefusedError(f"film {number} gets {one.verdict} {one.score:.4f}, not {row['verdict']} {row['score']}")
    return len(found)


def stamped(table: Table) -> Table:
    """The result with its versions in place of the hash."""
    made = {key: value for key, value in table.items() if key not in (HASH, "families")} | {
        "scores_version": SCORES_VERSION
    }
    return made | {"detectors_version": versions_of(table["families"])} if "families" in table else made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--commit", required=True, help="whose service/audit made today's results")
    parser.add_argument("--films", type=Path, nargs="+", required=True)
    parser.add_argument("--policies", type=Path, default=MODELS)
    given = parser.parse_args()
    then = sources(given.commit, CODE)
    readers = {name: text for name, text in then.items() if name != "decoder_process.py"}  # it names a moved module
    if differing := [*changed(then, CODE), *changed(readers, "service/films")]:
        raise SystemExit(f"the score's code changed since {given.commit}: {differing}")
    expected = hashlib.sha256(b"".join(then.values())).hexdigest()
    runs = {run.name: run for run in map(read_run, (p for p in RUNS.rglob("*.toml") if p.parent.name != "bases"))}
    folders = [read_films(folder) for folder in given.films]
    policies = [Policy.load(path) for f in (MODELS, given.policies) for path in sorted(f.glob("*.policy.json"))]
    manifests = {manifest_sha256(films) for films in folders}
    counts = {"stamped": 0, "refused": 0, "other": 0}
    for path in sorted(given.results.rglob("*.json")):
        counts[_do(path, expected, runs, folders, policies, manifests)] += 1
    sys.stdout.write(f"{counts}\n")
    return 0


def _do(path: Path, expected: str, runs: Any, folders: Any, policies: Any, manifests: Any) -> str:
    table = read_result(path)
    if any(part in OTHERS for part in path.parts):
        write_json(path, table)
        return "other"
    if "scores_version" in table:
        return "other"  # done before
    try:
        if HASH in table:
            check_recorded(path, table, expected, runs, manifests)
            words = "made by this code"
        else:
            words = check_again(table, runs, folders, policies)
    except RefusedError as error:
        write_result(path, table)
        sys.stdout.write(f"REFUSED {path}: {error}\n")
        return "refused"
    write_result(path, stamped(table))
    sys.stdout.write(f"stamped {path}: {words}\n")
    return "stamped"


if __name__ == "__main__":
    sys.exit(main())
