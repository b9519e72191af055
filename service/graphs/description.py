"""What is said of a classifier beside its graph: labels, preprocessing, normalisation, head, licence."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from service.audit.preprocessing import Preprocessing
from service.errors import ClassifierError

Head = Literal["sigmoid", "softmax"]
LARGEST_TEXT_BYTES = 1 << 20
MOST_LABELS = 1000
LONGEST_WORD = 200
LONGEST_NAME = 64
NORMALISATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "torchxrayvision": ((0.5,), (1 / 2048,)),  # [0, 1] -> [-1024, 1024]
    "none": ((0.0,), (1.0,)),
}


@dataclass(frozen=True, slots=True)
class Normalisation:
    """How the network wants its pixels: (value - mean) / std of values in [0, 1], one number or one a channel.

    air_white: it was trained on films whose air is white; ours is black, so that the graph turns them round.
    A film has one grey channel, which every channel of the network is given. Raises ValueError.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    air_white: bool = False

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3) or not all(self.std):
            raise ValueError("mean and std must be 1 or 3 numbers each, and std not 0")

    @classmethod
    def read(cls, text: str, *, air_white: bool = False) -> "Normalisation":
        """A name of NORMALISATIONS, or `MEAN/STD` with one number or one a channel (0.5/0.25). Raises ValueError."""
        if text in NORMALISATIONS:
            return cls(*NORMALISATIONS[text], air_white)
        try:
            mean, std = (tuple(float(number) for number in part.split(",")) for part in text.split("/"))
        except ValueError:
            raise ValueError(f"the normalisation is none of {sorted(NORMALISATIONS)} and not MEAN/STD") from None
        return cls(mean, std, air_white)

    @property
    def is_none(self) -> bool:
        return self == Normalisation()


@dataclass(frozen=True, slots=True)
class Description:
    """What a file does not show.

    labels: in the order of the logits. head: whether labels stand for themselves (`sigmoid`) or exclude each other
    (`softmax`); what the file ends in goes before it. output: the name of the tensor with the logits, needed where
    the file has several. explained_count: how many labels of a film get gradient maps.
    """

    name: str
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    normalisation: Normalisation = field(default_factory=Normalisation)
    head: Head = "sigmoid"
    output: str = ""
    licence: str = "not stated"
    provenance: Mapping[str, str] = field(default_factory=dict)
    explained_count: int = 1

    def as_mapping(self) -> dict[str, Any]:
        """As `read_description` takes it."""
        return asdict(self) | {"labels": list(self.labels), "provenance": dict(self.provenance)}


def description_of(text: str) -> Description:
    """Read a description in JSON. Raises ClassifierError with what is wrong."""
    if len(text.encode()) > LARGEST_TEXT_BYTES:
        raise ClassifierError("The description is larger than 1 MiB.")
    try:
        described = json.loads(text)
    except (ValueError, RecursionError):
        raise ClassifierError("The description is no JSON.") from None
    if not isinstance(described, dict):
        raise ClassifierError("The description is no JSON object.")
    return read_description(described)


def read_description(described: Mapping[str, Any]) -> Description:
    """Check what was said. Raises ClassifierError that names the field."""
    labels = described.get("labels")
    if not isinstance(labels, list | tuple) or not 1 <= len(labels) <= MOST_LABELS:
        raise ClassifierError(f"labels must be a list of 1 to {MOST_LABELS} names, in the order of the outputs.")
    words = tuple(_word("labels", label) for label in labels)
    if len(set(words)) != len(words):
        raise ClassifierError("labels: a label is there twice.")
    head, count = described.get("head", "sigmoid"), described.get("explained_count", 1)
    if head not in get_args(Head):
        raise ClassifierError("head must be sigmoid or softmax.")
    if not isinstance(count, int) or not 1 <= count <= len(words):
        raise ClassifierError("explained_count must be between 1 and the number of labels.")
    name = _word("name", described.get("name"))
    if len(name) > LONGEST_NAME:
        raise ClassifierError(f"name must have at most {LONGEST_NAME} characters.")
    return Description(
        name=name,
        labels=words,
        preprocessing=_preprocessing(described.get("preprocessing")),
        normalisation=_normalisation(described.get("normalisation")),
        head=head,
        output=_text("output", described.get("output", "")),
        licence=_word("licence", described.get("licence", "not stated")),
        provenance=_words(described.get("provenance", {})),
        explained_count=count,
    )


def _preprocessing(described: object) -> Preprocessing:
    if not isinstance(described, dict):
        raise ClassifierError("preprocessing is missing: size, resampler, antialias and crop.")
    try:
        return Preprocessing(**described)
    except (TypeError, ValueError) as error:
        raise ClassifierError(f"preprocessing: {error}") from None


def _normalisation(described: object) -> Normalisation:
    if described is None:
        return Normalisation()
    try:
        if isinstance(described, str):
            return Normalisation.read(described)
        if not isinstance(described, dict) or not set(described) <= {"mean", "std", "air_white"}:
            raise ValueError("mean, std and air_white are what it may say")
        mean, std = (_numbers(described.get(name, default)) for name, default in (("mean", [0]), ("std", [1])))
        return Normalisation(mean, std, air_white=bool(described.get("air_white", False)))
    except (TypeError, ValueError) as error:
        raise ClassifierError(f"normalisation: {error}") from None


def _numbers(values: object) -> tuple[float, ...]:
    if not isinstance(values, list | tuple):
        raise ValueError("mean and std are lists of numbers")
    return tuple(float(value) for value in values)


def _words(values: object) -> dict[str, str]:
    if not isinstance(values, dict):
        raise ClassifierError("provenance must be an object of names and texts.")
    return {_word("provenance", key): _word("provenance", value) for key, value in values.items()}


def _word(name: str, value: object) -> str:
    if not _text(name, value).strip():
        raise ClassifierError(f"{name}: a text that is not empty is needed.")
    return str(value)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or len(value) > LONGEST_WORD or not value.isprintable():
        raise ClassifierError(f"{name}: a text of at most {LONGEST_WORD} printable characters is needed.")
    return value
