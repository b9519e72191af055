"""`make bench`: what auditing costs, as ratios to a peer measured side by side in the same run.

Every row interleaves both sides and takes the median of paired ratios of CPU time (wall time where two processes
share the work), so that a busy machine slows both alike.
"""

import argparse
import io
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from PIL import Image
from pytorch_grad_cam import GradCAM, LayerCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from service.audit.pipeline import audit
from service.audit.preprocessing import Preprocessing
from service.films.radiograph import Limits
from service.graphs.examiner import Examiner, opened
from service.offline.models import find_models
from training.attack.config import NIH_LABELS
from training.networks.densenet import build
from training.networks.export import export

SIZE = 224


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison. ratio: median of paired ratios of ours to the peer's."""

    what: str
    ours_ms: float
    peer: str
    peer_ms: float
    ratio: float
    bound: float | None


def compare(
    what: str,
    ours: Callable[[], object],
    peer_name: str,
    peer: Callable[[], object],
    *,
    rounds: int,
    clock: Callable[[], float] = time.process_time,
    bound: float | None = None,
) -> Row:
    """Time both sides alternately."""

    def seconds(work: Callable[[], object]) -> float:
        started = clock()
        work()
        return clock() - started

    for work in (ours, peer):
        work()
    pairs = np.array([(seconds(ours), seconds(peer)) for _ in range(rounds)])
    mine, theirs = 1000 * np.median(pairs, axis=0)
    return Row(what, float(mine), peer_name, float(theirs), float(np.median(pairs[:, 0] / pairs[:, 1])), bound)


def session(path: Path) -> onnxruntime.InferenceSession:
    """With the service's settings."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def last_layer_maps_only(derived: bytes, path: Path) -> Path:
    """The derived graph cut down to the logits and the class activation maps."""
    model = onnx.load_model_from_string(derived)
    graph, wanted, kept = model.graph, {"logits", "class_activation_maps"}, []
    for node in reversed(graph.node):
        if set(node.output) & wanted:
            kept.append(node)
            wanted.update(node.input)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    for values in (graph.output, graph.input, graph.initializer):
        chosen = [value for value in values if value.name in wanted]
        del values[:]
        values.extend(chosen)
    onnx.save(model, path)
    return path


def graph_rows(folder: Path, rounds: int) -> Iterator[Row]:
    """DenseNet-121 at 224 px: the explaining graph beside the bare forward, one thread."""
    network = build("densenet121", len(NIH_LABELS), 0).eval()
    film = np.random.default_rng(0).random((1, 1, SIZE, SIZE), dtype=np.float32)
    bare_path, ours_path = folder / "bare.onnx", folder / "ours.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (torch.from_numpy(film),), bare_path, input_names=["radiograph"], output_names=["logits"],
            dynamo=True, verbose=False,
        )  # fmt: skip
    provenance = {"run": "bench"}
    export(
        network, ours_path, name="bench", labels=NIH_LABELS, preprocessing=Preprocessing(), licence="Apache-2.0",
        provenance=provenance,
    )  # fmt: skip
    derived = Examiner().derive(ours_path.read_bytes())
    bare, maps = session(bare_path), session(last_layer_maps_only(derived.data, folder / "maps.onnx"))
    ours = opened(derived, providers=["CPUExecutionProvider"])
    centre, scale = np.zeros(14, dtype=np.float32), np.ones(14, dtype=np.float32)

    def forward() -> object:
        return bare.run(None, {"radiograph": film})

    def explain() -> object:
        return ours.explain(film, centre, scale)

    forward_name = "bare forward, ONNX Runtime"
    yield compare("prediction", lambda: ours.logits(film), forward_name, forward, rounds=rounds)
    yield compare(
        "prediction and all last-layer maps", lambda: maps.run(None, {"radiograph": film}), forward_name, forward,
        rounds=rounds, bound=1.03,
    )  # fmt: skip
    yield compare(
        "prediction, all last-layer maps, LayerCAM and Grad-CAM at 28 and 14 of one label", explain, forward_name,
        forward, rounds=rounds, bound=1.6,
    )  # fmt: skip
    yield from grad_cam_rows(network, film, explain, rounds)


def grad_cam_rows(
    network: torch.nn.Module, film: np.ndarray, explain: Callable[[], object], rounds: int
) -> Iterator[Row]:
    """Beside pytorch-grad-cam on the same layer, one thread."""
    torch.set_num_threads(1)
    layer = network.network.features.denseblock2  # type: ignore[union-attr]  # torchvision's attribute
    picture = torch.from_numpy(film)
    for method in (LayerCAM, GradCAM):
        with method(model=network, target_layers=[layer]) as cam:

            def peer(cam: LayerCAM = cam) -> object:
                return cam(input_tensor=picture, targets=[ClassifierOutputTarget(0)])

            name = f"pytorch-grad-cam {method.__name__}, same layer"
            yield compare("all of the above", explain, name, peer, rounds=max(3, rounds // 3))


@contextmanager
def serving(models: Path, data: Path, port: int) -> Iterator[tuple[str, float, int]]:
    """A service; yields its address, its start-up time in seconds and its process id."""
    environment = os.environ | {
        "TRIGGERSCOPE_DATA_DIR": str(data),
        "TRIGGERSCOPE_MODELS_DIR": str(models),
        "TRIGGERSCOPE_ALLOW_ANONYMOUS": "true",
        "TRIGGERSCOPE_LOG_LEVEL": "error",
        "TRIGGERSCOPE_PORT": str(port),
    }
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "service", "serve"], env=environment)
    address = f"http://127.0.0.1:{port}"
    try:
        while True:
            try:
                urllib.request.urlopen(f"{address}/readyz", timeout=2).close()  # noqa: S310 -- loopback
                break
            except (urllib.error.URLError, ConnectionError):
                if process.poll() is not None or time.monotonic() - started > 60:
                    raise SystemExit("the service did not start") from None
                time.sleep(0.05)
        yield address, time.monotonic() - started, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def resident_mb(process_id: int) -> float:
    """Peak resident memory of a process on Linux."""
    lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def varied_png(seed: int) -> bytes:
    """A new 1024 px film each time, so that nothing is answered from the record."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (32, 32), dtype=np.uint8)).resize((1024, 1024))
    buffer = io.BytesIO()
    coarse.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def service_rows(models: Path, name: str, rounds: int, port: int) -> tuple[list[Row], dict[str, float]]:
    """The service over HTTP beside the same work in a plain loop, wall time, one film at a time."""
    found = find_models(models, name, None)
    seeds = iter(range(1_000_000))

    def loop() -> object:
        return audit(varied_png(next(seeds)), found.classifier, found.policy, Limits())

    with tempfile.TemporaryDirectory() as data, serving(models, Path(data), port) as (address, seconds, process_id):

        def over_http() -> object:
            request = urllib.request.Request(  # noqa: S310 -- loopback
                f"{address}/v1/audits?classifier={name}&wait=30",
                data=varied_png(next(seeds)),
                headers={"Content-Type": "image/png"},
            )
            with urllib.request.urlopen(request) as answer:  # noqa: S310 -- loopback
                return json.load(answer)

        row = compare(
            f"audit of a 1024 px PNG by {name} over HTTP, recorded", over_http, "the same audit in a plain loop", loop,
            rounds=rounds, clock=time.perf_counter,
        )  # fmt: skip
        facts = {"service_start_seconds": seconds, "service_peak_resident_mb": resident_mb(process_id)}
    return [row], facts


def printed(rows: list[Row], facts: dict[str, float]) -> str:
    lines = [f"{'ours':<84} {'ms':>7}  {'peer':<44} {'ms':>7} {'ratio':>6} {'bound':>6}"]
    for row in rows:
        bound = f"{row.bound:.2f}" if row.bound else ""
        lines.append(
            f"{row.what:<84} {row.ours_ms:7.1f}  {row.peer:<44} {row.peer_ms:7.1f} {row.ratio:6.3f} {bound:>6}"
        )
    return "\n".join([*lines, *(f"{name:<84} {value:7.1f}" for name, value in facts.items())])


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--port", type=int, default=8011)
    parser.add_argument("--out", type=Path, default=Path("var/bench.json"))
    arguments = parser.parse_args()
    name = "nih-badnet3" if (arguments.models / "nih-badnet3.onnx").exists() else "phantom-badnet3"
    with tempfile.TemporaryDirectory() as folder:
        rows = list(graph_rows(Path(folder), arguments.rounds))
    more, facts = service_rows(arguments.models, name, arguments.rounds, arguments.port)
    facts["bench_peak_resident_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rows += more
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({"rows": [asdict(row) for row in rows], **facts}, indent=1) + "\n")
    sys.stdout.write(printed(rows, facts) + f"\n{arguments.out}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
