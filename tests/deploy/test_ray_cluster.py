"""The manifests for KubeRay as kustomize renders them: valid by the operator's schema, and as their settings say."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from rcjax.config import load_settings

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes" / "ray"
KUBECTL = Path(sys.executable).parent / "kubectl"
SCHEMA = json.loads((Path(__file__).parent / "raycluster.schema.json").read_text(encoding="utf-8"))
VERSION = "1.35"


@cache
def rendered():
    command = [KUBECTL, "kustomize", FOLDER]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def resources():
    return list(yaml.safe_load_all(rendered()))


def cluster():
    (found,) = (one for one in resources() if one["kind"] == "RayCluster")
    return found


def templates():
    """The pods by the name of their group."""
    spec = cluster()["spec"]
    groups = {group["groupName"]: group["template"] for group in spec["workerGroupSpecs"]}
    return {"head": spec["headGroupSpec"]["template"], **groups}


def group(name):
    return next(one for one in cluster()["spec"]["workerGroupSpecs"] if one["groupName"] == name)


def container(name):
    (only,) = templates()[name]["spec"]["containers"]
    return only


@pytest.fixture
def settings(tmp_path):
    (config,) = (one for one in resources() if one["kind"] == "ConfigMap")
    file = tmp_path / "etc" / "rcjax" / "config" / "config.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(config["data"]["config.yaml"])
    return load_settings(file)


def test_every_resource_is_valid():
    kinds = []
    for resource in resources():
        kinds.append(resource["kind"])
        if resource["kind"] == "RayCluster":
            jsonschema.validate(resource, SCHEMA)
        else:
            kubernetes_validate.validate(resource, VERSION, strict=True)
    assert sorted(kinds) == ["ConfigMap", "NetworkPolicy", "NetworkPolicy", "RayCluster", "Service", "Service"]


@pytest.mark.parametrize("name", ["head", "hosts", "front"])
def test_every_pod_is_valid(name):
    """KubeRay's schema has Kubernetes' own for pods, which is held against them as part of a resource that has it."""
    template = templates()[name]
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": template["metadata"]["labels"]}, "template": template},
    }
    kubernetes_validate.validate(deployment, VERSION, strict=True)


def test_what_is_no_manifest_is_seen():
    wrong = cluster()
    wrong["spec"]["workerGroupSpecs"][0]["replica"] = 1
    with pytest.raises(jsonschema.ValidationError, match="'replica' was unexpected"):
        jsonschema.validate(wrong, SCHEMA)


def test_a_host_has_the_devices_that_the_settings_take(settings):
    asked = container("hosts")["resources"]["limits"]
    assert settings.cluster.device == "GPU"
    assert int(asked["nvidia.com/gpu"]) == settings.mesh.num_devices
    assert float(group("hosts")["rayStartParams"]["num-cpus"]) >= settings.cluster.cpus
    assert int(asked["memory"].removesuffix("Gi")) * 2**30 >= settings.cache.host_bytes + 2**35
    assert group("hosts")["maxReplicas"] <= settings.cluster.max_hosts
    assert group("hosts")["replicas"] == settings.cluster.hosts
    assert settings.snapshot.where is None, "a cluster refuses it"


def test_nothing_is_placed_beside_the_front_ends(settings):
    assert group("front")["rayStartParams"]["num-cpus"] == "0"
    assert settings.cluster.cpus > 0
    assert group("front")["replicas"] > 1


def test_front_ends_serve_what_the_hosts_have(settings):
    (command,) = container("front")["args"]
    assert "rcjax serve --config /etc/rcjax/config/config.yaml --cluster auto" in command
    assert all("$KUBERAY_GEN_RAY_START_CMD" in container(name)["args"][0] for name in templates())
    ports = {port["name"]: port["containerPort"] for port in container("front")["ports"]}
    server, telemetry = settings.server, settings.telemetry
    assert ports == {"grpc": server.port, "admin": server.admin_port, "metrics": telemetry.metrics_port}
    mounts = {mount["mountPath"] for mount in container("front")["volumeMounts"]}
    for name in templates():
        assert {mount["mountPath"] for mount in container(name)["volumeMounts"]} == mounts, "all read the same files"
    assert {"/etc/rcjax/config", "/etc/rcjax/tls", "/etc/rcjax/tokens", "/models", "/dev/shm"} == mounts


def test_clients_reach_front_ends_and_nothing_else():
    policies = {one["metadata"]["name"]: one["spec"] for one in resources() if one["kind"] == "NetworkPolicy"}
    all_pods = policies["rcjax-ray"]["podSelector"]["matchLabels"].items()
    fronts = policies["rcjax-front"]["podSelector"]["matchLabels"].items()
    for name, template in templates().items():
        labels = template["metadata"]["labels"].items()
        assert all_pods <= labels
        assert (fronts <= labels) == (name == "front")
    for service in (one for one in resources() if one["kind"] == "Service"):
        assert service["spec"]["selector"].items() <= templates()["front"]["metadata"]["labels"].items()
    assert {port["port"] for rule in policies["rcjax-front"]["ingress"] for port in rule["ports"]} <= {
        port["name"] for port in container("front")["ports"]
    }


@pytest.mark.parametrize("name", ["head", "hosts", "front"])
def test_ray_tells_nobody_and_pods_have_no_rights_that_they_need_not(name):
    assert {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"} in container(name)["env"]
    assert templates()[name]["spec"]["securityContext"]["runAsNonRoot"]
    assert container(name)["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert container(name)["image"] == "rcjax:cuda-ray"
