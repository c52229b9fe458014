"""From settings to the owners of items and to a policy."""

import numpy as np
import pytest

from rcjax.cache.placement import Placement
from rcjax.config import MeshSettings, SchedulerSettings
from rcjax.serving.routing import owners_of, policy_of

IDS = [f"i{n}" for n in range(40)]


def placed(folder, num_slices):
    """The file of a placement in which item n stands on slice n modulo their number."""
    file = folder / "placement.json"
    Placement.of_part(IDS, np.arange(len(IDS)) % num_slices, num_slices).save(file)
    return file


def test_all_puts_items_on_every_slice_and_hash_on_one():
    everywhere, hashed = (owners_of(MeshSettings(slices=3, placement=name)) for name in ("all", "hash"))
    assert {everywhere.slices_of(item_id) for item_id in IDS} == {(0, 1, 2)}
    assert {hashed.slices_of(item_id) for item_id in IDS} == {(0,), (1,), (2,)}


def test_a_file_says_where_its_items_stand(tmp_path):
    owners = owners_of(MeshSettings(slices=4, placement=str(placed(tmp_path, 4))))
    assert [owners.slices_of(item_id) for item_id in IDS[:5]] == [(0,), (1,), (2,), (3,), (0,)]


def test_a_file_that_cannot_be_used_is_refused_by_name(tmp_path):
    file = placed(tmp_path, 4)
    with pytest.raises(ValueError, match=r"placement.json' is on 4 slices, and mesh.slices=2; .*--slices 2"):
        owners_of(MeshSettings(slices=2, placement=str(file)))
    with pytest.raises(ValueError, match=r"mesh.placement='nowhere.json' is no file; give all, hash, or"):
        owners_of(MeshSettings(placement="nowhere.json"))
    file.write_text("{}")
    with pytest.raises(ValueError, match=r"placement.json: no placement"):
        owners_of(MeshSettings(slices=4, placement=str(file)))


@pytest.mark.parametrize("name", ["time", "affinity", "round_robin", "least_loaded", "hit_only"])
def test_each_policy_is_the_one_that_is_named(name):
    assert policy_of(SchedulerSettings(policy=name)).name == name


def test_affinity_weighs_as_the_settings_say():
    policy = policy_of(SchedulerSettings(policy="affinity", alpha=0.25, beta=3))
    assert (policy.alpha, policy.beta) == (0.25, 3.0)
