"""jaxpg render: a GIF of a policy before and after training, a picture for each environment, refusals in one line."""

import functools
import itertools

import jax
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

import jaxpg
from jaxpg.lab.cli import commands as cli
from jaxpg.lab.config import Config
from jaxpg.lab.engine import devices
from jaxpg.lab.policies import render

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
    obs, episode_return, ended = map(np.asarray, render.watch(algo, algo.init(jax.random.key(0)), jax.random.key(1), 520))
    starts = np.flatnonzero(np.diff(ended, prepend=-1))
    assert starts.size > 1, "no episode is longer than 500 steps"
    assert np.all(np.abs(obs[starts]) <= 0.05), "fresh ones"
    np.testing.assert_array_equal(episode_return, np.arange(520) - starts[ended] + 1)


BAD = {
    "--seed 2": "has the seeds 0 to 1",
    "--seed -1": "seed = -1 must be at least 0",
    "--step 5": "step = 5",
    "--steps 0": "steps = 0 must be at least 1",
    "--fps 0": "fps = 0 must be at least 1",
    "--out film.mp4": "must end with .gif",
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


def test_an_environment_without_a_picture_is_refused_in_one_line(monkeypatch, capsys, tmp_path):
    config = Config("ppo", env="Catch-bsuite", run_dir="x")
    origin = render.loading.Origin(tmp_path, config, "", 0, None, None)
    monkeypatch.setattr(render.loading, "of_setting", lambda *_: origin)
    with pytest.raises(ValueError, match="Catch-bsuite cannot be drawn; those that can: CartPole-v1, MountainCar-v0") as caught:
        render.write(tmp_path, tmp_path / "policy.gif")
    assert str(caught.value).isprintable()


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
