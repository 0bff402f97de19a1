"""Show policies side by side on an HTML page with Brax's own viewer."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from jaxpg.core.types import PyTree

HEIGHT = 480  # pixels of a viewer
STYLE = f"body{{font:14px sans-serif}}main{{display:flex}}figure{{flex:1}}iframe{{width:100%;height:{HEIGHT + 20}px;border:0}}"


def brax_env(env: Any) -> Any:
    """Find the environment of Brax (``brax.envs.base.Env``) inside ``env``, through wrappers; ``None`` if there is none.

    It is recognised by the names of its classes, because Brax may not be installed.
    """
    while env is not None and "brax.envs.base" not in {kind.__module__ for kind in type(env).__mro__}:
        env = getattr(env, "env", None) or getattr(env, "source", None)
    return env


def page(env: Any, seen: Mapping[str, Sequence[PyTree]], title: str) -> str:
    """An HTML page of states of Brax's ``env``, with a viewer for each policy in ``seen``; scripts come from the network."""
    from brax.io import html as brax_html  # pyright: ignore[reportMissingImports] - installed with such an environment

    system = env.sys.tree_replace({"opt.timestep": env.dt})  # the duration of one step of the policy, for real-time playback
    figures = []
    for name, states in seen.items():
        viewer = brax_html.render(system, [*map(pipeline_state, states)], height=HEIGHT, colab=False)
        figures.append(f'<figure>{html.escape(name)}<iframe srcdoc="{html.escape(viewer)}"></iframe></figure>')
    head = f'<!doctype html><meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    return f"{head}<h3>{html.escape(title)}</h3><main>{''.join(figures)}</main>"


def pipeline_state(state: PyTree) -> Any:
    """Find the physics state of Brax inside an environment's state."""
    parts = jax.tree.leaves(state, is_leaf=lambda part: hasattr(part, "pipeline_state"))
    return next(part.pipeline_state for part in parts if hasattr(part, "pipeline_state"))
