"""Import it before gymnax: one CPU device per core, as the ``jaxpg`` command has."""

from jaxpg.lab.engine import devices

devices.use_all_cores()
