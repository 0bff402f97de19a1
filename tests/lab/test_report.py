"""The report: what is on the page, where its numbers come from, that it needs no other file, and how a browser shows it."""

import base64
import hashlib
import html
import html.parser
import itertools
import json
import math
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from scipy.stats import trim_mean

from jaxpg import stats
from jaxpg.lab.config import Config
from jaxpg.lab.report import landscape, text
from jaxpg.lab.report import page as report
from jaxpg.lab.report.rows import summarize_settings
from jaxpg.lab.store import log, results, stored
from jaxpg.lab.store.files import BATCH, BATCHES, CONFIG, METRICS, RESULT, write_json

ABOUT = {"device": {"platform": "cpu", "count": 2}, "versions": {"python": "3.11", "jaxpg": "0.1.0"}}
OPTIONS = {"total_steps": 500, "learning_rate": 0.001, "gamma": 0.98, "hidden": [64, 64]}
RATES = {"learning_rate": [0.0001, 0.001, 0.01]}
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


class Page(html.parser.HTMLParser):
    """What a page is made of: tags with their attributes, and the text of each cell of each table."""

    def __init__(self, path):
        super().__init__()
        self.source, self.tags, self.tables, self.words = path.read_text(), [], [], []
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        if tag == "wbr":  # where a line may break
            return
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_data(self, data):
        self.words.append(data)
        if [tag for tag, _ in self.tags[-1:]] in (["td"], ["th"]) and data.strip():
            self.tables[-1][-1][-1] += data

    @property
    def text(self):
        return " ".join(self.words)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def column(self, head):
        """Cells of the first table below ``head``."""
        first, *rest = self.tables[0]
        return [line[first.index(head)] for line in rest]


def write(directory, config, about, groups):
    """An experiment on the disk; ``groups`` are ``(runs, steps [P], curves [R, P], returns [R] or None, diverged_at [R])``."""
    config = Config(own=True, **config)
    plain = {name: value for name, value in config.to_dict().items() if name != "run_dir"}
    identity = stored.identity(config, None)
    directory.mkdir(parents=True)
    write_json(directory / CONFIG, {"format": stored.FORMAT, "identity": identity, **plain, "algorithm": None, **about})
    for runs, steps, curves, returns, diverged_at in groups:
        folder = directory / BATCHES / f"{runs[0]:07d}"
        folder.mkdir(parents=True)
        write_json(folder / BATCH, {"identity": identity, "runs": runs, "width": len(runs)})
        with log.Log(folder / METRICS) as file:
            for p, step in enumerate(steps):
                file.write(log.rows([divmod(run, config.seeds) for run in runs], p + 1, step, {"episode_return": curves[:, p]}))
            if returns is not None:
                both = {"greedy_return": list(returns), "sampled_return": list(returns)}
                result = {"identity": identity, "runs": runs, "num_updates": len(steps), "returns": both, "log": file.seal}
                result |= {"diverged_at": list(diverged_at), "digests": [""] * len(runs)}
                write_json(folder / RESULT, result | {"seconds": {"compile": 1.0, "train": 2.0}})
    return directory


def sweep(directory, vary, n=6, env="CartPole-v1", diverged=(), done=None, last=None, about=ABOUT):
    """A sweep on the disk: scores of setting ``i`` are about ``440 + 20 i``; ``diverged`` are (i, seed).

    The first ``done`` settings are there, of the last of them ``last`` seeds.
    """
    count = math.prod(map(len, vary.values()))
    rng = np.random.default_rng(0)
    done = count if done is None else done
    groups = []
    for i in range(done):
        scores = 440 + 20 * i + rng.uniform(-30, 30, n).round(1)
        curves = np.stack([scores * share for share in (0.1, 0.6, 1.0)], axis=-1)
        lost = [2 * ((i, seed) in diverged) for seed in range(n)]
        seeds = range(n)[: last if i == done - 1 else n]
        groups.append(
            ([i * n + seed for seed in seeds], [100, 300, 500], curves[seeds], scores[seeds].tolist(), [lost[s] for s in seeds])
        )
    config = {"algo": "ppo", "env": env, "seeds": n, "eval_episodes": 8, "options": OPTIONS, "vary": vary}
    return write(directory, config, about, groups)


def train(directory, n=4, finished=True, algo="ppo", env="CartPole-v1", score=480.0, steps=500, options=OPTIONS):
    """A run on the disk."""
    scores = score + np.arange(n)
    curves = np.stack([np.linspace(20, 30, n), scores], axis=-1)[:, : 2 if finished else 1]
    group = list(range(n)), [250, steps][: curves.shape[1]], curves, scores.tolist() if finished else None, [0] * n
    return write(directory, {"algo": algo, "env": env, "seeds": n, "eval_episodes": 8, "options": options}, ABOUT, [group])


def page(directories, tmp_path):
    return Page(report.write(directories, tmp_path / "out" / "report.html"))


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep with one diverged seed, its scores as NumPy has them, and the file of its report."""
    folder = tmp_path_factory.mktemp("swept")
    directory = sweep(folder / "sweep", RATES, diverged=[(0, 2)])
    run = results.read(directory)
    return run, report.write([directory], folder / "report.html")


def test_the_table_holds_the_statistics_of_the_scores(swept):
    run, path = swept
    read = Page(path)
    scores = run.returns["greedy_return"]
    assert read.column("learning_rate") == ["0.0001", "0.001", "0.01 ★"]
    assert read.column("mean") == [text.NONE, *(f"{np.mean(row):.0f}" for row in scores[1:])]
    ranked = np.sort(np.where(np.isnan(scores), -np.inf, scores), axis=1)
    assert read.column("median") == [f"{value:.0f}" for value in np.median(ranked, axis=1)]
    assert read.column("IQM") == [f"{value:.0f}" for value in ranked[:, 1:5].mean(axis=1)]
    low, high = stats.bootstrap_interval(scores[1])
    assert read.column("95 % interval")[1] == f"{low:.0f} to {high:.0f}"  # half of it has two digits
    assert read.column("95 % interval")[0].startswith("-inf to ")
    assert read.column("diverged") == ["1: seed 2", "0", "0"]
    solved = [int(np.sum(row >= 475)) for row in scores]
    for cell, count in zip(read.column("solved"), solved, strict=True):
        low, high = stats.exact_interval(count, 6)
        assert cell == f"{count} of 6 ({100 * low:.0f} to {100 * high:.0f} %)"
    improvement = [np.mean([a > b if a != b else 0.5 for a in scores[2] for b in row]) for row in ranked]
    assert [cell[:4] for cell in read.column("P(best above)")[:2]] == [f"{value:.2f}" for value in improvement[:2]]


def test_steps_to_the_threshold_count_who_never_got_there(swept):
    run, path = swept
    reached = (run.metrics["episode_return"] >= 475).any(axis=-1).sum(axis=-1)
    assert len(set(reached)) > 1
    expected = [f"{'500' if count > 3 else 'over 500'} ({count} of 6)" for count in reached]
    assert Page(path).column("steps to threshold") == expected


def test_the_page_loads_nothing_from_the_network_and_runs_no_script(swept):
    read = Page(swept[1])
    policy = next(meta["content"] for meta in read.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert not {"script", "link", "iframe", "object", "embed", "a", "form"} & {tag for tag, _ in read.tags}
    assert not re.search(r"https?://|url\(|@import", read.source)
    for attributes in (attributes for _, attributes in read.tags):
        assert not [name for name in attributes if name.startswith("on")]
        assert attributes.get("src", "data:").startswith("data:")


def test_the_page_is_made_for_screen_readers_and_phones(swept):
    read = Page(swept[1])
    assert read.all("html") == [{"lang": "en"}]
    assert len(read.all("title")) == len(read.all("h1")) == len(read.all("main")) == 1
    assert all(image["alt"] for image in read.all("img"))
    assert len(read.all("img")) == len(read.all("figcaption")) == 3  # curves, profile, sensitivity
    assert all(cell["scope"] in ("col", "row") for cell in read.all("th"))
    assert len(read.all("caption")) == len(read.tables) == 2
    assert any(meta.get("name") == "viewport" for meta in read.all("meta"))


def test_the_configuration_lists_options_device_and_versions(swept):
    lines = {line[0]: line[1:] for table in Page(swept[1]).tables[1:] for line in table}
    assert lines["learning_rate"] == ["0.0001, 0.001, 0.01 (varied)"]
    assert lines["hidden"] == ["64x64"]
    assert lines["device: platform"] == ["cpu"]
    assert lines["versions: jaxpg"] == ["0.1.0"]


def test_a_single_run(tmp_path):
    read = page([train(tmp_path / "run")], tmp_path)
    assert read.column("run") == ["run"]
    assert read.column("IQM") == ["481.5"]
    assert "P(best above)" not in read.text  # there is nothing to compare it with
    assert "Not finished" not in read.text


def test_runs_of_several_algorithms_and_environments(tmp_path):
    runs = [
        train(tmp_path / "a"),
        train(tmp_path / "b", algo="a2c", score=400.0),
        sweep(tmp_path / "c", RATES, env="Pendulum-v1"),
    ]
    read = page(runs, tmp_path)
    assert "ppo, a2c on CartPole-v1; ppo on Pendulum-v1" in read.words
    assert read.column("run") == ["a ★", "b"]
    assert read.column("algorithm") == ["ppo", "a2c"]
    assert "solved" not in read.tables[1][0]  # no return is known from which Pendulum is
    assert read.tables[1][0][:2] == ["learning_rate", "seeds"]


def test_two_directories_of_one_name_are_told_apart(tmp_path):
    first, second = train(tmp_path / "x" / "run"), train(tmp_path / "y" / "run", score=400.0)
    assert page([first, second, first], tmp_path).column("run") == [f"{first} ★", f"{second}"]


def test_two_varied_hyperparameters_have_a_heat_map(tmp_path):
    vary = {"learning_rate": [0.001, 0.01], "observation": ["none", "running"]}
    read = page([sweep(tmp_path / "sweep", vary, n=3)], tmp_path)
    titles = [image["alt"] for image in read.all("img")]
    assert titles[2:] == [
        f"ppo on CartPole-v1: {words}" for words in ("learning_rate", "observation", "learning_rate and observation")
    ]


@pytest.mark.parametrize("done", [0, 2])
def test_settings_that_are_not_finished_are_counted(tmp_path, done):
    read = page([sweep(tmp_path / "sweep", RATES, done=done)], tmp_path)
    assert f"Not finished: {3 - done} of 3 settings, {6 * (3 - done)} seeds without a final score." in read.words
    assert read.column("seeds") == ["6"] * done + ["0 of 6"] * (3 - done)


def test_an_unfinished_setting_is_not_the_best_and_counts_its_finished_seeds(tmp_path):
    read = page(
        [sweep(tmp_path / "sweep", {"gamma": [0.9, 0.95, 0.98, 0.99, 1.0]}, last=2)], tmp_path
    )  # the last are above 490
    assert read.column("gamma")[3:] == ["0.99 ★", "1"]
    assert read.column("seeds") == ["6"] * 4 + ["2 of 6"]
    assert read.column("solved")[4].startswith("2 of 2 (")
    assert read.column("steps to threshold")[4] == "500 (2 of 2)"


def test_an_unfinished_run_has_only_its_learning_curve(tmp_path):
    read = page([train(tmp_path / "run", finished=False)], tmp_path)
    assert "Not finished: 1 of 1 setting, 4 seeds without a final score." in read.words
    assert read.column("IQM") == [text.NONE]
    assert [image["alt"] for image in read.all("img")] == ["Learning curves on CartPole-v1"]


def test_one_seed_has_no_interval(tmp_path):
    read = page([sweep(tmp_path / "sweep", RATES, n=1, about={})], tmp_path)
    assert read.column("95 % interval") == [text.NONE] * 3
    assert "nan" not in read.text


def test_if_all_diverged_none_is_the_best(tmp_path):
    lost = list(itertools.product(range(3), range(6)))
    read = page([sweep(tmp_path / "sweep", RATES, diverged=lost)], tmp_path)
    assert read.column("diverged") == ["6: seeds 0-5"] * 3
    assert "★" not in read.text
    assert "nan" not in read.text


def test_markup_in_a_configuration_is_shown_as_text(tmp_path):
    name = "<script>alert('x')<&script>"
    directory = sweep(tmp_path / name, {'<b a="c">': ["<i>", "&amp;"]}, n=2, about={"versions": {"<u>": "<s>"}})
    read = page([directory, train(tmp_path / "other")], tmp_path)
    assert not {"script", "b", "i", "u", "s"} & {tag for tag, _ in read.tags}
    assert read.column("run")[0].startswith(name)
    assert read.column('<b a="c">')[:2] == ["<i>", "&amp;"]
    assert ["versions: <u>", "<s>", text.NONE] in read.tables[-1]


def test_control_characters_are_shown_and_never_sent(tmp_path):
    hostile, shown = "\x1b[31m\n\u202e[link=x]\x07", r"\x1b[31m\n\u202e[link=x]\x07"
    directory = sweep(
        tmp_path / hostile,
        {hostile: [hostile, "a"], "gamma": [0.9, 0.99]},
        n=2,
        env=hostile,
        about={"versions": {hostile: hostile}},
    )
    read = page([directory, train(tmp_path / "other", algo=hostile)], tmp_path)
    assert all(c.isprintable() or c == "\n" for c in read.source)
    head, *lines = read.tables[0]
    assert head[0] == shown
    assert [line[0].removesuffix(" ★") for line in lines] == [shown, shown, "a", "a"]
    assert f"ppo on {shown}; {shown} on CartPole-v1" in read.words
    assert [f"versions: {shown}", shown, text.NONE] in read.tables[-1]
    assert f"ppo on {shown}: {shown}" in [image["alt"] for image in read.all("img")]


def test_runs_of_different_budgets_are_compared_with_a_warning(tmp_path):
    same, longer = train(tmp_path / "a", steps=1000), train(tmp_path / "b", steps=1500)
    rounded, unfinished = train(tmp_path / "c", steps=1004), train(tmp_path / "d", finished=False)
    steps = "environment steps per seed range from 1,000 (a) to 1,500 (b)"
    words = f"Not the same budget: {steps}; higher returns may be due to more steps."
    assert words in page([same, longer, rounded], tmp_path).words
    assert "budget" not in page([same, rounded, unfinished], tmp_path).text


def test_a_run_of_an_algorithm_that_has_no_name_has_its_page(tmp_path):
    directory = train(tmp_path / "run", algo="", env="", options={"total_steps": 500})
    read = page([directory], tmp_path)
    assert read.column("run") == ["run"]
    assert read.words.count("Results") == 3  # the title of the window, that of the page, and the section
    assert " on " not in "".join(image["alt"] for image in read.all("img"))


def test_refusals_are_one_line(tmp_path):
    run = train(tmp_path / "run")
    (tmp_path / "file").write_text("")
    for directories, out, words in (
        ([], tmp_path / "r.html", "at least one"),
        ([tmp_path], tmp_path / "r.html", "holds no experiment"),
        ([run], tmp_path / "file" / "r.html", "cannot be written"),
        ([run], tmp_path / "a\nb.pdf", r"a\\nb.pdf: the report is an HTML page; give a name that ends in .html"),
        ([run], tmp_path / "report", "give a name that ends in .html"),
    ):
        with pytest.raises(ValueError, match=words) as refusal:
            report.write(directories, out)
        assert "\n" not in str(refusal.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "run"]


MANY = {"learning_rate": [i / 1000 for i in range(1, 31)], "gamma": [0.9, 0.95, 0.98, 0.99]}


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A sweep of 120 settings, of which the later are better, and the file of its report."""
    folder = tmp_path_factory.mktemp("many")
    directory = sweep(folder / "sweep", MANY, n=3, diverged=[(119, 1), (0, 0), (0, 1), (0, 2)], done=119)
    return results.read(directory), report.write([directory], folder / "report.html")


def test_of_many_settings_the_best_have_a_table_and_curves_and_each_hyperparameter_a_figure(many):
    run, path = many
    read = Page(path)
    iqm = run.returns["greedy_return"].mean(axis=1)  # of three seeds
    order = np.argsort(-np.nan_to_num(iqm, nan=-np.inf))[:20]
    assert [cell.removesuffix(" ★") for cell in read.column("setting")] == [f"{i}" for i in order]
    assert read.column("gamma") == [text.format_value(run.settings[i]["gamma"]) for i in order]
    titles = [f"{name} on CartPole-v1" for name in ("Learning curves", "Performance profile")]
    assert [image["alt"] for image in read.all("img")] == [*titles, *(f"ppo on CartPole-v1: {name}" for name in MANY)]
    assert "Not finished: 1 of 120 settings, 3 seeds without a final score." in read.words
    assert read.text.count("The best 8 of 120 settings.") == 2


def table_of(path):
    """The data of the table to search, as columns by head."""
    (data,) = re.findall(r'<script type="application/json">(.*?)</script>', path.read_text())
    data = json.loads(data)
    columns = [[c["values"][i] for i in c["places"]] if "places" in c else c["values"] for c in data["columns"]]
    return dict(zip(data["heads"], columns, strict=True))


def test_the_table_of_all_settings_has_their_numbers(many):
    run, path = many
    table = table_of(path)
    assert list(table) == ["setting", *MANY, "IQM", "low", "high", "mean", "done", "diverged"]
    assert sorted(table["setting"]) == list(range(120))
    for i, line in zip(table["setting"], zip(*table.values(), strict=True), strict=True):
        found = dict(zip(table, line, strict=True))
        assert [found[name] for name in MANY] == [text.format_value(run.settings[i][name]) for name in MANY]
        assert (found["done"], found["diverged"]) == (3 * (i < 119), run.diverged[i].sum())
        scores = run.returns["greedy_return"][i]
        assert found["IQM"] == (None if np.isnan(scores).any() else pytest.approx(scores.mean(), abs=0.51))
        if found["IQM"] is not None:
            assert found["low"] <= found["IQM"] <= found["high"]
    assert table["IQM"][:-2] == sorted(table["IQM"][:-2], reverse=True)


def test_the_page_of_many_settings_runs_its_own_script_and_nothing_else(many, tmp_path):
    read = Page(many[1])
    policy = next(meta["content"] for meta in read.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    (script,) = re.findall("<script>(.*?)</script>", read.source, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.split("; ")[0] == "default-src 'none'"
    assert re.findall("script-src (.*)", policy) == [f"'sha256-{digest}'"]
    assert read.all("script") == [{"type": "application/json"}, {}]
    assert not re.search(r"https?://|url\(|@import", read.source)
    assert not re.search(r"innerHTML|eval|Function", script)
    hostile, gammas = "</script><script>alert(1)</script>", [i / 100 for i in range(60)]
    path = report.write([sweep(tmp_path / "x", {hostile: [hostile, "a"], "gamma": gammas}, n=2)], tmp_path / "r.html")
    assert len(Page(path).all("script")) == 2
    assert hostile in table_of(path)


def test_effects_on_average_are_those_of_all_settings_with_a_value(many):
    run, _ = many
    scores = summarize_settings(run)
    figure, caption = landscape.marginal(run, "gamma", scores)
    iqm = np.array([score["iqm"] for score in scores])[:119]
    groups = [iqm[[setting["gamma"] == value for setting in run.settings[:119]]] for value in MANY["gamma"]]
    ranked = [np.where(np.isnan(group), -1e6, group) for group in groups]
    line, best = figure.axes[0].lines
    np.testing.assert_allclose(line.get_ydata(), [trim_mean(group, 0.25) for group in ranked])
    np.testing.assert_allclose(best.get_ydata(), [group.max() for group in ranked])
    assert "over 29 to 30 settings at each value" in caption
    assert "1 setting diverged and counted as the worst." in caption
    figure, _ = landscape.marginal(run, "learning_rate", scores)
    assert len(figure.axes[0].lines[0].get_ydata()) == landscape.GROUPS, "thirty values are groups"


def browse(tmp_path, path, *options):
    """What a headless browser says of the page, on a home of its own."""
    base = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'browser'}"]
    home = os.environ | {"HOME": str(tmp_path)}
    return subprocess.run([*base, *options, path.as_uri()], capture_output=True, text=True, timeout=60, env=home, check=True)


@pytest.mark.skipif(CHROMIUM is None, reason="no browser on this machine: the page was not looked at (apt install chromium)")
def test_a_browser_shows_the_page(swept, tmp_path):
    picture = tmp_path / "page.png"
    browse(tmp_path, swept[1], f"--screenshot={picture}", "--window-size=1240,1600")
    pixels = imread(picture)[..., :3]
    assert pixels.shape[:2] == (1600, 1240)
    assert 0.003 < np.mean(pixels.std(axis=-1) > 0.05) < 0.5  # curves in colour, much paper
    dom = tmp_path / "dom.html"
    dom.write_text(browse(tmp_path, swept[1], "--dump-dom").stdout)
    assert Page(dom).tables == Page(swept[1]).tables
    assert Path(swept[1]).stat().st_size < 2**20


@pytest.mark.skipif(CHROMIUM is None, reason="no browser on this machine: the page was not looked at (apt install chromium)")
def test_nothing_is_cut_at_a_width_of_1100_pixels(tmp_path):
    vary = {"critic_learning_rate": [0.0001, 0.001], "max_grad_norm": [0.5, 1.0]}
    runs = [
        sweep(tmp_path / "sweep", vary, diverged=[(0, 2)]),
        train(tmp_path / "a2c_CartPole-v1_seed0_20250101-120000", algo="a2c"),
    ]
    report.write(runs, tmp_path / "report.html")
    measure = "frames[0].document.querySelectorAll('.scroll, body')].map(x => x.scrollWidth - x.clientWidth)"
    frame = f'<iframe src=report.html width=1100 onload="document.title = JSON.stringify([...{measure})"></iframe>'
    (tmp_path / "frame.html").write_text(frame)
    dom = browse(tmp_path, tmp_path / "frame.html", "--allow-file-access-from-files", "--dump-dom").stdout
    assert list(map(json.loads, re.findall("<title>(.*)</title>", dom))) == [[0, 0, 0]]


@pytest.mark.skipif(CHROMIUM is None, reason="no browser on this machine: the page was not looked at (apt install chromium)")
def test_a_browser_searches_and_sorts_the_table_of_all_settings(many, tmp_path):
    (tmp_path / "report.html").write_text(many[1].read_text())
    (tmp_path / "frame.html").write_text("""<iframe src=report.html width=1280 height=900></iframe><script>
      onload = () => {
        const page = frames[0].document, box = page.querySelector(".search"), says = [];
        const say = () => says.push([box.querySelector("[role=status]").textContent,
          [...box.querySelectorAll("tbody tr")].map(line => line.cells[0].textContent)]);
        const search = words => {
          Object.assign(box.querySelector("input"), { value: words }).dispatchEvent(new Event("input")); say();
        };
        say();
        box.querySelector(".later").click(); say();
        search("gamma=0.98 iqm>900");
        search("no such setting");
        search("gamma=0.9");
        box.querySelector("thead button").click(); say();
        box.querySelector("thead button").click(); say();
        document.title = JSON.stringify(says);
      };</script>""")
    dom = browse(tmp_path, tmp_path / "frame.html", "--allow-file-access-from-files", "--dump-dom").stdout
    (says,) = map(json.loads, map(html.unescape, re.findall("<title>(.*)</title>", dom)))
    table = table_of(many[1])
    numbers, iqm = list(map(str, table["setting"])), dict(zip(table["setting"], table["IQM"], strict=True))
    assert says[0] == ["1 to 25 of 120 settings", numbers[:25]]
    assert says[1] == ["26 to 50 of 120 settings", numbers[25:50]]
    found = [f"{i}" for i in table["setting"] if many[0].settings[i]["gamma"] == 0.98 and (iqm[i] or 0) > 900]
    assert says[2] == [f"1 to {len(found)} of {len(found)} of 120 settings", found]
    assert says[3] == ["0 of 120 settings", []]
    assert says[4][0] == "1 to 25 of 30 of 120 settings", "0.9 is neither 0.95 nor 0.98"
    assert says[5][1] == [f"{i}" for i in range(116, 16, -4)]
    assert says[6][1] == [f"{i}" for i in range(0, 100, 4)]
