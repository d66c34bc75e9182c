"""Hooks that keep out of a module's state what training does not change."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lit_align.core.module import AlignmentModule


def save_only_what_changes(module: AlignmentModule) -> None:
    """Have `state_dict` leave out what is rebuilt from `policy`, and `load_state_dict` not miss it."""
    module.strict_loading = False
    module.register_state_dict_post_hook(_leave_out_what_stays)
    module.register_load_state_dict_post_hook(_miss_nothing_that_stays)


def _leave_out_what_stays(module: AlignmentModule, state: dict[str, Any], prefix: str, _: Any) -> None:
    """Drops what is rebuilt from `policy`; a hook, so that wrappers such as averages of weights get the same."""
    own = {name.removeprefix(prefix) for name in state if name.startswith(prefix)}
    for name in own - module.saved_names(own):
        del state[prefix + name]


def _miss_nothing_that_stays(module: AlignmentModule, incompatible: Any) -> None:
    """Lets wrappers load what they have saved."""
    own = {name for name, _ in chain(module.named_parameters(), module.named_buffers())}
    left_out = tuple(own - module.saved_names(own))
    incompatible.missing_keys[:] = [name for name in incompatible.missing_keys if not name.endswith(left_out)]
