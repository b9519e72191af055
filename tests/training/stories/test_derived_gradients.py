"""Small random networks, exported, read and derived: logits, maps and class activation maps are autograd's."""

import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from service.arrays import FloatArray
from service.audit.classifier import Classifier, Saliency
from service.audit.concentration import isolation
from service.audit.preprocessing import Preprocessing
from service.graphs.derivation import derive
from service.graphs.description import Description, Head
from service.graphs.network import Network, Refused
from service.graphs.places import Explained, explained, places_of
from service.graphs.reading import load_model, read_network
from training.networks.export import Tapped, autograd_maps
from training.networks.onnx_network import OnnxNetwork, log_odds

SIZE, CHANNELS, LABELS = 72, 8, 4
FILMS = np.random.default_rng(0).random((2, 1, SIZE, SIZE), dtype=np.float32)
BLOCKS = ("fine", "coarse")


class Small(nn.Module):
    """(N, 1, 72, 72) -> logits (N, 4). `fine` has 9 x 9 cells; `middle` and `late` are what is tried."""

    def __init__(self, middle: nn.Module, late: nn.Module, ending: nn.Module) -> None:
        super().__init__()
        self.fine = nn.Sequential(
            nn.Conv2d(1, CHANNELS, 3, stride=4, padding=1),
            nn.ReLU(),
            nn.Conv2d(CHANNELS, CHANNELS, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.middle, self.late, self.ending = middle, late, ending
        self.coarse = nn.Sequential(
            nn.Conv2d(CHANNELS, CHANNELS, 3, stride=2, padding=1, groups=2), nn.BatchNorm2d(CHANNELS), nn.ReLU()
        )

    def forward(self, radiograph: Tensor) -> Tensor:
        logits: Tensor = self.ending(self.late(self.coarse(self.middle(self.fine(radiograph)))))
        return logits


class Beside(nn.Module):
    """A branch beside its own input, summed or joined."""

    def __init__(self, branch: nn.Module, *, joined: bool) -> None:
        super().__init__()
        self.branch, self.joined = branch, joined

    def forward(self, maps: Tensor) -> Tensor:
        branched = self.branch(maps)
        return torch.cat([maps, branched], 1) if self.joined else maps + branched


class Affine(nn.Module):
    """A factor and a summand for each channel, as arithmetic."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.randn(CHANNELS, 1, 1))

    def forward(self, maps: Tensor) -> Tensor:
        return (maps * self.factor - 0.1) / 1.7 + self.factor


class LogOdds(nn.Module):
    """Of a network whose labels exclude each other."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, radiograph: Tensor) -> Tensor:
        return log_odds(self.network(radiograph))


def convolution(kernel: int | tuple[int, int] = 3, channels: int = CHANNELS, **settings: int) -> nn.Module:
    sides = (kernel, kernel) if isinstance(kernel, int) else kernel
    dilation = settings.get("dilation", 1)
    padding = tuple(dilation * (side - 1) // 2 for side in sides)
    return nn.Conv2d(channels, CHANNELS, sides, padding=padding, **settings)


def dense(size: int = CHANNELS) -> nn.Module:
    """A mean and one linear layer."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(size, LABELS))


def randomised(network: nn.Module) -> nn.Module:
    """Batch norms with statistics and weights of both signs, in evaluation mode."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return network.eval()


def exported(network: nn.Module) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (torch.from_numpy(FILMS),), buffer, dynamo=False, opset_version=17,
            input_names=["x"], dynamic_axes={"x": {0: "N"}},
        )  # fmt: skip
    return buffer.getvalue()


@dataclass(frozen=True, slots=True)
class Made:
    """A network that was exported and read. taps: sides of the explained tensors."""

    network: Network
    classifier: Classifier


def made(network: nn.Module, blocks: Sequence[str], *, count: int = 1, head: Head = "sigmoid") -> Made:
    """Derived with the outputs of `blocks` as the explained tensors, whatever the service would have chosen."""
    labels = tuple(f"label {number}" for number in range(LABELS))
    description = Description("small", labels, Preprocessing(size=SIZE), head=head, explained_count=count)
    read = read_network(load_model(exported(network)), description)
    with torch.no_grad():
        _, *outputs = Tapped(network, blocks)(torch.from_numpy(FILMS[:1]))
    taps = [first_of_shape(read, tuple(output.shape[1:])) for output in outputs]
    return Made(read, Classifier.from_derived(derive(read, taps, description), ""))


def first_of_shape(network: Network, shape: tuple[int, ...]) -> Explained:
    """The first activation that makes maps of a shape."""
    operation = next(item for item in network.operations if item.kind == "Relu" and item.shape == shape)
    places = places_of(network)[operation.output]
    assert not isinstance(places, Refused)
    return Explained(operation, shape[1], places)


def explanations(classifier: Classifier) -> tuple[FloatArray, list[Saliency]]:
    films = classifier.explain(FILMS, np.zeros(LABELS, np.float32), np.ones(LABELS, np.float32))
    return np.stack([prediction.logits for prediction, _ in films]), [saliency for _, saliency in films]


def assert_autograds(classifier: Classifier, network: nn.Module, blocks: Sequence[str]) -> None:
    got, films = explanations(classifier)
    labels = torch.from_numpy(np.stack([saliency.explained_labels for saliency in films]))
    want, maps = autograd_maps(network, blocks, torch.from_numpy(FILMS), labels)
    np.testing.assert_allclose(got, want.numpy(), rtol=1e-4, atol=1e-5)
    assert set(maps) == set(films[0].maps)
    for name, values in maps.items():
        found = np.stack([saliency.maps[name] for saliency in films])
        np.testing.assert_allclose(found, values.numpy(), rtol=1e-3, atol=1e-4 * float(values.max()) + 1e-9)


# --- What stands behind an explained tensor --------------------------------------------------------------------------

SAME: Callable[[], nn.Module] = nn.Identity
# middle (9 x 9 cells), late (behind 5 x 5 cells), channels of the last maps
OPERATORS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module], int]] = {
    "dilated": (lambda: convolution(dilation=2), SAME, CHANNELS),
    "grouped": (lambda: convolution(groups=4), SAME, CHANNELS),
    "depthwise and Clip": (
        lambda: nn.Sequential(convolution(groups=CHANNELS), nn.ReLU6()), lambda: nn.Sequential(Affine(), nn.ReLU6()),
        CHANNELS,
    ),
    "strided": (SAME, lambda: nn.Conv2d(CHANNELS, CHANNELS, 3, stride=2), CHANNELS),
    "strided depthwise": (SAME, lambda: nn.Conv2d(CHANNELS, CHANNELS, 2, stride=2, groups=CHANNELS), CHANNELS),
    "uneven kernels": (lambda: convolution((3, 5)), lambda: convolution((5, 1)), CHANNELS),
    "maximum pool that leaves a row over": (SAME, lambda: nn.MaxPool2d(2), CHANNELS),
    "average pool that leaves rows over": (SAME, lambda: nn.Sequential(nn.ReLU(), nn.AvgPool2d(2)), CHANNELS),
    "convolution before its pool": (SAME, lambda: nn.Sequential(convolution(1), nn.AvgPool2d(2), nn.ReLU()), CHANNELS),
    "sum of branches": (lambda: Beside(convolution(), joined=False), SAME, CHANNELS),
    "joined branches": (
        SAME,
        lambda: nn.Sequential(
            Beside(convolution(), joined=True), nn.BatchNorm2d(2 * CHANNELS), nn.ReLU(),
            Beside(convolution(channels=2 * CHANNELS), joined=True),
        ),
        3 * CHANNELS,
    ),
    "arithmetic": (Affine, Affine, CHANNELS),
}  # fmt: skip


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", OPERATORS)
def test_gradients_through_each_operator(name, count):
    torch.manual_seed(0)
    middle, late, channels = OPERATORS[name]
    network = randomised(Small(middle(), late(), dense(channels)))
    assert_autograds(made(network, BLOCKS, count=count).classifier, network, BLOCKS)


def test_equal_largest_values_share_a_gradient():
    """Many windows behind a ReLU hold zeros only; each window's gradient counts once, as in PyTorch."""
    torch.manual_seed(0)
    network = randomised(Small(SAME(), nn.MaxPool2d(2), dense()))
    with torch.no_grad():
        network.coarse[1].bias.zero_()
        network.ending[2].weight.abs_()  # so that Grad-CAM, which reads the gradient's sum, is above 0
        coarse = network.coarse(network.fine(torch.from_numpy(FILMS)))
    alive = coarse.amax((2, 3), keepdim=True) > 0
    assert bool(((nn.functional.max_pool2d(coarse, 2) == 0) & alive).any())
    assert_autograds(made(network, BLOCKS).classifier, network, BLOCKS)


# --- Heads -----------------------------------------------------------------------------------------------------------

HEADS: dict[str, tuple[Callable[[], nn.Module], Head]] = {
    "mean and linear": (dense, "sigmoid"),
    "two linear layers": (
        lambda: nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, 16), nn.BatchNorm1d(16), nn.ReLU(),
            nn.Linear(16, LABELS),
        ),
        "sigmoid",
    ),
    "all cells": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(CHANNELS * 25, LABELS)), "sigmoid"),
    "maximum": (lambda: nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, LABELS)), "sigmoid"),
    "softmax, mean and linear": (dense, "softmax"),
    "softmax, all cells": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(CHANNELS * 25, LABELS)), "softmax"),
}  # fmt: skip
ENDS = {
    "": nn.Identity,
    "Sigmoid": nn.Sigmoid,
    "Softmax": lambda: nn.Softmax(1),
    "LogSoftmax": lambda: nn.LogSoftmax(1),
}


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", HEADS)
def test_heads(name, count):
    """Class activation maps are, for every label, the last maps' gradient times activation, times the places."""
    torch.manual_seed(0)
    ending, head = HEADS[name]
    plain = randomised(Small(nn.Identity(), nn.Identity(), ending()))
    found = made(plain, BLOCKS, count=count, head=head)
    network, blocks = (LogOdds(plain), [f"network.{b}" for b in BLOCKS]) if head == "softmax" else (plain, BLOCKS)
    assert_autograds(found.classifier, network, blocks)
    want = activation_maps(network, blocks[-1])
    got = np.stack([saliency.class_activation_maps for saliency in explanations(found.classifier)[1]])
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4 * np.abs(want).max())


def activation_maps(network: nn.Module, block: str) -> FloatArray:
    """(N, C, h, w) by autograd."""
    logits, activation = Tapped(network, [block])(torch.from_numpy(FILMS).requires_grad_())
    gradients = [
        torch.autograd.grad(logits[:, label].sum(), activation, retain_graph=True)[0] for label in range(LABELS)
    ]
    places = activation.shape[2] * activation.shape[3]
    return np.stack([((gradient * activation).sum(1) * places).detach().numpy() for gradient in gradients], 1)


@pytest.mark.parametrize("end", ["Sigmoid", "Softmax", "LogSoftmax"])
def test_what_a_file_ends_in_changes_neither_logits_nor_maps(end):
    torch.manual_seed(0)
    plain = randomised(Small(nn.Identity(), nn.Identity(), dense()))
    ended = nn.Sequential(plain, ENDS[end]())
    head: Head = "sigmoid" if end == "Sigmoid" else "softmax"
    one, other = made(plain, BLOCKS, head=head), made(ended, [f"0.{block}" for block in BLOCKS])
    assert other.network.ended_in == end
    assert_same(one.classifier, other.classifier, exactly=True)


class Shifted(nn.Module):
    """Logits with one more number that the film decides, the same for all labels."""

    def __init__(self, head: nn.Module, size: int) -> None:
        super().__init__()
        self.head = head
        self.shift = nn.Sequential(nn.Linear(size, 1), nn.ReLU(), nn.Linear(1, LABELS))
        with torch.no_grad():
            self.shift[0].weight.copy_(torch.rand(1, size) + 1)
            self.shift[2].weight.fill_(3.0)
            self.shift[2].bias.zero_()

    def forward(self, maps: Tensor) -> Tensor:
        row = maps.mean((2, 3))
        return self.head(row) + self.shift(row)


def test_a_number_added_to_all_logits_of_a_softmax_changes_nothing():
    """With the head of one linear layer alone and with two ways of class activation maps: no difference either."""
    torch.manual_seed(0)
    head = nn.Linear(CHANNELS, LABELS)
    plain = Small(nn.Identity(), nn.Identity(), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), head))
    shifted = Small(nn.Identity(), nn.Identity(), Shifted(head, CHANNELS))
    shifted.load_state_dict(
        {name: value for name, value in randomised(plain).state_dict().items() if not name.startswith("ending")},
        strict=False,
    )
    with torch.no_grad():
        raised = shifted.eval()(torch.from_numpy(FILMS)) - plain(torch.from_numpy(FILMS))
    assert float(raised.min()) > 0.5
    files = [made(network, BLOCKS, head="softmax").classifier for network in (plain, shifted)]
    assert_same(*files, exactly=False)


def assert_same(one: Classifier, other: Classifier, *, exactly: bool) -> None:
    """Logits, maps and isolation."""
    (logits, films), (others, other_films) = explanations(one), explanations(other)
    tolerance = 0.0 if exactly else 2e-4
    np.testing.assert_allclose(others, logits, rtol=tolerance, atol=tolerance)
    for film, other_film in zip(films, other_films, strict=True):
        assert other_film.explained_labels.tolist() == film.explained_labels.tolist()
        pairs = [(film.maps[name], other_film.maps[name]) for name in film.maps]
        activations = film.class_activation_maps, other_film.class_activation_maps
        pairs += [activations, *(tuple(isolation(maps, sign) for maps in activations) for sign in (1.0, -1.0))]
        for want, got in pairs:
            np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * np.abs(want).max())


# --- The network in PyTorch ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPERATORS)
def test_the_rebuilt_network_is_the_exported_one(name):
    torch.manual_seed(0)
    middle, late, channels = OPERATORS[name]
    network = randomised(Small(middle(), late(), dense(channels)))
    rebuilt = OnnxNetwork(made(network, BLOCKS).network)
    with torch.no_grad():
        got, want = (module(torch.from_numpy(FILMS)).numpy() for module in (rebuilt, network))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_the_service_chooses_the_same_tensors():
    torch.manual_seed(0)
    network = randomised(Small(nn.Identity(), nn.Identity(), dense()))
    found = made(network, BLOCKS)
    assert [item.side for item in explained(found.network)] == [9, 5]
