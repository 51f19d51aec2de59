"""Checkpoints: ``<stem>.safetensors`` with the weights and ``<stem>.json``, the card that says what they are.

Nothing in a checkpoint is executed: weights are plain tensors, and the architecture is a name in the zoo.
"""

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from amc_env.card import Card, CheckpointError, as_card
from amc_env.compressors.low_rank import RankError, factored
from amc_env.compressors.surgery import cut
from amc_env.files import DamagedError, parse, read_json, seal, write_all
from amc_env.files import content as content_of
from amc_env.graph.given import Given
from amc_env.graph.labels import TraceError
from amc_env.graph.trace import trace
from amc_env.plan import Plan, PlanError
from amc_env.zoo import ModelError, build

TRAIN = "python -m experiments.pretrain model={model} data={data}"


SHIPPED = Path(__file__).resolve().parent / "zoo" / "checkpoints"


def save(stem: Path | str, model: nn.Module, card: Card) -> Card:
    """Write weights and card; returns the card with the weights file's hash.

    Raises:
        CheckpointError: when a weight is not finite or the files cannot be written; an older checkpoint of
            that stem is then unchanged.
    """
    state = model.state_dict()
    refuse_objects(state)
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    weights_file, card_file = files(stem)
    refuse_non_finite(tensors, f"{weights_file} is not written")
    content = safetensors.torch.save(tensors)
    card = replace(card, sha256=hashlib.sha256(content).hexdigest())
    text = json.dumps(seal(asdict(card)), indent=2, sort_keys=True, allow_nan=False) + "\n"
    try:
        write_all({weights_file: content, card_file: text})
    except OSError as error:
        raise CheckpointError(
            f"{weights_file} cannot be written: {error.strerror}; choose another folder"
        ) from error
    return card


def load(stem: Path | str) -> tuple[nn.Module, Card]:
    """The network that a checkpoint holds, in evaluation mode, and its card.

    Raises:
        CheckpointError: when a file is missing, truncated, changed, of another format or architecture, or
            holds a weight that is not finite.
    """
    card = read_card(stem)
    model = empty(card, files(stem)[1])
    _fill(model, stem, card)
    return model.eval(), card


def empty(card: Card, card_file: Path) -> nn.Module:
    """The network that a card describes, cut by its plan, without its weights.

    Args:
        card: of it.
        card_file: where it stands, for messages.

    Raises:
        CheckpointError: for a network that is not in the zoo, or a plan of another one.
    """
    if card.architecture == "import":
        raise CheckpointError(
            f"{card_file} is of a network of your own ({card.options.get('target', 'no target')}), and "
            "loading imports no code: build the network yourself and call restore(model, stem)"
        )
    options = {name: value for name, value in card.options.items() if name != "weights"}  # never a download
    try:
        model = build(card.architecture, classes=card.classes, in_channels=card.in_channels, **options)
    except (ModelError, TypeError) as error:
        raise CheckpointError(f"{card_file} names a network that cannot be built: {error}") from error
    return model if card.plan is None else _cut(model, card, card_file)


def restore(dense: nn.Module, stem: Path | str) -> tuple[nn.Module, Card]:
    """Like `load`, with a copy of the dense network that the caller built; the card's plan, if any, cuts it.

    Raises:
        CheckpointError: as `load`.
    """
    card = read_card(stem)
    refuse_objects(dense.state_dict())
    model = copy.deepcopy(dense) if card.plan is None else _cut(dense, card, files(stem)[1])
    _fill(model, stem, card)
    return model.eval(), card


def load_into(model: nn.Module, stem: Path | str) -> Card:
    """Put a checkpoint's weights into a network that the caller built; an error leaves it unchanged.

    Raises:
        CheckpointError: as `load`.
    """
    card = read_card(stem)
    refuse_objects(model.state_dict())
    _fill(model, stem, card)
    return card


def read_card(stem: Path | str) -> Card:
    """A checkpoint's card, without reading the weights.

    Raises:
        CheckpointError: when the card is missing or is not a card.
    """
    _, path = files(stem)
    try:
        content = read_json(path)
    except DamagedError as error:
        raise CheckpointError(f"{error}; take it from its source again") from error
    except OSError as error:
        raise _unread(path, error, TRAIN.format(model="<model>", data="<data set>")) from error
    return as_card(content, path)


def shipped(name: str) -> Path:
    """The stem of a checkpoint in the repository's ``amc_env/zoo/checkpoints``.

    Raises:
        CheckpointError: when it is not there, with the list of those that are.
    """
    there = sorted(path.stem for path in SHIPPED.glob("*.json"))
    if name not in there:
        listed = f"there are {', '.join(there)}" if there else "the folder has none"
        command = TRAIN.format(model="<model>", data="<data set>")
        raise CheckpointError(f"no checkpoint {name!r} in {SHIPPED}: {listed}; train one: {command}")
    return SHIPPED / name


def files(stem: Path | str) -> tuple[Path, Path]:
    """Weights file and card file of a stem, whose name may contain dots."""
    stem = Path(stem)
    return stem.with_name(f"{stem.name}.safetensors"), stem.with_name(f"{stem.name}.json")


def _fill(model: nn.Module, stem: Path | str, card: Card) -> None:
    path, _ = files(stem)
    content = _read(path, TRAIN.format(model=card.architecture, data=card.data))
    _refuse_damaged(path, content, card)
    try:
        tensors = safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from error
    fill(model, tensors, path)


def fill(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Put a file's tensors into a network.

    Raises:
        CheckpointError: for tensors that are not finite or of another network; the model is then unchanged.
    """
    refuse_non_finite(tensors, f"{path} is of no use")
    _refuse_other_network(path, model.state_dict(), tensors)
    model.load_state_dict(tensors)


def _cut(model: nn.Module, card: Card, card_file: Path) -> nn.Module:
    """The network cut by the card's plan; the checkpoint's weights are still to be filled in."""
    try:
        if card.plan and "ranks" in card.plan:
            return factored(copy.deepcopy(model), card.plan["ranks"], card.plan.get("split"))
        height, width = card.shape[1:]
        given = None if card.given is None else Given.from_dict(card.given)
        shape = (card.in_channels, height, width)
        graph = trace(model, shape, keep_whole=card.keep_whole, given=given)
        return cut(model, graph, Plan.from_dict(card.plan or {}))
    except (PlanError, TraceError, RankError) as error:
        raise CheckpointError(f"{card_file}: plan: {error}") from error


def _refuse_damaged(path: Path, content: bytes, card: Card) -> None:
    digest = hashlib.sha256(content).hexdigest()
    if digest == card.sha256:
        return
    expected = _length(content)
    if expected is not None and len(content) < expected:
        raise CheckpointError(f"{path} is truncated: {len(content):,} of {expected:,} bytes; take it again")
    raise CheckpointError(
        f"{path} is not the file that its card describes: its sha256 begins with {digest[:12]}, the card's "
        f"with {card.sha256[:12]}; take both from their source again"
    )


def _length(content: bytes) -> int | None:
    """The length in bytes that a safetensors header promises; None without a readable header."""
    header = 8 + int.from_bytes(content[:8], "little")
    if len(content) < header:
        return header
    try:
        entries = parse(content[8:header])
        ends = [int(entry["data_offsets"][1]) for entry in entries.values() if "data_offsets" in entry]
        return header + max(ends)
    except (ValueError, LookupError, TypeError, AttributeError):
        return None


def refuse_non_finite(tensors: Mapping[str, Tensor], consequence: str) -> None:
    """Refuse weights and buffers that no checkpoint may hold.

    Raises:
        CheckpointError: for NaN and infinite numbers.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise CheckpointError(
                f"{consequence}: {bad} of {tensor.numel()} numbers of {name} are NaN or infinite; a buffer "
                "that may hold them is one with persistent=False"
            )


def refuse_objects(state: Mapping[str, Any]) -> None:
    """Refuse a network's state that holds more than tensors, or tensors of lazy modules without a shape.

    Raises:
        CheckpointError: with the name of what is no tensor.
    """
    for name, value in state.items():
        if is_lazy(value):
            raise CheckpointError(
                f"{name} belongs to a lazy module and has no shape yet: call the network once, on zeros of "
                "the images' shape, in the function that builds it"
            )
        if not isinstance(value, Tensor):
            raise CheckpointError(
                f"{name} in the state of the network is a {type(value).__name__}, and a file of weights "
                "holds tensors alone: take get_extra_state out of the module"
            )


def _refuse_other_network(path: Path, wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    differences = []
    for name in dict.fromkeys([*wanted, *found]):
        asked = list(wanted[name].shape) if name in wanted else "absent"
        held = list(found[name].shape) if name in found else "absent"
        if asked != held:
            differences.append(f"{name} is {asked} in the network and {held} in the file")
    if differences:
        more = f"; and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise CheckpointError(f"{path} is of another architecture: {'; '.join(differences[:3])}{more}")


def _read(path: Path, command: str) -> bytes:
    try:
        return content_of(path)
    except DamagedError as error:
        raise CheckpointError(f"{error}; take it from its source again") from error
    except OSError as error:
        raise _unread(path, error, command) from error


def _unread(path: Path, error: OSError, command: str) -> CheckpointError:
    if isinstance(error, FileNotFoundError):
        return CheckpointError(f"{path} does not exist; train it: {command}")
    return CheckpointError(f"{path} cannot be read: {error.strerror}")
