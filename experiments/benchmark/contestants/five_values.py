"""A gymnax environment whose ``step`` returns five values, as it did before gymnax 1.0, for libraries that expect them."""

from __future__ import annotations

import functools
import operator
from typing import Any


class FiveValues:
    """Everything of ``env``; ``done`` is whether the episode terminated or was cut, and ``info`` holds no observations."""

    def __init__(self, env: Any) -> None:
        self.env = env

    def __getattr__(self, name: str) -> Any:
        if name == "env":  # asked for by `copy`, before there is one
            raise AttributeError(name)
        return getattr(self.env, name)

    def step(self, key: Any, state: Any, action: Any, params: Any = None) -> tuple[Any, ...]:
        """``(obs, state, reward, done, info)``."""
        obs, state, reward, *ended, info = self.env.step(key, state, action, params)
        kept = {name: value for name, value in info.items() if name == "discount"}
        return obs, state, reward, functools.reduce(operator.or_, ended), kept
