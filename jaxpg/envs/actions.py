"""Legal actions: clip and round the actions of a policy to the action space."""

from __future__ import annotations

import dataclasses
from typing import Any

from gymnax.environments.spaces import Box, Dict, Tuple

from jaxpg.core import _resets as resets
from jaxpg.core import spaces
from jaxpg.core.types import Array, PyTree


@dataclasses.dataclass(frozen=True)
class LegalActions:
    """The environment with the nearest legal action in place of each action; see ``jaxpg.envs.with_legal_actions``.

    >>> from jaxpg.envs import make
    >>> env = LegalActions(make("Pendulum-v1"))
    >>> float(env.legalize(5.0, env.default_params))
    2.0
    """

    env: Any

    def __getattr__(self, name: str) -> Any:
        if name == "env":  # not set yet, for example while unpickling
            raise AttributeError(name)
        return getattr(self.env, name)

    def step(self, key: Array, state: PyTree, action: PyTree, params: PyTree) -> tuple:
        """The inner environment's step with the legal action."""
        return self.env.step(key, state, self.legalize(action, params), params)

    def halves(self) -> tuple[resets.Draw, resets.Step]:
        """Likewise, see ``jaxpg.core._resets.halves``."""
        draw, step = resets.halves(self.env)
        return draw, lambda drawn, state, action, params: step(drawn, state, self.legalize(action, params), params)

    def legalize(self, action: PyTree, params: PyTree) -> PyTree:
        """The nearest legal action; ``action`` may have leading batch axes."""
        return spaces.legalize(self.env.action_space(params), action)


def with_legal_actions(env: Any) -> Any:
    """``env`` where each action is replaced by the nearest legal one: clipped to a ``Box``, and rounded if that holds integers.

    Only the environment sees the legal action: the trajectory, and so the log-probability, has the policy's own. ``jaxpg.ppo``
    and the other functions use this by themselves.

    Args:
        env: The environment.

    Returns:
        The environment with legal actions; ``env`` itself where its action space has no ``Box``, or actions are legal already.

    Examples:
        >>> import jaxpg
        >>> env = jaxpg.envs.with_legal_actions(jaxpg.make("Pendulum-v1"))  # torques in [-2, 2]
        >>> float(env.legalize(5.0, env.default_params))
        2.0
    """
    if isinstance(env, LegalActions) or not hasattr(env, "action_space"):
        return env
    return LegalActions(env) if has_box(env.action_space(env.default_params)) else env


def legalize(env: Any, action: PyTree, params: PyTree) -> PyTree:
    """The nearest legal action of an environment: clipped to a ``Box``, and rounded in a ``Box`` of integers.

    Args:
        env: The environment.
        action: An action, which may have leading batch axes.
        params: Parameters of the environment.

    Returns:
        The legal action; ``action`` itself where the action space has no ``Box``.

    Examples:
        >>> import jaxpg
        >>> env = jaxpg.make("Pendulum-v1")
        >>> float(jaxpg.envs.legalize(env, 5.0, env.default_params))
        2.0
    """
    legal = with_legal_actions(env)
    return legal.legalize(action, params) if isinstance(legal, LegalActions) else action


def has_box(space: Any) -> bool:
    """Whether one leaf of the space is a ``Box``."""
    if isinstance(space, Dict | Tuple):
        return any(has_box(child) for _, child, _ in spaces.children(space, ""))
    return isinstance(space, Box)
