"""The service's own tests, one by one and together, through the code that is deployed."""

from dataclasses import replace

from service.audit.classifier import Classifier
from service.audit.evidence import Evidence, gather
from service.audit.pipeline import examine
from service.audit.preprocessing import Region
from service.audit.verdict import reported
from training.measure.detectors.reading import Context, Reading, Seen, middle

# Forwards of each test beside the pass that explains; None stands for one a receiver.
COSTS: dict[str, int | None] = {
    "concentration": 0,
    "diffuseness": 0,
    "isolation": 0,
    "fill_in_change": 1,
    "filter_change": 1,
    "pattern_change": 1,
    "transplant_change": None,
}


def shipped(seen: Seen, classifier: Classifier, context: Context) -> dict[str, Reading]:
    """The service's score as it runs, cascade included; the region is tightened where the film alarms."""
    found = examine(seen.film, classifier, context.policy)
    return {"shipped": _whole(found.evidence, found.verdict.region or found.finding.region, classifier)}


def each_test(seen: Seen, classifier: Classifier, context: Context) -> dict[str, Reading]:
    """Every test on every film, for the supported and for the held-down label, and the service's sum of them all."""
    evidence = gather(seen.film, classifier, context.policy.reference, exhaustive=True)
    readings = {"every_test": _whole(evidence, reported(evidence, context.policy).region, classifier)}
    for finding in evidence.findings:
        prefix = "" if finding.hypothesis == "support" else "counter_"
        point, cell_px = middle(finding.region), seen.film.shape[-1] / classifier.card.grids[0]
        for name, cost in COSTS.items():
            forwards = len(context.policy.reference.receivers) if cost is None else cost
            value = finding.values[name]
            readings[prefix + name] = Reading((value,), 1, forwards)
        named = f"{prefix}fill_in_change"  # the test of a place
        readings[named] = replace(readings[named], region=finding.region, point=point, reach_px=cell_px)
    return readings


def _whole(evidence: Evidence, region: Region, classifier: Classifier) -> Reading:
    """The middle of the region: the service names a region, not a cell; a cell of its map is the tolerance."""
    cell_px = classifier.card.preprocessing.size / classifier.card.grids[0]
    return Reading((evidence.score,), evidence.explain_passes, evidence.forward_passes, region, middle(region), cell_px)
