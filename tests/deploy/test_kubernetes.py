"""The manifests as kustomize renders them: valid by Kubernetes' schemas, and of one mind with the settings in them."""

import subprocess
import sys
from functools import cache
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from rcjax.config import load_settings
from rcjax.serving.telemetry.catalogue import METRICS

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
KUBECTL = Path(sys.executable).parent / "kubectl"
VERSIONS = ("1.31", "1.35")  # the schemas that manifests are held against

each_overlay = pytest.mark.parametrize("overlay", ["gpu", "tpu"])


@cache
def rendered(overlay):
    command = [KUBECTL, "kustomize", FOLDER / "overlays" / overlay]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def resources(overlay):
    return list(yaml.safe_load_all(rendered(overlay)))


def of_kind(overlay, kind):
    return {resource["metadata"]["name"]: resource for resource in resources(overlay) if resource["kind"] == kind}


def pod(overlay):
    return of_kind(overlay, "StatefulSet")["rcjax"]["spec"]["template"]


def container(overlay):
    (only,) = pod(overlay)["spec"]["containers"]
    return only


@pytest.fixture
def settings(overlay, tmp_path):
    """Loaded from the ConfigMap, from where the container has it."""
    (config,) = of_kind(overlay, "ConfigMap").values()
    file = tmp_path / "etc" / "rcjax" / "config" / "config.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(config["data"]["config.yaml"])
    return load_settings(file)


@each_overlay
@pytest.mark.parametrize("version", VERSIONS)
def test_every_resource_is_valid(overlay, version):
    found = resources(overlay)
    assert {resource["kind"] for resource in found} == {
        "ConfigMap",
        "HorizontalPodAutoscaler",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "Service",
        "StatefulSet",
    }
    for resource in found:
        kubernetes_validate.validate(resource, version, strict=True)


def test_what_is_no_manifest_is_seen():
    resource = of_kind("gpu", "StatefulSet")["rcjax"]
    resource["spec"]["template"]["spec"]["containers"][0]["prots"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(resource, VERSIONS[-1], strict=True)


def test_the_example_of_secrets_is_valid_and_holds_none():
    secrets = list(yaml.safe_load_all((FOLDER / "secrets.example.yaml").read_text()))
    mounted = {v["secret"]["secretName"] for v in pod("gpu")["spec"]["volumes"] if "secret" in v}
    assert {secret["metadata"]["name"] for secret in secrets} == mounted
    for secret in secrets:
        kubernetes_validate.validate(secret, VERSIONS[-1], strict=True)
        assert all(
            not line or line.startswith("#") for text in secret["stringData"].values() for line in text.split("\n")
        )


@each_overlay
def test_the_container_listens_where_the_settings_say(overlay, settings):
    ports = {port["name"]: port["containerPort"] for port in container(overlay)["ports"]}
    server, telemetry = settings.server, settings.telemetry
    assert ports == {"grpc": server.port, "admin": server.admin_port, "metrics": telemetry.metrics_port}
    assert server.host == server.admin_host == telemetry.metrics_host == "0.0.0.0"
    for service in of_kind(overlay, "Service").values():
        assert service["spec"]["selector"].items() <= pod(overlay)["metadata"]["labels"].items()
        assert all(ports[port["targetPort"]] == port["port"] for port in service["spec"]["ports"])
    (policy,) = of_kind(overlay, "NetworkPolicy").values()
    assert {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]} == set(ports)


@each_overlay
def test_files_of_the_settings_are_mounted(overlay, settings, tmp_path):
    mounts = {mount["mountPath"]: mount["name"] for mount in container(overlay)["volumeMounts"]}
    tls = settings.server.tls
    paths = {path.resolve().relative_to(tmp_path.resolve()) for path in (tls.cert, tls.key, settings.server.tokens)}
    assert {str(Path("/") / path.parent) for path in paths} == {"/etc/rcjax/tls", "/etc/rcjax/tokens"} <= set(mounts)
    for place in (settings.model, str(settings.catalogue.paths["folder"])):
        assert mounts["/" + Path(place).parts[1]] == "models"
    assert mounts[str(Path(settings.snapshot.where).parent)] == "state"


@each_overlay
def test_probes_ask_for_health_with_the_mounted_ca(overlay):
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        command = container(overlay)[name]["exec"]["command"]
        assert command[:5] == ["rcjax-probe", "--ca", "/etc/rcjax/tls/ca.crt", "--name", "rcjax"]
    assert container(overlay)["readinessProbe"]["exec"]["command"][-1] == "rcjax.v1.Recommender"


@each_overlay
def test_what_is_asked_of_a_node_is_what_the_settings_take(overlay, settings):
    limits = container(overlay)["resources"]["limits"]
    (devices,) = (int(limits[name]) for name in limits if name in ("nvidia.com/gpu", "google.com/tpu"))
    assert devices == settings.mesh.num_devices
    memory = int(limits["memory"].removesuffix("Gi")) * 2**30
    assert memory >= settings.cache.host_bytes + 2**34  # and 16 GiB of weights on their way to the devices
    assert pod(overlay)["spec"]["terminationGracePeriodSeconds"] > settings.server.grace_s


@each_overlay
def test_it_scales_by_a_metric_that_there_is(overlay):
    (scaler,) = of_kind(overlay, "HorizontalPodAutoscaler").values()
    (metric,) = scaler["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] in {known.name for known in METRICS}
    target = scaler["spec"]["scaleTargetRef"]
    assert target["name"] in of_kind(overlay, target["kind"])
    assert "replicas" not in of_kind(overlay, "StatefulSet")["rcjax"]["spec"]
    (budget,) = of_kind(overlay, "PodDisruptionBudget").values()
    assert budget["spec"]["selector"]["matchLabels"].items() <= pod(overlay)["metadata"]["labels"].items()


@each_overlay
def test_the_container_has_no_rights_that_it_needs_not(overlay):
    assert pod(overlay)["spec"]["securityContext"]["runAsNonRoot"]
    security = container(overlay)["securityContext"]
    assert security["readOnlyRootFilesystem"]
    assert not security["allowPrivilegeEscalation"]
    assert security["capabilities"] == {"drop": ["ALL"]}
