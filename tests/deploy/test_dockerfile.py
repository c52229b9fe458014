"""The Dockerfile by its linter, what it copies, and the probe that it runs."""

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
import trustme
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
HADOLINT = Path(sys.executable).parent / "hadolint"


def lint(file):
    return subprocess.run([HADOLINT, file], capture_output=True, text=True, check=False)


def test_the_linter_has_nothing_to_say():
    found = lint(DOCKERFILE)
    assert (found.returncode, found.stdout) == (0, "")


def test_the_linter_sees_what_is_wrong(tmp_path):
    wrong = tmp_path / "Dockerfile"
    wrong.write_text(DOCKERFILE.read_text().replace("WORKDIR /src", "RUN cd src").replace("slim-bookworm", "latest"))
    assert lint(wrong).returncode == 1


def test_what_it_copies_is_there_and_is_all_that_is_sent_to_the_builder():
    copied = set()
    for sources in re.findall(r"^COPY (?!--from)(?:--\S+ )?(.+) \S+$", DOCKERFILE.read_text(), re.MULTILINE):
        copied |= set(sources.split())
    assert all((ROOT / source).exists() for source in copied)
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    assert {line[1:] for line in lines if line.startswith("!")} == copied


def test_it_runs_as_a_user_without_rights_and_knows_every_variant():
    text = DOCKERFILE.read_text()
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
    extras = re.search(r"case .*?esac", text, re.DOTALL)[0]
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert re.findall(r"([\w-]+)\) extras=", extras) == ["cpu", "cuda", "tpu", "cpu-ray", "cuda-ray", "tpu-ray"]
    for extra in re.findall(r'extras="\[(\w+)\]"', extras):
        assert re.search(rf"^{extra} = \[", pyproject, re.MULTILINE)


@pytest.fixture
def serving():
    """Starts servers of health alone."""
    servers = []

    def start(status, credentials=None):
        server = grpc.server(ThreadPoolExecutor(2))
        servicer = health.HealthServicer()
        servicer.set("", status)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        if credentials is None:
            port = server.add_insecure_port("127.0.0.1:0")
        else:
            port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        servers.append(server)
        return f"127.0.0.1:{port}"

    yield start
    for server in servers:
        server.stop(0).wait()


def probe(*args):
    command = [sys.executable, str(ROOT / "deploy" / "probe.py"), *map(str, args)]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return found.returncode, found.stderr


def test_the_probe_says_whether_a_server_serves(serving):
    up = serving(health_pb2.HealthCheckResponse.SERVING)
    down = serving(health_pb2.HealthCheckResponse.NOT_SERVING)
    assert probe("--target", up) == (0, "")
    assert probe("--target", down) == (1, f"{down}: NOT_SERVING\n")
    code, said = probe("--target", up, "--service", "no.such.Service")
    assert code == 1
    assert "NOT_FOUND" in said


def test_the_probe_goes_by_the_name_in_a_certificate(serving, tmp_path):
    ca = trustme.CA()
    certificate = ca.issue_cert("rcjax")
    chain = b"".join(pem.bytes() for pem in certificate.cert_chain_pems)
    credentials = grpc.ssl_server_credentials([(certificate.private_key_pem.bytes(), chain)])
    target = serving(health_pb2.HealthCheckResponse.SERVING, credentials)
    ca_file = tmp_path / "ca.crt"
    ca.cert_pem.write_to_path(ca_file)
    assert probe("--target", target, "--ca", ca_file, "--name", "rcjax") == (0, "")
    code, said = probe("--target", target, "--ca", ca_file, "--name", "other", "--timeout-s", 2)
    assert code == 1
    assert "UNAVAILABLE" in said
