"""What the score says of one film under one pair, as a row of the recorded table."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from service.audit.calibration import Policy
from service.audit.classifier import Classifier
from service.audit.pipeline import examine
from service.audit.preprocessing import model_input, to_source
from service.films.radiograph import Limits, Radiograph, decode
from service.graphs.examiner import load_classifier
from tests.conftest import REPOSITORY
from tests.recorded import Row

TABLE = Path(__file__).with_name("scores.json")
PAIRS = ("phantom-clean", "phantom-badnet3", "nih-clean", "nih-badnet3")
Pair = tuple[Classifier, Policy]


def shipped(name: str) -> Pair:
    """A classifier and its policy, on the processor: a graphics card's arithmetic is coarser than the tolerance."""
    models = REPOSITORY / "models"
    classifier = load_classifier(models / f"{name}.onnx", providers=["CPUExecutionProvider"])
    return classifier, Policy.load(models / f"{name}.policy.json")


def row(pair: str, film: str, radiograph: Radiograph, classifier: Classifier, policy: Policy) -> Row:
    """rank: place of the score among the calibration scores, 1 for beyond them all. region: in the film's pixels.
    passes: with maps and without."""
    preprocessing = classifier.card.preprocessing
    found = examine(model_input(radiograph.pixels, preprocessing), classifier, policy)
    evidence, region = found.evidence, found.verdict.region
    source = to_source(region, preprocessing, radiograph.width, radiograph.height) if region else None
    return {
        "pair": pair,
        "film": film,
        "verdict": found.verdict.word,
        "reported": found.finding.hypothesis,
        "rank": round(policy.p_value(evidence.score) * (len(policy.scores) + 1)),
        "score": evidence.score,
        "likeness": found.distance,
        "region": [source.x, source.y, source.width, source.height] if source else None,
        "passes": [evidence.explain_passes, evidence.forward_passes],
        "findings": {
            finding.hypothesis: {
                "label": classifier.card.labels[finding.label],
                "score": finding.score,
                "window": [finding.region.x, finding.region.y],
                **finding.values,
            }
            for finding in evidence.findings
        },
    }


def rows(pair: str, radiographs: Mapping[str, Radiograph], threads: int = 2) -> list[Row]:
    """Every film under one pair, in the films' order."""
    classifier, policy = shipped(pair)
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda item: row(pair, *item, classifier, policy), radiographs.items()))


def decoded(films: Mapping[str, bytes]) -> dict[str, Radiograph]:
    return {name: decode(data, Limits()) for name, data in films.items()}
