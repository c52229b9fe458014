"""Settings of the mesh: what a file may say, and errors that name the field."""

import pytest
from pydantic import ValidationError

from rcjax.config import MeshSettings, load_settings


def read(folder, text):
    path = folder / "deployment.yaml"
    path.write_text(text, encoding="utf-8")
    return load_settings(path)


def test_every_setting_of_the_mesh_is_read(tmp_path):
    text = """
mesh:
  slices: 4
  tensor: 2
  placement: hash
  scheduler: {policy: affinity, alpha: 0.5, beta: 2, max_imbalance: 1.5}
  replica_share: 0.2
  cpu_devices: 8
  request_log: 1000
"""
    mesh = read(tmp_path, text).mesh
    assert (mesh.slices, mesh.tensor, mesh.num_devices, mesh.cpu_devices) == (4, 2, 8, 8)
    assert (mesh.placement, mesh.placement_file) == ("hash", None)
    assert mesh.scheduler.model_dump() == {"policy": "affinity", "alpha": 0.5, "beta": 2.0, "max_imbalance": 1.5}
    assert (mesh.replica_share, mesh.request_log) == (0.2, 1000)


def test_a_placement_file_is_found_from_the_file_that_names_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert read(tmp_path, "mesh: {placement: learnt.json}").mesh.placement_file == tmp_path / "learnt.json"
    assert read(tmp_path, "mesh: {placement: ~/learnt.json}").mesh.placement_file == tmp_path / "home" / "learnt.json"
    assert read(tmp_path, "mesh: {placement: all}").mesh == MeshSettings()


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("{slices: 0}", "mesh.slices"),
        ("{tensor: 0}", "mesh.tensor"),
        ("{placement: ''}", "mesh.placement"),
        ("{replica_share: 1.5}", "mesh.replica_share"),
        ("{cpu_devices: 0}", "mesh.cpu_devices"),
        ("{scheduler: {policy: luck}}", "mesh.scheduler.policy"),
        ("{scheduler: {alpha: -1}}", "mesh.scheduler.alpha"),
        ("{scheduler: {alpha: .inf}}", "mesh.scheduler.alpha"),
        ("{scheduler: {max_imbalance: 0.5}}", "mesh.scheduler.max_imbalance"),
        ("{scheduler: {alpha: 0, beta: 0}}", "mesh.scheduler: .*alpha and beta are both 0"),
        ("{devices: 4}", "mesh.devices"),
    ],
)
def test_errors_name_the_field(tmp_path, text, field):
    with pytest.raises(ValueError, match=field) as caught:
        read(tmp_path, f"mesh: {text}")
    assert "\n" not in str(caught.value)


def test_settings_do_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        MeshSettings().slices = 2
