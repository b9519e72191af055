"""The box's program: `python -m service.graphs.examining FD` reads one file and derives, and if asked examines it.

It opens what strangers hand in, so it gives up network, programs and files first, works under limits of memory and
time, answers once, and ends. Its parent waits, and ends it where it does not.
"""

import json
import socket
import sys
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from service.arrays import FloatArray
from service.audit.classifier import METADATA_KEY
from service.audit.preprocessing import model_input
from service.errors import ClassifierError
from service.graphs.derivation import derive
from service.graphs.description import Description, description_of, read_description
from service.graphs.examination import FILMS, examine, map_difference, pictures
from service.graphs.network import Refused
from service.graphs.places import explained
from service.graphs.protocol import LENGTH
from service.graphs.reading import first_line, load_model, read_network
from service.sandbox.child import receive
from service.sandbox.restrictions import address_space_bytes, limit_memory, restrict


def main() -> None:
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        request = json.loads(receive(connection, *LENGTH.unpack(receive(connection, LENGTH.size))))
        missing = restrict(cpu_seconds=int(request["seconds"]) + 1, dies_with_parent=True)
        limit_memory(int(request["memory_bytes"]), address_space_bytes())
        warnings.simplefilter("ignore")
        data = receive(connection, request["bytes"])
        films = _films(receive(connection, request["film_bytes"]), request["film_side"])
        answer, derived = _answer(request, bytes(data), films, missing)
        text = json.dumps(answer).encode()
        connection.sendall(LENGTH.pack(len(text)) + text + LENGTH.pack(len(derived)))
        connection.sendall(derived)


def _answer(
    request: Mapping[str, Any], data: bytes, films: FloatArray | None, missing: list[str]
) -> tuple[dict[str, Any], bytes]:
    try:
        found, derived = _opened(request, data, films)
    except Refused as error:
        return {"refused": str(error)}, b""
    except ClassifierError as error:
        return {"refused": error.detail}, b""
    except MemoryError:
        return {"refused": "The file needs more memory than an examination may use."}, b""
    except Exception as error:  # noqa: BLE001 - a malformed file makes libraries raise what they like
        return {"refused": f"The file is malformed ({type(error).__name__}: {first_line(error)})."}, b""
    if "report" in found:
        found["report"]["box"] = {"missing": missing, "memory_bytes": request["memory_bytes"]}
    return found, derived


def _opened(request: Mapping[str, Any], data: bytes, films: FloatArray | None) -> tuple[dict[str, Any], bytes]:
    if request["earlier_bytes"]:
        earlier, derived = data[: request["earlier_bytes"]], data[request["earlier_bytes"] :]
        return {"difference": map_difference(earlier, derived, _given(films))}, b""
    model = load_model(data)
    said = {item.key: item.value for item in model.metadata_props}
    description = _description(request["description"], said)
    network = read_network(model, description)
    taps = explained(network)
    derived = derive(network, taps, description)
    found: dict[str, Any] = {"identity": network.identity(description), "description": description.as_mapping()}
    if request["examine"]:
        shown = pictures(network.size, FILMS) if films is None else _inputs(films, description)
        found["report"] = examine(network, taps, description, derived, shown, request["batch"])
    return found, derived


def _description(given: Mapping[str, Any] | None, said: Mapping[str, str]) -> Description:
    """What was handed in with the file, else what stands in it: labels and preprocessing, never maps."""
    if given is not None:
        return read_description(given)
    if METADATA_KEY not in said:
        raise Refused("The file does not say what its labels and its preprocessing are: hand in a description.")
    return description_of(said[METADATA_KEY])


def _inputs(films: FloatArray, description: Description) -> FloatArray:
    """Films as the classifier sees them."""
    return np.stack([model_input(film[0], description.preprocessing) for film in films])


def _given(films: FloatArray | None) -> FloatArray:
    if films is None:
        raise Refused("There are no films to compare on.")
    return films


def _films(data: bytearray, side: int) -> FloatArray | None:
    return np.frombuffer(data, "<f4").reshape(-1, 1, side, side).copy() if data else None


if __name__ == "__main__":
    main()
