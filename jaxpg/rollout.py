"""How a policy acts in environments: ``(key, env, env_params, actor, loop, num_steps) -> (loop, trajectory)``."""

from jaxpg.core.rollout import continuing, episodic, reset

__all__ = ["continuing", "episodic", "reset"]
