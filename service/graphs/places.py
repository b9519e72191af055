"""Which tensors to explain: what every way from the film to the logits passes, and whose cells keep their places.

A tensor dominates the logits when no way from the film goes around it. It has places when each of its cells looks at
its own part of the film: proved here on the graph, by following the centre of every cell's field of view through
each operator along both axes (Araujo et al., Computing receptive fields, Distill 2019), and measured on films by the
examination.
"""

from dataclasses import dataclass, replace
from math import log2

from service.graphs.network import INPUT, Network, Operation, Refused

SHARES = (8, 16)  # of the input's side: 224 px are explained at 28 x 28 and 14 x 14 cells
WIDEST_STEP = 0.5  # of a factor of 2, between a share of the input's side and a map's
JOINED_PX = 0.5  # of a cell, by which the places of joined maps may differ
ACTIVATIONS = ("Relu", "Clip")
BRANCHES_MEET = ("Concat", "Add")
LONGEST_WAY = 8  # operators named of a way around


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where the cells of a map look along one axis, in pixels of the input.

    start: centre of the first cell's field of view. step: from one cell's to the next. extent: of the field of view.
    """

    start: float
    step: float
    extent: float

    def behind(self, kernel: int, stride: int, dilation: int, before: int) -> "Geometry":
        """Of what a window makes of the map; before: cells of padding above or to the left."""
        reach = dilation * (kernel - 1)
        return Geometry(
            self.start + self.step * (reach / 2 - before), self.step * stride, self.extent + self.step * reach
        )


Places = tuple[Geometry, Geometry]  # along rows and along columns
AT_INPUT: Places = (Geometry(0.5, 1.0, 1.0), Geometry(0.5, 1.0, 1.0))


@dataclass(frozen=True, slots=True)
class Explained:
    """A tensor that is explained. side: of its map in cells. places: where its cells look."""

    operation: Operation
    side: int
    places: Places


def way_around(network: Network, tensor: str) -> tuple[Operation, ...] | None:
    """The operators of one way from the film to the logits that does not pass a tensor, or None where there is none."""
    came_from: dict[str, Operation | None] = {INPUT: None}
    reached = {INPUT: ""}
    for operation in network.operations:
        before = next((name for name in operation.inputs if name in reached), None)
        if before is not None and operation.output != tensor:
            reached[operation.output] = before
            came_from[operation.output] = operation
    if network.logits not in reached or tensor == INPUT:
        return None
    way, name = [], network.logits
    while name != INPUT:
        made = came_from[name]
        if made is not None:
            way.append(made)
        name = reached[name]
    return tuple(reversed(way))


def dominators(network: Network) -> list[Operation]:
    """The operators whose output every way from the film to the logits passes, in order.

    The order is a topological one, so a tensor is passed by all ways when nothing made before it is read behind it.
    """
    last_read: dict[str, int] = {}
    for place, operation in enumerate(network.operations):
        last_read.update(dict.fromkeys(operation.inputs, place))
    found, open_until = [], last_read.get(INPUT, 0)
    for place, operation in enumerate(network.operations):
        if open_until <= place:
            found.append(operation)
        open_until = max(open_until, last_read.get(operation.output, place))
    return [operation for operation in found if way_around(network, operation.output) is None]


def explained(network: Network) -> tuple[Explained, ...]:
    """The two tensors to explain, finest grid first: the last dominators at about an eighth and a sixteenth of the
    input's side that end a block. Raises Refused with the way around, or with what moves places."""
    passed = dominators(network)
    places = places_of(network)
    chosen = tuple(_at(network, passed, places, network.size / share) for share in SHARES)
    if chosen[0].side <= chosen[1].side:
        raise Refused("The network has no two sizes of maps to explain.")
    return chosen


def _at(network: Network, passed: list[Operation], places: dict[str, Places | Refused], wanted: float) -> Explained:
    sides = {side for side in map(_side, passed) if side > 1 and abs(log2(side / wanted)) <= WIDEST_STEP}
    if not sides:
        raise Refused(_why_none(network, wanted))
    side = min(sides, key=lambda found: abs(log2(found / wanted)))
    operation = _end_of_block(passed, side)
    found = places[operation.output]
    if isinstance(found, Refused):
        raise Refused(f"The maps of {operation.label} have no places: {found}")
    _require_own_places(network, operation, found)
    return Explained(operation, side, found)


def _side(operation: Operation) -> int:
    """Of a square map in cells; 0 for what is none."""
    shape = operation.shape
    return shape[1] if len(shape) == 3 and shape[1] == shape[2] else 0


def _end_of_block(passed: list[Operation], side: int) -> Operation:
    """A block ends where branches meet, in a Concat or a sum (with the activation behind it); without branches, at an
    activation; else with whatever comes last."""
    here = [operation for operation in passed if _side(operation) == side]
    for kinds in (BRANCHES_MEET, ACTIVATIONS):
        ends = [place for place, operation in enumerate(here) if operation.kind in kinds and _joins(operation)]
        if ends:
            last = ends[-1]
            behind = here[last + 1] if last + 1 < len(here) else None
            activated = here[last].kind == "Add" and behind is not None and behind.kind in ACTIVATIONS
            return behind if activated and behind is not None else here[last]
    return here[-1]


def _joins(operation: Operation) -> bool:
    """Whether branches meet there; activations count as they are."""
    return operation.kind in ACTIVATIONS or len(operation.inputs) > 1


def _why_none(network: Network, wanted: float) -> str:
    here = [
        operation
        for operation in network.operations
        if _side(operation) > 1 and abs(log2(_side(operation) / wanted)) <= WIDEST_STEP
    ]
    if not here:
        sides = sorted({_side(operation) for operation in network.operations if _side(operation) > 1}, reverse=True)
        return f"There is no layer to explain with about {wanted:.0f} x {wanted:.0f} cells; there are maps of {sides}."
    last = next((made for made in reversed(here) if made.kind in BRANCHES_MEET and _joins(made)), here[-1])
    way = way_around(network, last.output) or ()
    return (
        f"The logits do not depend on the maps of about {wanted:.0f} x {wanted:.0f} cells alone: "
        f"a way goes around {last.label}: {named(way)}."
    )


def named(way: tuple[Operation, ...]) -> str:
    """A way from the film to the logits for people, its middle left out where it is long."""
    labels = [operation.label for operation in way]
    if len(labels) > LONGEST_WAY:
        half = LONGEST_WAY // 2
        labels = [*labels[:half], f"({len(labels) - 2 * half} more)", *labels[-half:]]
    return " -> ".join(["the film", *labels])


# --- Places ----------------------------------------------------------------------------------------------------------


def places_of(network: Network) -> dict[str, Places | Refused]:
    """Where the cells of every map look, or why that cannot be said; rows of numbers are left out."""
    found: dict[str, Places | Refused] = {INPUT: AT_INPUT}
    for operation in network.operations:
        if len(operation.shape) == 3:
            found[operation.output] = _places_behind(operation, [found.get(name) for name in operation.inputs])
    return found


def _places_behind(operation: Operation, inputs: list[Places | Refused | None]) -> Places | Refused:
    read: list[Places] = []
    for places in inputs:
        if places is None:
            return Refused(f"{operation.label} makes a map of something that is none.")
        if isinstance(places, Refused):
            return places
        read.append(places)
    if operation.kind in ("Conv", "MaxPool", "AveragePool"):
        return _behind_window(operation, read[0])
    if operation.kind in ("GlobalAveragePool", "GlobalMaxPool"):
        return Refused(f"{operation.label} looks at all places at once.")
    return _joined(operation, read)


def _behind_window(operation: Operation, places: Places) -> Places:
    kernel, strides, pads = operation.pair("kernel_shape"), operation.pair("strides"), operation.pads
    dilations = operation.pair("dilations") if operation.kind == "Conv" else (1, 1)
    rows, columns = (places[axis].behind(kernel[axis], strides[axis], dilations[axis], pads[axis]) for axis in (0, 1))
    return rows, columns


def _joined(operation: Operation, read: list[Places]) -> Places | Refused:
    axes = []
    for axis in (0, 1):
        first, *others = (places[axis] for places in read)
        for other in others:
            if other.step != first.step or abs(other.start - first.start) > JOINED_PX * first.step:
                return Refused(f"{operation.label} joins maps whose cells look at other places.")
        axes.append(replace(first, extent=max(places[axis].extent for places in read)))
    return axes[0], axes[1]


def _require_own_places(network: Network, operation: Operation, places: Places) -> None:
    """Each cell's field of view is centred within one cell of its own place."""
    for axis, geometry in enumerate(places):
        cells = operation.shape[1 + axis]
        cell_px = network.size / cells
        off = max(abs(geometry.start + cell * geometry.step - (cell + 0.5) * cell_px) for cell in (0, cells - 1))
        if off > cell_px:
            raise Refused(
                f"The maps of {operation.label} have no places: a cell looks {off:.0f} px away from its own place, "
                f"and a cell is {cell_px:.0f} px wide."
            )
