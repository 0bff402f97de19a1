"""jaxpg render: a policy before and after training as a GIF or as Brax's page, a picture for each environment, refusals."""

import collections
import dataclasses
import functools
import itertools
import sys
import types

import jax
import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

import jaxpg
from jaxpg.envs import LegalActions
from jaxpg.lab.cli import commands as cli
from jaxpg.lab.engine import devices
from jaxpg.lab.policies import render, viewer

SIZES = {"total-steps": 512, "num-envs": 4, "num-steps": 32, "epochs": 1, "hidden": 8, "seeds": 2, "eval-episodes": 2}
SMALL = [word for name, size in SIZES.items() for word in (f"--{name}", size)]


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    monkeypatch.setattr(devices, "use_all_cores", lambda: None)


@pytest.fixture(scope="module")
def run(jaxpg_process, tmp_path_factory):
    """The directory of a tiny run."""
    place = tmp_path_factory.mktemp("render")
    process = jaxpg_process(["train", "ppo", *SMALL, "--run-dir", place / "run"], place / "log")
    assert process.wait(timeout=300) == 0, (place / "log").read_text()
    return place / "run"


def frames(path):
    with Image.open(path) as gif:
        return [np.array(gif.convert("RGB")) for gif.n in range(gif.n_frames) if not gif.seek(gif.n)]


def test_a_run_becomes_a_gif_whose_pictures_differ(run, tmp_path, capsys):
    out = tmp_path / "new" / "policy.gif"
    assert cli.main(["render", str(run), "--out", str(out), "--steps", "20", "--seed", "1", "--fps", "20"]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    pictures = frames(out)
    assert len(pictures) == 10, "every second step of CartPole"
    left, right = np.split(pictures[-1], 2, axis=1)
    assert all((a != b).any() for a, b in itertools.pairwise(pictures))
    assert (left != right).any()
    with Image.open(out) as gif:
        assert gif.info["duration"] == 50
    assert out.stat().st_size < 200_000


def test_before_training_is_the_network_that_the_run_began_with(jaxpg_process, tmp_path):
    """Step sizes of zero keep it: what the checkpoint holds after training is what each seed began with."""
    still = [
        "--learning-rate",
        0,
        "--critic-learning-rate",
        0,
        "--seed",
        7,
        "--observation",
        "none",
        "--run-dir",
        tmp_path / "run",
    ]
    process = jaxpg_process(["train", "ppo", *SMALL, *still], tmp_path / "log")
    assert process.wait(timeout=300) == 0, (tmp_path / "log").read_text()
    origin = render.loading.of_setting(tmp_path / "run")
    stored, _ = render.loading.load_states(origin, [0, 1], None)
    for seed in (0, 1):
        kept = jax.tree.map(lambda x, seed=seed: x[seed], stored.params)
        jax.tree.map(np.testing.assert_array_equal, render.start(origin, seed).params, kept)
    first, other = (jax.tree.leaves(render.start(origin, seed).params) for seed in (0, 1))
    assert any((a != b).any() for a, b in zip(first, other, strict=True)), "each seed has its own"


def test_episodes_follow_each_other_and_are_counted():
    algo = jaxpg.ppo(jaxpg.make("CartPole-v1"), hidden=(8,))
    seen = render.watch(algo, algo.init(jax.random.key(0)), jax.random.key(1), 520)
    obs, episode_return, ended = map(np.asarray, (seen.obs, seen.episode_return, seen.ended))
    starts = np.flatnonzero(np.diff(ended, prepend=-1))
    assert starts.size > 1, "no episode is longer than 500 steps"
    assert np.all(np.abs(obs[starts]) <= 0.05), "fresh ones"
    np.testing.assert_array_equal(episode_return, np.arange(520) - starts[ended] + 1)
    states = np.array([[state.x, state.x_dot, state.theta, state.theta_dot] for state in seen.states])
    np.testing.assert_array_equal(states, obs)


BAD = {
    "--seed 2": "has the seeds 0 to 1",
    "--seed -1": "seed = -1 must be at least 0",
    "--step 5": "step = 5",
    "--steps 0": "steps = 0 must be at least 1",
    "--fps 0": "fps = 0 must be at least 1",
    "--out film.mp4": "must end with .gif",
    "--out film.html": "out = film.html must end with .gif, the format for CartPole-v1",
    "--out config.json/policy.gif": "cannot be written",
}


@pytest.mark.parametrize("line", BAD)
def test_bad_input_gets_one_line(run, line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text("precious")
    assert cli.main(["render", str(run), *line.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert BAD[line] in err
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@functools.cache
def drawn(env, key):
    """Pixels of a state of ``env`` 5 random steps after its start, drawn as a GIF draws it."""
    e = jaxpg.make(env)
    params = e.default_params
    _, state = e.reset(jax.random.key(key), params)
    step, draw = jax.jit(e.step), jax.jit(e.action_space(params).sample)
    for t in range(5):
        _, state, *_ = step(jax.random.key(t), state, draw(jax.random.fold_in(jax.random.key(key), t)), params)
    figure = Figure(figsize=(2, 2))
    canvas = FigureCanvasAgg(figure)
    scene = render.scene_of(env, e, params)
    assert scene.of_state
    scene.draw(figure.add_subplot(), jax.device_get(state))
    canvas.draw()
    return np.asarray(canvas.buffer_rgba()).copy()


@pytest.mark.parametrize(
    "env", ["Breakout-MinAtar", "Asterix-MinAtar", "Catch-bsuite", "FourRooms-misc", "PointRobot-misc", "Pong-misc"]
)
def test_what_gymnax_can_draw_shows_its_state(env):
    pixels = drawn(env, 0)
    assert len(np.unique(pixels.reshape(-1, 4), axis=0)) > 2
    assert any((pixels != drawn(env, other)).any() for other in (1, 2, 3))
    assert not pyplot.get_fignums(), "no figure is left open"


class Mine:
    """An environment with a picture of its own: two pixels, of which one is the state."""

    def render(self, state, params):
        return np.array([[state, params]])


def test_an_environment_draws_itself():
    axes = Figure().add_subplot()
    render.scene_of("mine", LegalActions(Mine()), 0.25).draw(axes, 0.75)
    np.testing.assert_array_equal(axes.images[0].get_array(), [[0.75, 0.25]])


def test_a_render_that_fails_is_one_line_and_no_file(tmp_path):
    seen = render.Seen([None], [None], [0.0], [0])
    with pytest.raises(
        ValueError, match=r"mine cannot be drawn: render\(state, params\) fails: TypeError: Image data"
    ) as caught:
        render.film(render.scene_of("mine", Mine(), 1.0), {"before": seen}, "mine", tmp_path / "mine.gif", 25)
    assert str(caught.value).isprintable()
    assert not list(tmp_path.iterdir())


def test_an_environment_without_a_picture_is_refused_in_one_line():
    others = "those of MinAtar and Brax, and environments with a method render"
    with pytest.raises(ValueError, match="SimpleBandit-bsuite cannot be drawn; those that can: CartPole-v1, .*, " + others):
        render.scene_of("SimpleBandit-bsuite", jaxpg.make("SimpleBandit-bsuite"), None)


class System:
    """A stand-in for Brax's, whose step is shorter than that of a policy."""

    timestep = 0.01

    def tree_replace(self, values):
        assert values == {"opt.timestep": 0.05}
        return "in real time"


class Ant(type("Env", (), {"__module__": "brax.envs.base"})):
    """A stand-in for an environment of Brax."""

    sys, dt = System(), 0.05


@dataclasses.dataclass(frozen=True)
class Adapter:
    """Tells nothing of what it wraps."""

    env: object


State = collections.namedtuple("State", "inner time")


def test_brax_is_found_below_wrappers_and_draws_its_physics_on_a_page(monkeypatch):
    ant = Ant()
    assert viewer.brax_env(LegalActions(Adapter(ant))) is ant
    assert viewer.brax_env(LegalActions(jaxpg.make("Pendulum-v1"))) is None
    calls = []

    def draw(system, states, **options):
        calls.append((system, states))
        return "<p title='x'>\"viewer\"</p>"

    for name in ("brax", "brax.io", "brax.io.html"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["brax.io"].html = types.SimpleNamespace(render=draw)
    states = [State(types.SimpleNamespace(pipeline_state=t, obs=np.zeros(2)), t) for t in range(3)]
    page = viewer.page(ant, {"before <b>": states[:1], "after": states}, "brax/ant")
    assert calls == [("in real time", [0]), ("in real time", [0, 1, 2])]
    assert page.count("&lt;p title=&#x27;x&#x27;&gt;&quot;viewer&quot;&lt;/p&gt;") == 2
    assert "before &lt;b&gt;" in page


def test_a_run_on_brax_becomes_a_page(run, tmp_path, monkeypatch, capsys):
    """Which of the two is asked by the environment, and gives the ending."""
    monkeypatch.setattr(viewer, "brax_env", lambda env: env)
    monkeypatch.setattr(viewer, "page", lambda env, seen, title: f"{title}: {[len(states) for states in seen.values()]}")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["render", str(run), "--steps", "5"]) == 0
    assert capsys.readouterr().out == "policy.html\n"
    assert (tmp_path / "policy.html").read_text() == "CartPole-v1: [5, 5]"
    assert cli.main(["render", str(run), "--out", "policy.gif"]) == 2
    assert "out = policy.gif must end with .html" in capsys.readouterr().err


@functools.cache
def picture(env, index):
    """Pixels of one observation of ``env``."""
    figure = Figure(figsize=(2, 2))
    canvas = FigureCanvasAgg(figure)
    e = jaxpg.make(env)
    obs, _ = jax.vmap(e.reset, (0, None))(jax.random.split(jax.random.key(3), 4), e.default_params)
    render.SCENES[env].draw(figure.add_subplot(), np.asarray(obs)[index])
    canvas.draw()
    return np.asarray(canvas.buffer_rgba()).copy()


@pytest.mark.parametrize("env", render.SCENES)
def test_every_scene_shows_what_the_observation_says(env):
    pixels = picture(env, 0)
    assert len(np.unique(pixels.reshape(-1, 4), axis=0)) > 10
    assert any((pixels != picture(env, other)).any() for other in (1, 2, 3))
    assert (pixels == picture(env, 0)).all()
