"""One run over several devices."""

from jaxpg.loops.sharding import layout as layout
from jaxpg.loops.sharding import place as place
from jaxpg.loops.sharding import shard_envs as shard_envs
