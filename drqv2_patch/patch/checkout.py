"""Patches a checkout of DrQ-v2 on disk, restores it byte for byte, and detects that it is half patched.

`.drqv2_patch/` in the checkout keeps a copy of each changed file, and a manifest with its hash before and after. Each
file is replaced by a rename. `apply` writes the copies first, then the manifest, then `train.py`, then the other files.
`revert` restores `train.py` last. So the manifest describes any interrupted state, and an edited `train.py` refuses to
run in it.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from drqv2_patch.errors import HalfPatched, PatchError, UnknownCheckout
from drqv2_patch.patch.config_edits import CONFIG, ReplayOptions, edit_config
from drqv2_patch.patch.python_edits import PYTHON_EDITS
from drqv2_patch.patch.source import PythonSource, edited

STATE_DIRECTORY = ".drqv2_patch"
_MANIFEST = "manifest.json"
_ORIGINALS = "original"
_TEMPORARY = "replacement.partial"
_VERSION = 1

Condition = Literal["original", "patched", "other"]


@dataclass(frozen=True)
class Manifest:
    """The record of a patch.

    Attributes:
        options: the defaults that the configuration has now.
        original: SHA-256 of each changed file before the patch.
        patched: SHA-256 of each changed file after the patch.
        earlier: as `patched`, with the options before the last change. Files have these if the change was interrupted.
    """

    options: ReplayOptions
    original: Mapping[str, str]
    patched: Mapping[str, str]
    earlier: Mapping[str, str]

    def to_json(self) -> str:
        """Returns the content of the manifest file."""
        digests = {"original": self.original, "patched": self.patched, "earlier": self.earlier}
        data = {"version": _VERSION, "options": self.options._asdict(), **digests}
        return json.dumps(data, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Reads the content of the manifest file.

        Raises:
            ValueError: the text is no JSON, or of another version, or names other files.
            KeyError: an entry is missing.
            TypeError: an entry has another type.
        """
        data: Any = json.loads(text)
        if data["version"] != _VERSION:
            raise ValueError(f"version {data['version']}")
        digests = (dict(data[name]) for name in ("original", "patched", "earlier"))
        manifest = cls(ReplayOptions(**data["options"]), *digests)
        names = set(manifest.original)
        if names != set(manifest.patched) or not names <= {*PYTHON_EDITS, CONFIG}:
            raise ValueError(f"files {sorted(names)}")
        return manifest


class Checkout:
    """A checkout of DrQ-v2.

    Args:
        path: its directory.

    Raises:
        UnknownCheckout: the path is no directory, or lacks a file that the patch edits.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            found = "a file" if self.path.exists() else "nothing"
            raise UnknownCheckout(
                f"{self.path}: expected the directory of a DrQ-v2 checkout, found {found}; check the path"
            )
        for name in (*PYTHON_EDITS, CONFIG):
            if not (self.path / name).is_file():
                raise UnknownCheckout(
                    f"{self.path / name}: expected a file of a DrQ-v2 checkout, found none; give the directory that"
                    " holds its train.py"
                )
        self._state = self.path / STATE_DIRECTORY

    def manifest(self) -> Manifest | None:
        """Returns the record of the patch, or None for an unpatched checkout.

        Raises:
            PatchError: the manifest is damaged.
        """
        path = self._state / _MANIFEST
        try:
            return Manifest.from_json(path.read_text())
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as err:
            raise PatchError(
                f"{path}: expected the manifest of a patch of version {_VERSION}, found something else ({err}); restore"
                f" the checkout with git, and remove {self._state}"
            ) from err

    def conditions(self, manifest: Manifest) -> dict[str, Condition]:
        """Returns the condition of each changed file now."""
        found: dict[str, Condition] = {}
        for name, original in manifest.original.items():
            digest = _digest((self.path / name).read_bytes())
            known = {manifest.patched[name], manifest.earlier.get(name)}
            found[name] = "patched" if digest in known else "original" if digest == original else "other"
        return found

    def check_whole(self) -> None:
        """Checks that all files are patched, or none. Files may have been edited since.

        Raises:
            HalfPatched: some files are patched, and others are not.
        """
        manifest = self.manifest()
        if manifest is None:
            return
        found = self.conditions(manifest)
        restored = [name for name, condition in found.items() if condition == "original"]
        if restored and len(restored) < len(found):
            raise self._half_patched(restored)

    def patched_files(self, options: ReplayOptions) -> dict[str, tuple[bytes, bytes]]:
        """Returns the bytes before and after of each file that the patch of an unpatched checkout changes.

        Raises:
            UnknownCheckout: a file differs in a place that the patch edits.
        """
        return _changes({name: (self.path / name).read_bytes() for name in (*PYTHON_EDITS, CONFIG)}, options)

    def plan(self, options: ReplayOptions) -> dict[str, tuple[bytes, bytes]]:
        """Returns the bytes of each file that `apply` would change, now and then.

        The result is empty if the checkout is patched with these options already.

        Raises:
            UnknownCheckout: a file differs in a place that the patch edits.
            HalfPatched: only some files are patched, or a file was edited since.
        """
        manifest = self.manifest()
        if manifest is not None:
            found = self.conditions(manifest)
            if not all(condition == "original" for condition in found.values()):
                self._require_patched(found)
                return {
                    name: (now, then)
                    for name, (_, then) in _changes(self._all_originals(manifest), options).items()
                    if (now := (self.path / name).read_bytes()) != then
                }
        return self.patched_files(options)

    def apply(self, options: ReplayOptions) -> bool:
        """Patches the checkout, or changes the options of a patched one. If it raises, it has written nothing.

        Returns:
            Whether anything changed.

        Raises:
            UnknownCheckout: a file differs in a place that the patch edits.
            HalfPatched: only some files are patched, or a file was edited since.
        """
        plan = self.plan(options)
        if not plan:
            return False
        manifest = self.manifest()
        if manifest is not None and any(state == "patched" for state in self.conditions(manifest).values()):
            changes = _changes(self._all_originals(manifest), options)
            earlier = manifest.patched
        else:
            changes, earlier = plan, {}
            self._remove_state()
            self._keep({name: before for name, (before, _) in changes.items()})
        digests = {name: (_digest(before), _digest(after)) for name, (before, after) in changes.items()}
        manifest = Manifest(
            options,
            {name: before for name, (before, _) in digests.items()},
            {name: after for name, (_, after) in digests.items()},
            earlier,
        )
        self._replace(self._state / _MANIFEST, manifest.to_json().encode())
        for name in sorted(plan, key=lambda name: name != "train.py"):
            self._replace(self.path / name, plan[name][1])
        return True

    def revert(self, *, discard_edits: bool = False) -> bool:
        """Restores every file byte for byte, from any state. If it raises, it has written nothing.

        Args:
            discard_edits: whether to restore files that were edited since.

        Returns:
            False if nothing is patched.

        Raises:
            HalfPatched: files were edited since.
            PatchError: a kept copy or the manifest is damaged.
        """
        manifest = self.manifest()
        if manifest is None:
            self._remove_state()
            return False
        found = self.conditions(manifest)
        other = [name for name, condition in found.items() if condition == "other"]
        if other and not discard_edits:
            raise HalfPatched(
                f"{self.path / other[0]}: expected it as patched or as it was before, found it edited since"
                f"{_and_others(other)}; keep your edits elsewhere and call revert with --discard-edits"
            )
        originals = self._originals(manifest, [name for name, condition in found.items() if condition != "original"])
        for name in sorted(originals, key=lambda name: name == "train.py"):
            self._replace(self.path / name, originals[name])
        (self._state / _MANIFEST).unlink()
        self._remove_state()
        return True

    def _require_patched(self, found: Mapping[str, Condition]) -> None:
        restored = [name for name, condition in found.items() if condition == "original"]
        other = [name for name, condition in found.items() if condition == "other"]
        if restored:
            raise self._half_patched(restored)
        if other:
            raise HalfPatched(
                f"{self.path / other[0]}: expected it as it was patched, found it edited since{_and_others(other)}; set"
                f" replay_mode and the others in {CONFIG} or on the command line, or call revert before"
            )

    def _half_patched(self, restored: list[str]) -> HalfPatched:
        return HalfPatched(
            f"{self.path / restored[0]}: expected it patched like the other files, found it as it was before"
            f"{_and_others(restored)}; the checkout is half patched: call python -m drqv2_patch revert"
            f" {self.path}, then apply"
        )

    def _all_originals(self, manifest: Manifest) -> dict[str, bytes]:
        """Returns all files before the patch. Files that the patch did not change are read where they are."""
        others = {name: (self.path / name).read_bytes() for name in (*PYTHON_EDITS, CONFIG)}
        return {**others, **self._originals(manifest, list(manifest.original))}

    def _originals(self, manifest: Manifest, names: list[str]) -> dict[str, bytes]:
        originals = {}
        for name in names:
            path = self._state / _ORIGINALS / name
            content = path.read_bytes() if path.is_file() else b""
            if _digest(content) != manifest.original[name]:
                raise PatchError(
                    f"{path}: expected the copy of {name} that was kept, found it missing or altered; restore the"
                    f" checkout with git, and remove {self._state}"
                )
            originals[name] = content
        return originals

    def _keep(self, originals: Mapping[str, bytes]) -> None:
        for name, content in originals.items():
            path = self._state / _ORIGINALS / name
            path.parent.mkdir(parents=True, exist_ok=True)
            self._replace(path, content)
        self._replace(self._state / ".gitignore", b"*\n")

    def _remove_state(self) -> None:
        if self._state.exists():
            shutil.rmtree(self._state)

    def _replace(self, path: Path, content: bytes) -> None:
        """Writes a file under another name, syncs it and renames it. It keeps the permissions of the old file."""
        temporary = self._state / _TEMPORARY
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, temporary)
        temporary.replace(path)


def unified_diff(changes: Mapping[str, tuple[bytes, bytes]]) -> str:
    """Returns the changes in the format of `diff -u`, which `git apply` reads."""
    lines: list[str] = []
    for name, (before, after) in changes.items():
        old, new = (io.StringIO(content.decode(), newline="\n").readlines() for content in (before, after))
        lines += difflib.unified_diff(old, new, f"a/{name}", f"b/{name}")
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def _changes(originals: Mapping[str, bytes], options: ReplayOptions) -> dict[str, tuple[bytes, bytes]]:
    changes = {}
    for name, content in originals.items():
        if name == CONFIG:
            edits = edit_config(name, content, options)
        else:
            edits = PYTHON_EDITS[name](PythonSource(name, content))
        after = edited(content, edits)
        if name != CONFIG:
            PythonSource(name, after)  # raises if the result does not parse
        if after != content:
            changes[name] = (content, after)
    return changes


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _and_others(names: list[str]) -> str:
    return f" ({len(names) - 1} more: {', '.join(names[1:])})" if len(names) > 1 else ""
