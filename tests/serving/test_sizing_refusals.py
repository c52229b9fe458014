"""What cannot work is refused, by a line that names the setting; what can is not."""

import pytest

from rcjax.config import CacheSettings, Limits, MeshSettings, Settings, ShapeSettings, ShapeSize
from rcjax.model.config import ModelConfig
from rcjax.serving.sizing import CHIPS, BuildRate, Traffic, chip_of, size_deployment

QWEN3_8B = ModelConfig(36, 4096, 32, 8, 128, 12288, 151936, 1e6, 1e-6, 40960, qk_norm=True)
RANK = (
    ShapeSize(fresh_tokens=100, num_pages=48, tiles=100, tile_pages=8),
    ShapeSize(fresh_tokens=768, num_pages=1280),
    ShapeSize(fresh_tokens=2560, num_pages=0),
)
TRAFFIC = Traffic()
BUILD = (ShapeSize(fresh_tokens=512, num_pages=16),)


def settings(**changes):
    given = {
        "dtype": "bfloat16",
        "cache": CacheSettings(pool_bytes=40 * 2**30),
        "shapes": ShapeSettings(rank=RANK, build=BUILD),
    }
    return Settings(**given | changes)


def size(of, device="h100", config=QWEN3_8B, traffic=TRAFFIC, **options):
    return size_deployment(of, config, chip_of(device, of.mesh.num_devices), traffic, disk_bytes_per_s=2e9, **options)


def test_what_fits_is_not_refused():
    found = size(settings())
    assert found.refusals == ()
    assert found.memory.free > 0


def shapes(*more, rank=RANK, build=BUILD):
    return ShapeSettings(rank=(*rank, *more), build=build)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cache": CacheSettings(pool_bytes=60 * 2**30)}, "cache.pool_bytes=64,424,509,440 puts"),
        ({"cache": CacheSettings(pool_bytes=2**30)}, "cache.pool_bytes=1,073,741,824 is 454 pages"),
        ({"attention": "pallas_tpu"}, "attention='pallas_tpu' does not run on h100"),
        ({"shapes": shapes(RANK[0])}, "shapes.rank[3] is there twice"),
        (
            {
                "shapes": shapes(ShapeSize(fresh_tokens=3000, num_pages=0)),
                "limits": Limits(max_candidates=10, max_item_tokens=100, max_history_tokens=200),
            },
            "shapes.rank[3] (3000 fresh tokens, 0 pages) can be used by no request: all within limits that it holds "
            "fit 2560 fresh tokens, 0 pages",
        ),
        (
            {"shapes": shapes(ShapeSize(fresh_tokens=768, num_pages=4000))},
            "shapes.rank[3] (768 fresh tokens, 4000 pages) can be used by no request: all within limits that it holds "
            "fit 768 fresh tokens, 1280 pages",
        ),
        (
            {"arms": {"rcjax": Settings().arms["rcjax"]}, "default_arm": "rcjax"},
            "shapes.rank[0] can be used by no request: it has tiles",
        ),
        ({"limits": Limits(max_candidates=676)}, "limits.max_candidates=676 is more than any shape"),
        (
            {
                "limits": Limits(max_history_tokens=40_900),
                "shapes": shapes(build=(ShapeSize(fresh_tokens=40_900, num_pages=16),)),
            },
            "limits.max_history_tokens allows",
        ),
        ({"shapes": shapes(build=(ShapeSize(fresh_tokens=512, num_pages=4),))}, "no shape of shapes.build has 512"),
        (
            {
                "arms": {"full": Settings().arms["full"]},
                "default_arm": "full",
                "shapes": shapes(rank=(ShapeSize(fresh_tokens=500, num_pages=0),)),
            },
            "no shape of shapes.rank holds one candidate of mean length in arm full",
        ),
    ],
)
def test_what_cannot_work_is_refused_by_name(changes, said):
    found = size(settings(**changes))
    assert any(said in line for line in found.refusals), found.refusals


def test_longest_texts_that_no_shape_holds_are_refused():
    tiled = shapes(rank=(ShapeSize(fresh_tokens=100, num_pages=46, tiles=100, tile_pages=8),))
    arms = {"parallel": Settings().arms["parallel"]}
    found = size(settings(arms=arms, default_arm="parallel", shapes=tiled))
    assert len(found.refusals) == 1
    assert "limits.max_item_tokens=192 beside limits.max_history_tokens=512" in found.refusals[0]


def test_weights_that_leave_too_little_room_ask_for_more_devices():
    found = size(settings(attention="pallas_tpu"), device="v5e")
    assert [line for line in found.refusals if "leave room for" in line and "raise mesh.tensor" in line]
    assert size(settings(attention="pallas_tpu", mesh=MeshSettings(tensor=8)), device="v5e").refusals == ()


def test_the_pool_that_a_refusal_advises_fits():
    (refusal,) = size(settings(cache=CacheSettings(pool_bytes=70 * 2**30))).refusals
    advised = int(refusal.split("lower it to ")[1].split(", or")[0].replace(",", ""))
    assert size(settings(cache=CacheSettings(pool_bytes=advised))).refusals == ()
    assert size(settings(cache=CacheSettings(pool_bytes=advised + 2**28))).refusals != ()


def test_heads_that_cannot_be_split_end_it():
    with pytest.raises(ValueError, match=r"mesh.tensor=3 does not divide the model's 8 kv heads; .* \[1, 2, 4, 8\]"):
        size(settings(mesh=MeshSettings(tensor=3)))


def test_fp8_pages_are_refused_where_the_kernel_has_no_types_for_them():
    cache = CacheSettings(pool_bytes=20 * 2**30, kv_dtype="fp8")
    found = size(settings(cache=cache, attention="pallas_gpu"), device="a100-80")
    assert any("kv_dtype=fp8" in line for line in found.refusals)
    assert size(settings(cache=cache, attention="pallas_gpu"), device="h100").refusals == ()


def test_an_unknown_device_is_told_the_known_ones():
    with pytest.raises(ValueError, match=f"'b200' is not known; use one of {', '.join(CHIPS)}, cpu"):
        chip_of("b200", 1)


def test_timed_passes_count_for_more_than_the_data_sheet():
    traffic = Traffic(item_tokens=100, history_tokens=300, num_items=1000, num_users=10)
    mesh = MeshSettings(slices=4)
    modelled = size(settings(mesh=mesh), traffic=traffic).seconds
    timed = size(settings(mesh=mesh), traffic=traffic, timed=BuildRate(5_000, "timed: here")).seconds
    assert timed.build_s == pytest.approx((1000 * 100 + 10 * 300) / 5_000 / 4)
    assert timed.basis == "timed: here"
    flops = 2 * 6.95e9 * (1000 * 100 + 10 * 300)  # of the layers' products alone, without attention
    assert flops / 989e12 / 4 < modelled.build_s < 1.1 * flops / 989e12 / 4
    assert modelled.restore_s == pytest.approx(modelled.num_bytes / 2e9)
