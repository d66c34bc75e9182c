"""A function of the user's own as a judge."""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from lit_align.core.errors import AlignError, ConfigError, DataError
from lit_align.judges.base import Columns, CountingPointwise, Judged
from lit_align.rollouts.engine import Prompt

_SHOULD = "give a number, None for what cannot be judged, or (number or None, reason) for each response"


class PythonJudge(CountingPointwise):
    """Scores with a function: `def score(prompts, completions, **columns)`, which returns a list.

    The function gets all responses of a call at once, and gives for each a number, None where it cannot tell, or a
    pair of one of these and a reason.

    Args:
        path: `file.py:function` or `package.module:function`.
        settings: further arguments of the function, by name.
    """

    def __init__(self, path: str, settings: dict[str, Any] | None = None) -> None:
        if ":" not in path:
            raise ConfigError("a function is named with its file", got=f"path: {path}", fix="write file.py:function")
        self.path, self.settings = path, settings or {}

    @cached_property
    def function(self) -> Callable[..., Any]:
        """The user's function.

        Raises:
            ConfigError: it cannot be found, or is no function.
        """
        return load_function(self.path)

    def _score(self, prompts: Sequence[Prompt], completions: Sequence[str], columns: Columns) -> list[Judged]:
        clash = {"prompts", "completions", *self.settings} & set(columns)
        given = {name: list(values) for name, values in columns.items() if name not in clash}
        try:
            results = self.function(list(prompts), list(completions), **given, **self.settings)
        except AlignError:
            raise
        except Exception as error:
            raise self._failed(error, prompts, completions, given) from error
        if isinstance(results, str | Mapping) or not isinstance(results, Iterable):
            what = "a judge's function must give a list"
            raise DataError(what, file=self.path, value=repr(results)[:80], fix=_SHOULD)
        results = list(results)
        if len(results) != len(prompts):
            raise DataError(
                "a judge's function must give one result for each response",
                file=self.path,
                value=f"{len(results)} results for {len(prompts)} responses",
                fix=_SHOULD,
            )
        return [self._read(row, result) for row, result in enumerate(results, start=1)]

    def _failed(
        self, error: Exception, prompts: Sequence[Prompt], completions: Sequence[str], columns: Columns
    ) -> DataError:
        """What to say of a function that has failed: which row makes it fail, if one alone does."""
        for place, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            one = {name: [values[place]] for name, values in columns.items()}
            try:
                self.function([prompt], [completion], **one, **self.settings)
            except Exception as alone:
                what = f"the judge's function failed: {type(alone).__name__}: {alone}"
                fix = "let the function give None for what it cannot judge, and take further columns with **columns"
                return DataError(what, file=self.path, row=place + 1, value=completion, fix=fix)
        what = f"the judge's function failed: {type(error).__name__}: {error}"
        return DataError(what, file=self.path, fix="it fails for all rows together, and for none of them alone")

    def _read(self, row: int, result: Any) -> Judged:
        score, reason = result if isinstance(result, tuple) and len(result) == 2 else (result, "")
        if score is None:
            return Judged(None, str(reason) or "the function gave None")
        try:
            number = float(score)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number) or isinstance(score, str):
            what = "a judge's function gave no finite number"
            raise DataError(what, file=self.path, row=row, value=score, fix=_SHOULD)
        return Judged(number, str(reason))


def load_function(path: str) -> Callable[..., Any]:
    """The function of a path, `file.py:function` or `package.module:function`.

    Raises:
        ConfigError: the file, the module or the function is not there, or fails when it is imported.
    """
    where, _, name = path.rpartition(":")
    try:
        module = _load_file(Path(where).expanduser()) if where.endswith(".py") else importlib.import_module(where)
    except FileNotFoundError:
        raise ConfigError("there is no such file", got=where, fix="check the path") from None
    except Exception as error:
        raise ConfigError(
            f"the judge's code cannot be imported: {type(error).__name__}: {error}",
            got=path,
            fix="write file.py:function, or package.module:function for what Python finds",
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        known = ", ".join(key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))
        raise ConfigError(f"there is no function '{name}'", got=path, fix=f"{where} has: {known or 'none'}")
    return function


def _load_file(file: Path) -> Any:
    if not file.is_file():
        raise FileNotFoundError(file)
    # By its whole path, since two files of one name may be in use.
    name = f"lit_align_judge_{abs(hash(str(file.resolve()))):x}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Classes of the file that are pickled or annotated look their module up.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
