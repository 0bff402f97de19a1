"""Studies and benchmarks, each a module to run: ``python -m experiments.results``. All of them compute on all CPU cores."""

from jaxpg.lab.engine import devices

devices.use_all_cores()  # before a study imports gymnax, which makes JAX look for devices
