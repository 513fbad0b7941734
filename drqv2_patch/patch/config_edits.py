"""Finds the edits of the Hydra configuration of a checkout."""

from __future__ import annotations

from typing import Any, NamedTuple

from drqv2_patch.device import AUTO
from drqv2_patch.patch.source import Edit, differs
from replaystore.runtime.extras import needs

with needs("patching a checkout", "drqv2"):
    import yaml  # type: ignore[import-untyped]

CONFIG = "cfgs/config.yaml"

_NEEDED = (
    "frame_stack",
    "replay_buffer_size",
    "replay_buffer_num_workers",
    "batch_size",
    "nstep",
    "discount",
    "device",
)
_LAUNCHER = "override hydra/launcher"
_LOST_NAME = "agent_cfg.experiment"  # the directories of sweeps use it, and nothing defines it
_DEVICE = f"{AUTO}  # cuda where torch finds a GPU, else cpu"
_RUN_DIRECTORY = "drqv2_run"  # the resolver in drqv2_patch.runs


class ReplayOptions(NamedTuple):
    """The defaults of a checkout for options that the command line leaves out.

    Attributes:
        mode: `"disk"`, `"half"` or `"full"`.
        residency: `"mapped"`, `"ram"` or `"auto"`.
        budget: the most bytes of chunks in memory, as a number or a text such as `16GiB`. None lets the store choose.
    """

    mode: str = "full"
    residency: str = "auto"
    budget: str | None = None


def edit_config(name: str, content: bytes, options: ReplayOptions) -> list[Edit]:
    """Returns the edits: replay options, device, run directory, and no plugin that is not installed.

    Args:
        name: of the file, for messages.
        content: its bytes.
        options: the defaults to write.

    Raises:
        UnknownCheckout: a needed key is missing, or a key that the patch adds exists.
    """
    source = _YamlSource(name, content)
    added = {
        "replay_buffer_num_workers": {
            "replay_mode": f"{options.mode}  # disk, half or full: how images are stored",
            "replay_residency": f"{options.residency}  # mapped, ram or auto: where the bytes live",
            "replay_budget": f"{options.budget or 'null'}  # of the bytes in memory, as in 16GiB",
        },
        "save_snapshot": {
            "snapshot_every_frames": "10000  # at the next end of an episode; null: never. save_snapshot: at every end",
            "resume": "false  # true: from the last snapshot, with all episodes; exact: without those newer than it",
        },
    }
    for key in (*_NEEDED, *added):
        source.require(source.root, key)
    for key in (key for keys in added.values() for key in keys):
        source.refuse(source.root, key)
    hydra = source.require(source.root, "hydra")
    run = source.require(hydra.value, "run")
    directory = source.require(run.value, "dir")
    source.refuse(hydra.value, "job")
    device = source.require(source.root, "device")
    edits = [source.replace(device.value, _DEVICE)] if device.value.value == "cuda" else []
    edits += [source.lines_after(source.require(source.root, after), keys) for after, keys in added.items()]
    job = {
        "job": "",
        "  chdir": "true",
        "  config": "",
        "    override_dirname": "",
        "      exclude_keys": "[resume]",
    }
    edits.append(source.lines_before(run, job))
    template = directory.value.value.replace('"', '\\"')
    wrapped = f'${{{_RUN_DIRECTORY}:${{resume}},"{template}"}}'.replace("'", "''")
    edits.append(source.replace(directory.value, f"'{wrapped}'"))
    if (launcher := source.find(hydra.value, "launcher")) is not None:
        edits.append(source.without(launcher))
    defaults = source.find(source.root, "defaults")
    edits += [
        source.without(chosen)
        for item in ([] if defaults is None else defaults.value.value)
        if isinstance(item, yaml.MappingNode) and (chosen := source.find(item, _LAUNCHER)) is not None
    ]
    if (sweep := source.find(hydra.value, "sweep")) is not None:
        for _, value in sweep.value.value:
            if isinstance(value, yaml.ScalarNode) and _LOST_NAME in value.value:
                source.require(source.root, "experiment")
                edits.append(source.replace(value, source.text(value).replace(_LOST_NAME, "experiment")))
    return edits


class _Entry(NamedTuple):
    key: Any
    value: Any


class _YamlSource:
    """A YAML file in block style, with one key per line."""

    def __init__(self, name: str, content: bytes) -> None:
        self.name = name
        self._content = content
        try:
            self._text = content.decode()
            self.root = yaml.compose(self._text)
        except (UnicodeDecodeError, yaml.YAMLError) as err:
            raise differs(name, "YAML in UTF-8", " ".join(str(err).split())) from err
        if not isinstance(self.root, yaml.MappingNode):
            raise differs(name, "a mapping", "something else")
        self._lines = self._text.splitlines(keepends=True)
        self._newline = "\r\n" if "\r\n" in self._text else "\n"

    def find(self, mapping: Any, key: str) -> _Entry | None:
        """Returns the entry of a mapping, or None."""
        if not isinstance(mapping, yaml.MappingNode):
            raise differs(self.name, "a mapping", f"{mapping.tag} at line {mapping.start_mark.line + 1}")
        return next((_Entry(*pair) for pair in mapping.value if pair[0].value == key), None)

    def require(self, mapping: Any, key: str) -> _Entry:
        """Returns the entry of a mapping.

        Raises:
            UnknownCheckout: the mapping has no such key.
        """
        found = self.find(mapping, key)
        if found is None:
            raise differs(self.name, f"the key {key!r}", "none")
        return found

    def refuse(self, mapping: Any, key: str) -> None:
        """Checks that a mapping lacks a key.

        Raises:
            UnknownCheckout: the mapping has the key.
        """
        found = self.find(mapping, key)
        if found is not None:
            raise differs(self.name, f"no key {key!r}", f"one at line {found.key.start_mark.line + 1}")

    def text(self, node: Any) -> str:
        """Returns the text of a node."""
        return self._text[node.start_mark.index : node.end_mark.index]

    def replace(self, node: Any, text: str) -> Edit:
        """Returns the edit that replaces a scalar."""
        return Edit(self._at(node.start_mark.index), self._at(node.end_mark.index), text)

    def lines_before(self, entry: _Entry, keys: dict[str, str]) -> Edit:
        """Returns the edit that adds keys before an entry, with its indent."""
        at = self._start_of_line(entry.key.start_mark.line)
        return Edit(at, at, self._written(entry, keys))

    def lines_after(self, entry: _Entry, keys: dict[str, str]) -> Edit:
        """Returns the edit that adds keys after an entry, with its indent."""
        end = _last_line(entry.value) + 1
        at = self._start_of_line(end)
        missing = end == len(self._lines) and not self._text.endswith("\n")
        return Edit(at, at, (self._newline if missing else "") + self._written(entry, keys))

    def without(self, entry: _Entry) -> Edit:
        """Returns the edit that removes an entry's lines."""
        first, end = entry.key.start_mark.line, _last_line(entry.value) + 1
        return Edit(self._start_of_line(first), self._start_of_line(end), "")

    def _written(self, entry: _Entry, keys: dict[str, str]) -> str:
        indent = " " * entry.key.start_mark.column
        return "".join(f"{indent}{key}: {value}".rstrip() + self._newline for key, value in keys.items())

    def _start_of_line(self, number: int) -> int:
        return self._at(sum(map(len, self._lines[:number])))

    def _at(self, index: int) -> int:
        return len(self._text[:index].encode())


def _last_line(node: Any) -> int:
    """Returns the line of the last scalar of a node. The mark at a block's end is beyond it."""
    if isinstance(node, yaml.ScalarNode) or not node.value or node.flow_style:
        return int(node.end_mark.line)
    last = node.value[-1]
    return _last_line(last[1] if isinstance(last, tuple) else last)
