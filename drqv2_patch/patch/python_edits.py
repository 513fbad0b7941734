"""Finds the edits of the Python files of a checkout, by structure."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping

from drqv2_patch.patch.source import Edit, PythonSource, called_name, differs, dotted

_NAMES = {"ReplayBufferStorage": 2, "make_replay_loader": 7}  # name: number of arguments that train.py passes
_RENDERING = "MUJOCO_GL"
_USED = (
    *("cfg", "work_dir", "agent", "timer", "train_env", "eval_env", "replay_storage", "replay_loader"),
    *("global_frame", "_global_step", "_global_episode"),
)


def edit_train(source: PythonSource) -> list[Edit]:
    """Returns the edits of `train.py`: the store, Hydra's version, snapshots, and the user's choice of rendering."""
    workspace = source.definition(ast.ClassDef, "Workspace")
    stored = {dotted(node) for node in source.every(ast.Attribute, workspace, lambda node: True)}
    for name in _USED:
        if f"self.{name}" not in stored:
            raise differs(source.name, f"an attribute {name} of Workspace", "none")
    if source.every(ast.Name, None, lambda node: node.id == "training"):
        raise differs(source.name, "no name 'training', which the patch adds", "one")
    return [
        *_check(source),
        *_rendering(source),
        _import(source),
        *_main(source),
        *(_buffer_call(source, workspace, name) for name in _NAMES),
        *_snapshots(source, workspace),
    ]


def _check(source: PythonSource) -> list[Edit]:
    """Adds the check above the first import, because an imported file may be unpatched."""
    first = next(
        node
        for node in source.tree.body
        if isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and node.module != "__future__")
    )
    lines = ("from drqv2_patch.patch.preflight import require_whole", "require_whole(__file__)")
    return [source.insert_above(first, line) for line in lines]


def _rendering(source: PythonSource) -> list[Edit]:
    edits = []
    for statement in source.every(ast.Assign, None, lambda node: len(node.targets) == 1):
        target = statement.targets[0]
        if not isinstance(target, ast.Subscript) or dotted(target.value) != "os.environ":
            continue
        if isinstance(target.slice, ast.Constant) and target.slice.value == _RENDERING:
            chosen = source.text(statement.value)
            edits.append(source.replace(statement, f"os.environ.setdefault({_RENDERING!r}, {chosen})"))
    return edits


def _import(source: PythonSource) -> Edit:
    names = " and ".join(_NAMES)
    found = source.one(
        f"import of {names} from replay_buffer",
        ast.ImportFrom,
        None,
        lambda node: node.module == "replay_buffer" and not node.level,
    )
    if {(alias.name, alias.asname) for alias in found.names} != {(name, None) for name in _NAMES}:
        raise differs(source.name, f"an import of {names} from replay_buffer", source.text(found))
    return source.replace(found, f"from drqv2_patch import {', '.join(_NAMES)}, training")


def _main(source: PythonSource) -> list[Edit]:
    main = source.definition(ast.FunctionDef, "main")
    decorators = [
        node for node in main.decorator_list if isinstance(node, ast.Call) and called_name(node) == "hydra.main"
    ]
    if len(main.decorator_list) != 1 or len(decorators) != 1:
        raise differs(
            source.name, "main with the decorator hydra.main(...) alone", f"{len(main.decorator_list)} of them"
        )
    (hydra_main,) = decorators
    keywords = {keyword.arg for keyword in hydra_main.keywords}
    if "version_base" in keywords or not keywords:
        raise differs(source.name, "hydra.main(...) with keywords, without version_base", source.text(hydra_main))
    source.one("call of load_snapshot in main", ast.Call, main, _calls("load_snapshot"))
    return [
        source.append_argument(hydra_main, "version_base='1.3'"),
        source.insert_below(hydra_main, "@training.run", main.col_offset),
    ]


def _buffer_call(source: PythonSource, workspace: ast.ClassDef, name: str) -> Edit:
    call = source.one(f"call of {name} in Workspace", ast.Call, workspace, lambda node: called_name(node) == name)
    count = len(call.args) + len(call.keywords)
    if count != _NAMES[name] or any(keyword.arg is None for keyword in call.keywords):
        raise differs(source.name, f"{_NAMES[name]} arguments to {name}", f"{count}: {source.text(call)}")
    options = {"ReplayBufferStorage": "storage_options", "make_replay_loader": "loader_options"}[name]
    return source.append_argument(call, f"**training.{options}(self.cfg)")


def _snapshots(source: PythonSource, workspace: ast.ClassDef) -> list[Edit]:
    train, save, load = (
        source.definition(ast.FunctionDef, name, workspace) for name in ("train", "save_snapshot", "load_snapshot")
    )
    condition = source.one(
        "condition on cfg.save_snapshot in Workspace.train that calls save_snapshot",
        ast.If,
        train,
        lambda node: (
            dotted(node.test) == "self.cfg.save_snapshot"
            and bool(source.every(ast.Call, node, _calls("save_snapshot")))
        ),
    )
    return [
        source.replace(condition.test, "training.snapshot_is_due(self)"),
        source.insert_above(train.body[0], "training.start(self)"),
        source.insert_below(train.body[-1], "training.finish(self)"),
        source.replace_body(save, "training.save_snapshot(self)"),
        source.replace_body(load, "training.load_snapshot(self)"),
    ]


def _calls(method: str) -> Callable[[ast.Call], bool]:
    return lambda node: isinstance(node.func, ast.Attribute) and node.func.attr == method


def edit_environment(source: PythonSource) -> list[Edit]:
    """Returns the edits of `dmc.py`: a discount of 0 stays 0, and the wrapper that scales actions returns float32."""
    source.definition(ast.ClassDef, "ActionDTypeWrapper")
    make = source.definition(ast.FunctionDef, "make")
    scaling = source.one(
        "statement env = action_scale.Wrapper(...) in make",
        ast.Assign,
        make,
        lambda node: (
            isinstance(node.value, ast.Call)
            and called_name(node.value) == "action_scale.Wrapper"
            and [dotted(target) for target in node.targets] == ["env"]
        ),
    )
    discount = source.one(
        "expression that puts 1.0 in the place of a discount with 'or'", ast.BoolOp, None, _is_discount_or
    )
    name = source.text(discount.values[0])
    return [
        source.insert_below(scaling, "env = ActionDTypeWrapper(env, np.float32)"),
        source.replace(discount, f"1.0 if {name} is None else {name}"),
    ]


def _is_discount_or(node: ast.BoolOp) -> bool:
    left, right = node.values[0], node.values[-1]
    return (
        isinstance(node.op, ast.Or)
        and len(node.values) == 2
        and isinstance(left, ast.Attribute)
        and left.attr == "discount"
        and isinstance(right, ast.Constant)
        and right.value == 1.0
    )


def drop_torchvision(source: PythonSource) -> list[Edit]:
    """Returns the edits that remove imports of torchvision, if nothing uses it."""
    if source.every(ast.Name, None, lambda node: node.id == "torchvision"):
        return []
    imports = source.every(ast.Import, None, lambda node: [alias.name for alias in node.names] == ["torchvision"])
    return [source.remove(node) for node in imports if node in source.tree.body]


def check_timer(source: PythonSource) -> list[Edit]:
    """Checks that `Timer` has the attribute that a resumed run sets. Returns no edits."""
    timer = source.definition(ast.ClassDef, "Timer")
    if not source.every(ast.Attribute, timer, lambda node: node.attr == "_start_time"):
        raise differs(source.name, "an attribute _start_time of Timer", "none")
    return []


PYTHON_EDITS: Mapping[str, Callable[[PythonSource], list[Edit]]] = {
    "train.py": edit_train,
    "dmc.py": edit_environment,
    "logger.py": drop_torchvision,
    "video.py": drop_torchvision,
    "utils.py": lambda source: [*drop_torchvision(source), *check_timer(source)],
}
"""By file of a checkout: the function that returns its edits."""
