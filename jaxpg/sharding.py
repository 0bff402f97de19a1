"""One run on several devices, which share its environments."""

from jaxpg.loops.sharding import layout, place, shard_envs

__all__ = ["layout", "place", "shard_envs"]
